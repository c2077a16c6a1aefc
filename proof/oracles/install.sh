#!/usr/bin/env bash
# Puts the verifiers of other people that tests ask besides ours below the target directory, and what the
# second verifier needs. They are not needed: without npm, a Python or the network it says so, and the tests that ask leave them out.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
oracles="${CARGO_TARGET_DIR:-$here/../../target}/oracles"
# Long enough for a slow line, short enough to start without one.
patience=(timeout 120)

say() {
    echo "oracles: $*" >&2
}

# Whether what is installed in directory $1 is what the file $2 asks for.
is_installed() {
    cmp --silent "$here/$2" "$1/$2" && [[ -e "$1/done" ]]
}

install_node() {
    local directory="$oracles/node"
    is_installed "$directory" package-lock.json && return
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        say "node or npm is missing, so @confio/ics23 is left out"
        return
    fi
    rm -rf "$directory"
    mkdir -p "$directory"
    cp "$here/package.json" "$here/package-lock.json" "$directory"
    local install=(npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1
        --loglevel=error)
    if (cd "$directory" && "${patience[@]}" "${install[@]}" </dev/null >npm.log 2>&1); then
        touch "$directory/done"
    else
        say "npm could not install @confio/ics23, see $directory/npm.log"
    fi
}

install_python() {
    local directory="$oracles/python" python
    is_installed "$directory" requirements.txt && return
    python="$("$here/../../xtask/find-python.sh")"
    if [[ -z "$python" ]]; then
        say "there is no Python 3.11 or later with pip, so pymerkle and aics-tlog are left out"
        return
    fi
    rm -rf "$directory"
    mkdir -p "$directory"
    cp "$here/requirements.txt" "$directory"
    echo "$python" >"$directory/interpreter"
    local install=("$python" -m pip install --quiet --disable-pip-version-check --no-input --retries 1
        --no-deps --only-binary :all: --target "$directory/packages"
        --requirement "$directory/requirements.txt")
    if "${patience[@]}" "${install[@]}" </dev/null >"$directory/pip.log" 2>&1; then
        touch "$directory/done"
    else
        say "pip could not install pymerkle and aics-tlog, see $directory/pip.log"
    fi
}

# The second verifier, proof/python/, needs one package beside the standard library.
install_second_verifier() {
    local directory="$oracles/../python" needs='from cryptography.hazmat.primitives.asymmetric import ed25519'
    python3 -c "$needs" 2>/dev/null && return
    "$directory/bin/python3" -c "$needs" 2>/dev/null && return
    if ! command -v python3 >/dev/null; then
        say "there is no python3, so the second verifier is left out"
        return
    fi
    mkdir -p "$directory"
    local install=("$directory/bin/python3" -m pip install --quiet --disable-pip-version-check --no-input
        --retries 1 --requirement "$here/../python/requirements.txt")
    if ! { "${patience[@]}" python3 -m venv "$directory" && "${patience[@]}" "${install[@]}"; } \
        </dev/null >"$directory/pip.log" 2>&1; then
        say "pip could not install what the second verifier needs, see $directory/pip.log"
    fi
}

install_node
install_python
install_second_verifier
