"""Ed25519 as the format wants it: without cofactor, and strictly.

The signature itself is checked by the `cryptography` package, which refuses a scalar that is not
reduced and compares the nonce point exactly, but lets keys and nonce points of small order pass.
Those are refused here, by the arithmetic of the curve. Nothing in this file handles a secret.
"""

from __future__ import annotations

from typing import Optional

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32

PRIME = 2**255 - 19
CURVE_D = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME
_ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)

# Affine coordinates of a point.
Point = tuple[int, int]


def decode_point(data: bytes) -> Optional[Point]:
    """The point that 32 bytes name, or nothing if there is none on the curve."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, (number & (2**255 - 1)) % PRIME
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, PRIME - 2, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * _ROOT_OF_MINUS_ONE % PRIME
    if x * x % PRIME != square:
        return None
    return ((PRIME - x) % PRIME if x & 1 != sign else x, y)


def has_small_order(point: Point) -> bool:
    """Whether eight times the point is the neutral one, which has the coordinates 0 and 1."""
    x, y, z = point[0], point[1], 1
    for _ in range(3):
        # Doubling with a common denominator z, which saves the inversions.
        both, x_square, y_square = (x + y) ** 2, x * x, y * y
        sum_of_squares = (y_square - x_square) % PRIME
        rest = (sum_of_squares - 2 * z * z) % PRIME
        x = (both - x_square - y_square) * rest % PRIME
        y = sum_of_squares * (-x_square - y_square) % PRIME
        z = sum_of_squares * rest % PRIME
    return x == 0 and y == z


def verifies(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is a signature of the key over the message."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    for encoded in (public_key, signature[:32]):
        point = decode_point(encoded)
        if point is None or has_small_order(point):
            return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
