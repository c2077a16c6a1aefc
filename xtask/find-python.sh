#!/usr/bin/env bash
# Prints the path of a Python that runs and has pip: one of 3.12 or later if there is one, else 3.11. Prints nothing if
# there is neither.
set -euo pipefail

for least in 12 11; do
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[1-9].*/bin/python3; do
        "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $least)); import pip" \
            >/dev/null 2>&1 || continue
        "$candidate" -c "import sys; print(sys.executable)"
        exit
    done
done
