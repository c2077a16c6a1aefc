"""What tests ask of a check: why does it refuse?"""

from __future__ import annotations

from collections.abc import Callable

from ledger_verifier.wire import Refused


def reason(check: Callable[..., object], *arguments: object) -> str:
    """The reasons of the refusal, joined by dots; empty if nothing is refused."""
    try:
        check(*arguments)
    except Refused as refused:
        return ".".join(refused.kinds())
    return ""
