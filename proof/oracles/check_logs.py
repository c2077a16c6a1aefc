"""Asks Python libraries about block logs, transaction trees and notes.

Reads a JSON file. `trees` is a list of trees: `leaves` in hexadecimal, and claims of `inclusion` (size,
index, leaf, path, root) and `consistency` (old, new, old_root, root, path). `notes` is a list of claims
that a note counts (text, origin, log key, cosigners, quorum, now, oldest age, skew). Writes, for each
library that is installed, the roots that it computes for every size of a tree and a verdict on each
claim, in order; on a note it is what is wrong, or null.
"""

import json
import sys


def digests(hashes):
    return [bytes.fromhex(text) for text in hashes]


def judge_with_aics_tlog(question):
    import aics_tlog

    def tree(claims):
        mine = aics_tlog.MerkleTree(digests(claims["leaves"]))
        leaf_hashes = [aics_tlog.leaf_hash(leaf) for leaf in digests(claims["leaves"])]

        def inclusion(claim):
            size, index, leaf, path, root = claim
            path = digests(path)
            return aics_tlog.verify_inclusion(
                leaf_hashes[leaf], index, size, path, bytes.fromhex(root)
            )

        def consistency(claim):
            old, new, old_root, root, path = claim
            roots = digests([old_root, root])
            return aics_tlog.verify_consistency(old, new, *roots, digests(path))

        return {
            "roots": [mine.root(size).hex() for size in range(len(leaf_hashes) + 1)],
            "inclusion": [inclusion(claim) for claim in claims["inclusion"]],
            "consistency": [consistency(claim) for claim in claims["consistency"]],
        }

    def note(claim):
        def key(name, public_key, kind):
            return aics_tlog.vkey_from_ed25519(name, bytes.fromhex(public_key), key_type=kind)

        try:
            result = aics_tlog.verify_checkpoint(
                aics_tlog.parse_note(claim["text"]),
                key(claim["origin"], claim["log_key"], 1),
                [key(name, public_key, 4) for name, public_key in claim["cosigners"]],
                claim["quorum"],
                expected_origin=claim["origin"],
                max_age_seconds=claim["max_age"],
                max_future_seconds=claim["skew"],
                now=claim["now"],
            )
        except ValueError as error:
            return str(error)
        return None if result.ok else result.error

    return {
        "trees": [tree(claims) for claims in question["trees"]],
        "notes": [note(claim) for claim in question["notes"]],
    }


def judge_with_pymerkle(question):
    import pymerkle

    def tree(claims):
        mine = pymerkle.InmemoryTree(algorithm="sha256")
        for leaf in digests(claims["leaves"]):
            mine.append_entry(leaf)

        def inclusion(claim):
            # It counts leaves from one, and its paths begin with the leaf. Its rule for a place and a
            # size is its own; the hashes are those of the claim.
            size, index, leaf, path, root = claim
            if not 0 <= index < size <= len(claims["leaves"]):
                return False
            leaf_hash = mine.get_leaf(leaf + 1)
            proof = mine.prove_inclusion(index + 1, size)
            proof.path = [leaf_hash] + digests(path)
            try:
                pymerkle.verify_inclusion(
                    leaf_hash, bytes.fromhex(root), proof, index=index + 1, size=size
                )
            except pymerkle.InvalidProof:
                return False
            return True

        return {
            "roots": [mine.get_state(size).hex() for size in range(len(claims["leaves"]) + 1)],
            "inclusion": [inclusion(claim) for claim in claims["inclusion"]],
        }

    # Its consistency proofs have another form, and it knows no notes.
    return {"trees": [tree(claims) for claims in question["trees"]]}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        question = json.load(file)
    answers = {}
    judges = {"aics-tlog": judge_with_aics_tlog, "pymerkle": judge_with_pymerkle}
    for name, judge in judges.items():
        try:
            answers[name] = judge(question)
        except ModuleNotFoundError as missing:
            answers[name] = None
            print(f"{name}: {missing}", file=sys.stderr)
    json.dump(answers, sys.stdout)


main()
