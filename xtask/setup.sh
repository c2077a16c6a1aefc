#!/usr/bin/env bash
# Checks for the tools that building needs, and installs what is missing where it may: as root on a
# system with apt-get. Elsewhere it says what to install and fails. Asks nothing. Also makes a Python
# environment below the target directory for the second verifier, if it can; that never fails.
set -euo pipefail

# Where bindgen looks for the library when LIBCLANG_PATH does not say.
has_libclang() {
    local directories=() directory library
    if [[ -n "${LIBCLANG_PATH:-}" ]]; then
        [[ -f "$LIBCLANG_PATH" ]] && return 0
        directories+=("$LIBCLANG_PATH")
    fi
    if command -v llvm-config >/dev/null; then
        directories+=("$(llvm-config --libdir)")
    fi
    directories+=(/usr/lib /usr/lib64 /usr/local/lib /usr/lib/*-linux-gnu /usr/lib/llvm*/lib
        /usr/local/opt/llvm/lib /opt/homebrew/opt/llvm/lib
        /Library/Developer/CommandLineTools/usr/lib)
    for directory in "${directories[@]}"; do
        for library in "$directory"/libclang.so* "$directory"/libclang-[0-9]*.so* \
            "$directory"/libclang.dylib; do
            [[ -e "$library" ]] && return 0
        done
    done
    return 1
}

missing_packages() {
    has_libclang || echo libclang-dev
    command -v protoc >/dev/null || echo protobuf-compiler
    command -v g++ >/dev/null || command -v clang++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install --yes --quiet=2 --no-install-recommends "$@")
    # The lists of a fresh image are empty; refreshing them takes a while, so try without first.
    "${install[@]}" </dev/null >/dev/null 2>&1 || {
        apt-get update --quiet=2 </dev/null
        "${install[@]}" </dev/null >/dev/null
    }
}

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is not on PATH. Install Rust 1.95 or later with rustup, then try again." >&2
    exit 1
fi

mapfile -t missing < <(missing_packages)
if ((${#missing[@]} > 0)) && ((EUID == 0)) && command -v apt-get >/dev/null; then
    echo "setup: installing ${missing[*]}" >&2
    install_packages "${missing[@]}" || true
    mapfile -t missing < <(missing_packages)
fi
if ((${#missing[@]} > 0)); then
    {
        echo "setup: the build needs what these Debian packages hold: ${missing[*]}"
        echo "setup: on Debian or Ubuntu: sudo apt-get install ${missing[*]}"
        echo "setup: if libclang lies in an unusual place, set LIBCLANG_PATH to its directory"
    } >&2
    exit 1
fi

# RocksDB is compiled from source once per target directory.
target_directory="${CARGO_TARGET_DIR:-}"
if [[ -n "$target_directory" ]] &&
    ! compgen -G "$target_directory/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
    echo "setup: the first build compiles RocksDB's C++, about 15 minutes on two cores;" \
        "later builds reuse it from $target_directory" >&2
fi
