#!/usr/bin/env bash
# Fuzzes everything that reads bytes from outside, two targets at a time, from the seeds in fuzz/seeds. An input that makes a
# target panic, take more than ten seconds or take too much memory fails the script and stays in target/fuzz/.
#
#   tests/fuzz.sh                             every target for a few seconds
#   tests/fuzz.sh --build                     only builds the targets
#   KFWATCH_FUZZ_RUNS=1000000 tests/fuzz.sh   every target with so many inputs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/lib.sh

cargo_fuzz_version=0.13.2

# libFuzzer is written in C++.
command -v g++ >/dev/null || install_packages g++
install_tool cargo-fuzz "$cargo_fuzz_version"
PATH=$target/tools/bin:$PATH

# clippy of the whole program leaves these out.
cargo clippy --package kfwatch-fuzz --all-targets --locked --quiet -- -D warnings

# Without a sanitizer, which only nightly Rust has: the code is safe Rust, so panics and hangs are what can happen. Barely
# optimized: more takes minutes to build.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1
CARGO_TERM_QUIET=true cargo fuzz build --sanitizer none --codegen-units 16 --target-dir "$target/fuzz-build"
programs=$(echo "$target"/fuzz-build/*/release)
if [[ ${1-} == --build ]]; then exit; fi

limits=(-max_total_time="${KFWATCH_FUZZ_SECONDS:-5}")
if [[ -n ${KFWATCH_FUZZ_RUNS-} ]]; then limits=(-runs="$KFWATCH_FUZZ_RUNS"); fi

fuzz() {
    local name=$1 directory=$target/fuzz/$1 begun=$SECONDS
    mkdir -p "$directory"
    "$programs/$name" "$directory" "fuzz/seeds/$name" "${limits[@]}" -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$directory-" >"$directory.log" 2>&1 || {
        tail -n 40 "$directory.log"
        echo "fuzz.sh: $name: FAILED"
        return 1
    }
    echo "fuzz.sh: $name: $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$directory.log") inputs in $((SECONDS - begun)) s"
}

# In memory, because some targets write a file for each input. A single CA certificate, because to read those of the system
# takes longer than all else.
mkdir -p "$target/fuzz/no-certificates"
export SSL_CERT_FILE=$PWD/fuzz/ca.pem SSL_CERT_DIR=$target/fuzz/no-certificates
if [[ -w /dev/shm ]]; then export TMPDIR=/dev/shm; fi

failed=false
while read -r name other; do
    fuzz "$name" &
    first=$!
    if [[ -n $other ]]; then fuzz "$other" || failed=true; fi
    wait "$first" || failed=true
done < <(cargo fuzz list | paste -d' ' - -)
! $failed
