#!/usr/bin/env bash
# Runs everything that must hold. Works from any directory, without a terminal, on a machine that has Rust and a C
# compiler; other programs that tests need are installed from Debian's packages and PyPI, only where they are missing.
#
#   tests/run.sh          what CI runs
#   tests/run.sh --long   more rounds of kill -9, and the slow tests in a release build
set -euo pipefail

usage() {
    echo "usage: tests/run.sh [--long]" >&2
    exit 2
}

long=false
for argument in "$@"; do
    case $argument in
        --long) long=true ;;
        *) usage ;;
    esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
case $target in
    /*) ;;
    *) target=$PWD/$target ;;
esac
export CARGO_TARGET_DIR=$target CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p "$target"

current="nothing yet"
steps=0
# Whatever ends the script, its last line says how.
finish() {
    local status=$?
    if ((status == 0)); then
        echo "run.sh: all $steps steps passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
    else
        echo "run.sh: FAILED: $current (exit code $status, after $((SECONDS / 60)) min $((SECONDS % 60)) s)" >&2
    fi
}
trap finish EXIT

step() {
    current=$1
    shift
    local begun=$SECONDS
    echo "run.sh: $current"
    "$@"
    steps=$((steps + 1))
    echo "run.sh: $current: passed in $((SECONDS - begun)) s"
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# Debian packages that are missing. The service of a server that comes with one is not started: its tests start their own,
# on their own ports.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    local policy=/usr/sbin/policy-rc.d
    local added=false
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
        added=true
    fi
    local status=0
    as_root apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
            "${missing[@]}" || status=$?
    if $added; then as_root rm -f $policy; fi
    return $status
}

prepare_prometheus() {
    if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
        install_packages prometheus
    fi
    prometheus --version 2>&1 | head -n 1
}

venv=$target/wechatpy-venv
prepare_wechatpy() {
    "$venv/bin/python" -c 'import wechatpy' 2>/dev/null && return
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages python3 python3-venv
    fi
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'wechatpy[cryptography]'
}

# What is shipped for Prometheus, as Prometheus itself reads it.
check_deploy() {
    promtool check config deploy/prometheus/prometheus.yml
    promtool check rules --lint=all --lint-fatal deploy/prometheus/kfwatch.rules.yml
    promtool test rules tests/prometheus/*.test.yml
}

demo() {
    local events
    events=$("$target/debug/kfwatch" demo --for 5s --listen 127.0.0.1:0 | wc -l)
    echo "$events events"
    ((events > 0))
}

step "formatting" cargo fmt --check
step "clippy" cargo clippy --all-targets --locked --quiet -- -D warnings
step "documentation" env RUSTDOCFLAGS=-Dwarnings \
    cargo doc --no-deps --document-private-items --locked --quiet
step "tests" cargo test --locked --quiet
step "demo" demo
step "preparation of Prometheus" prepare_prometheus
step "preparation of wechatpy" prepare_wechatpy
step "deploy/" check_deploy
step "tests with Prometheus" cargo test --locked --quiet --test monitoring -- --ignored
step "tests with wechatpy" env KFWATCH_TEST_PYTHON="$venv/bin/python" \
    cargo test --locked --quiet --test simulator -- --ignored
step "benchmarks compile" cargo bench --no-run --locked --quiet

if $long; then
    step "many kill rounds" env KFWATCH_KILL_ROUNDS="${KFWATCH_KILL_ROUNDS:-1000}" \
        cargo test --locked --release --quiet --test conservation
    step "slow tests of operation" cargo test --locked --quiet --test operations --test schedule -- --ignored
    step "slow tests of the store" cargo test --locked --release --quiet --test store -- --ignored
fi
