#!/usr/bin/env bash
# Runs the published clients against the server that `make test` or `make build` has built. Their crates come from the
# registry; where it is out of reach and they were never fetched, this says so and is left out. Asks nothing.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$here/../.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
manifest=(--manifest-path "$here/Cargo.toml" --locked)

if ! cargo fetch "${manifest[@]}" --offline >/dev/null 2>&1 &&
    ! said="$(timeout 300 cargo fetch "${manifest[@]}" 2>&1)"; then
    echo "$said" >&2
    # A lockfile that does not fit is a mistake, and no network's fault.
    [[ $said != *"lock file"* ]] || exit 1
    echo "interop: the published clients cannot be fetched, so they are left out" >&2
    exit
fi
TMPDIR="$("$root/xtask/test-directory.sh")" cargo test "${manifest[@]}"
