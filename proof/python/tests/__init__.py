"""Tests of the verifier on its own. Run from the repository's root:
`python3 -m unittest discover -s proof/python/tests -t proof/python`.
"""
