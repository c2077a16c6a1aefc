#!/usr/bin/env bash
# Prints where tests keep their temporary files. In memory if there is plenty of it: the tests start hundreds of
# servers that sync every write, and a slow disk would make them wait for elections that no test is about.
# What a loss of power leaves behind is tested on file systems of the tests' own, wherever this is.
set -euo pipefail

need_kib=$((8 << 20))
memory=/dev/shm

free_kib() {
    df --output=avail -k "$memory" | tail -n 1
}

available_kib() {
    awk '/^MemAvailable:/ { print $2 }' /proc/meminfo
}

if [[ -n "${TMPDIR:-}" ]]; then
    echo "$TMPDIR"
elif [[ -d $memory && -w $memory ]] && (($(free_kib) >= need_kib && $(available_kib) >= need_kib)); then
    echo "$memory"
else
    echo /tmp
fi
