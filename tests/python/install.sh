#!/usr/bin/env bash
# Puts gRPC for Python below the target directory, for the clients of tests/python/ and examples/python/. It is not needed:
# without a Python or the network it says so, and the tests that run those clients leave them out.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$here/../.."
directory="${CARGO_TARGET_DIR:-$root/target}/clients/python"
# Long enough for a slow line, short enough to start without one.
patience=(timeout 180)

say() {
    echo "python clients: $*" >&2
}

cmp --silent "$here/requirements.txt" "$directory/requirements.txt" && [[ -e "$directory/done" ]] && exit
python="$("$root/xtask/find-python.sh")"
if [[ -z "$python" ]]; then
    say "there is no Python 3.11 or later with pip, so they are left out"
    exit
fi
rm -rf "$directory"
mkdir -p "$directory"
cp "$here/requirements.txt" "$directory"
echo "$python" >"$directory/interpreter"
install=("$python" -m pip install --quiet --disable-pip-version-check --no-input --retries 1
    --no-deps --only-binary :all: --target "$directory/packages"
    --requirement "$directory/requirements.txt")
if "${patience[@]}" "${install[@]}" </dev/null >"$directory/pip.log" 2>&1; then
    touch "$directory/done"
else
    say "pip could not install gRPC, see $directory/pip.log"
fi
