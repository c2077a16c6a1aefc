// Asks @confio/ics23 about proofs of the state tree. Reads a JSON file with `spec` and `cases`, each a
// `root`, a `key`, a `proof` and a `value`, or none if the key is said to be absent; bytes are
// hexadecimal. Writes a JSON list of verdicts, in order.
"use strict";

const { readFileSync } = require("fs");
const { ics23, verifyMembership, verifyNonMembership } = require("@confio/ics23");

const bytes = (text) => Uint8Array.from(Buffer.from(text, "hex"));

const { spec: specBytes, cases } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const spec = ics23.ProofSpec.decode(bytes(specBytes));

function judge({ root, key, value, proof: proofBytes }) {
  let proof;
  try {
    proof = ics23.CommitmentProof.decode(bytes(proofBytes));
  } catch {
    return false;
  }
  // Both answer false instead of throwing, but for proofs that lack what they take for granted.
  try {
    return value === null
      ? verifyNonMembership(proof, spec, bytes(root), bytes(key))
      : verifyMembership(proof, spec, bytes(root), bytes(key), bytes(value));
  } catch {
    return false;
  }
}

process.stdout.write(JSON.stringify(cases.map(judge)));
