"""A second verifier of what the ledger proves, written from `docs/verification-format.md`.

Owns nothing but the checks: every function takes bytes and what its caller trusts, and either
answers or raises `Refused`. Must never read a clock, a file or the network; the two commands beside
this package do that.
"""
