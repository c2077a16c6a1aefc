#!/usr/bin/env bash
# Lints the protocol files with buf, and compares them with the last release. buf is put below the target directory. It is
# not needed: without npm or the network this says so and checks nothing.
set -euo pipefail

version=1.75.0
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
directory="${CARGO_TARGET_DIR:-$here/../target}/buf"

say() {
    echo "buf: $*" >&2
}

install_buf() {
    [[ -e "$directory/done" && "$(<"$directory/done")" == "$version" ]] && return
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        say "node or npm is missing, so the protocol files are not linted"
        return 1
    fi
    rm -rf "$directory"
    mkdir -p "$directory"
    echo '{ "private": true }' >"$directory/package.json"
    local install=(npm install --save-exact --ignore-scripts --no-audit --no-fund --fetch-retries=1
        --loglevel=error "@bufbuild/buf@$version")
    if (cd "$directory" && timeout 120 "${install[@]}" </dev/null >npm.log 2>&1); then
        echo "$version" >"$directory/done"
    else
        say "npm could not install buf, see $directory/npm.log; the protocol files are not linted"
        return 1
    fi
}

install_buf || exit 0
buf="$(cd "$directory" && pwd)/node_modules/.bin/buf"
cd "$here"
"$buf" lint
"$buf" format --diff --exit-code
# Before the first release there is nothing to compare with, and a shallow clone has no tags.
if release="$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null)"; then
    "$buf" breaking --against "../.git#ref=$release,subdir=proto"
    echo "nothing that $release promised is broken"
fi
echo "buf $version: nothing to complain about"
