#!/usr/bin/env bash
# Builds the verification side for WebAssembly and runs it in Node on golden vectors. What it needs and
# cannot have (the target of rustc, Node, the network to fetch the target) makes it say so and succeed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=wasm32-unknown-unknown
target_directory="${CARGO_TARGET_DIR:-target}"
# Long enough for a slow line, short enough to start without one.
patience=(timeout 120)

skip() {
    echo "wasm: skipped, $*" >&2
    exit 0
}

has_target() {
    [[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]]
}

if ! has_target; then
    command -v rustup >/dev/null || skip "rustc has no $target and there is no rustup to add it"
    "${patience[@]}" rustup target add "$target" </dev/null || true
    has_target || skip "rustup could not add $target"
fi
cargo build --release --locked --target "$target" \
    -p ledger-types -p ledger-proof -p ledger-wasm-check
command -v node >/dev/null || skip "built, but there is no node to run it in"
node proof/wasm/check.mjs "$target_directory/$target/release/ledger-wasm-check.wasm"
