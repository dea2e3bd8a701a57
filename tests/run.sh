#!/usr/bin/env bash
# Runs everything that must hold. Works from any directory, without a terminal, on a machine that has Rust and a C
# compiler; other programs that tests need are installed from Debian's packages and PyPI, only where they are missing.
#
#   tests/run.sh          what CI runs
#   tests/run.sh --long   more rounds of kill -9, half an hour of soak, and the slow tests in a release build
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
. tests/lib.sh

cargo_deny_version=0.20.2
cargo_machete_version=0.9.2

current="nothing yet"
background=
steps=0
# Whatever ends the script, its last line says how.
finish() {
    local status=$?
    if [[ -n $background ]]; then kill -- "-$background" 2>/dev/null || true; fi
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

prepare_prometheus() {
    { command -v prometheus && command -v promtool; } >/dev/null || install_packages prometheus
    { command -v prometheus-alertmanager && command -v amtool; } >/dev/null || install_packages prometheus-alertmanager
    command -v victoria-metrics >/dev/null || install_packages victoria-metrics
    prometheus --version 2>&1 | head -n 1
    prometheus-alertmanager --version 2>&1 | head -n 1
}

# One of the receivers of deploy/webhook needs it.
prepare_node() {
    command -v node >/dev/null || install_packages nodejs
    node --version
}

# Each test starts a server of its own.
prepare_nats() {
    install_packages nats-server
    PATH=$PATH:/usr/sbin nats-server --version
}

# Each run starts a server of its own.
prepare_postgresql() {
    install_packages postgresql
    ls -d /usr/lib/postgresql/*
}

# Pictures of dashboards show Chinese nicknames.
prepare_python() {
    install_packages fonts-noto-cjk
    cmp --quiet tests/python/requirements.txt "$venv/requirements.txt" && return
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/python/requirements.txt
    cp tests/python/requirements.txt "$venv/"
}

# Each script checks one part of deploy/ with the programs that read it. They mostly wait, so three run at a time. The output
# of each is printed when it ends.
check_deploy() {
    # shellcheck disable=SC2016 # the inner shell expands it
    printf '%s\n' "$@" | xargs --max-procs=3 -I{} bash -c '
        status=0
        output=$(bash -euo pipefail "$1" 2>&1) || status=$?
        printf "run.sh: %s\n%s\n" "$1" "$output"
        if ((status != 0)); then echo "run.sh: $1: FAILED (exit code $status)"; fi
        exit "$status"' _ {}
}

# Runs the tests of these modules that `cargo test` leaves out, because they need other programs or much time.
ignored_tests() {
    cargo test --locked --quiet --test it -- "${@/%/::}" --ignored
}

# What computes for minutes runs in the background, while other steps mostly wait. In a process group of its own, so that it can be
# ended.
start_background() {
    set -m
    nice bash -euo pipefail -c 'tests/fuzz.sh; tests/instructions.sh' >"$target/background.log" 2>&1 &
    background=$!
    set +m
}

finish_background() {
    local status=0
    wait "$background" || status=$?
    background=
    cat "$target/background.log"
    return "$status"
}

# deny.toml says what is allowed. Advisories need the network; without it they are skipped.
check_dependencies() {
    install_tool cargo-deny "$cargo_deny_version"
    cargo deny --locked check bans licenses sources
    if cargo deny --locked fetch db 2>/dev/null; then
        cargo deny --locked check --disable-fetch advisories
    else
        echo "run.sh: SKIPPED: the database of advisories cannot be fetched"
    fi
}

unused_dependencies() {
    install_tool cargo-machete "$cargo_machete_version"
    cargo machete
}

demo() {
    local events
    events=$("$target/debug/kfwatch" demo --for 5s --listen 127.0.0.1:0 | wc -l)
    echo "$events events"
    ((events > 0))
}

# Most tests wait for a process, or for the clock, more than they work: with one for each core the cores stand idle.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-8}

step "formatting" cargo fmt --all --check
step "preparation of Python" prepare_python
step "spelling" "$venv/bin/typos"
step "clippy" cargo clippy --all-targets --locked --quiet -- -D warnings
step "documentation" env RUSTDOCFLAGS=-Dwarnings \
    cargo doc --no-deps --document-private-items --locked --quiet
step "preparation of Node" prepare_node
step "compiling the tests" cargo test --locked --quiet --no-run
start_background
step "tests" cargo test --locked --quiet
step "demo" demo
step "preparation of Prometheus, Alertmanager and VictoriaMetrics" prepare_prometheus
step "deploy/" check_deploy tests/deploy/*.sh
export KFWATCH_TEST_PYTHON=$venv/bin/python
step "preparation of NATS" prepare_nats
step "preparation of PostgreSQL" prepare_postgresql
# All at once, because they mostly wait: monitoring, alerting and dashboards need Prometheus, simulator needs wechatpy, delivery the
# CloudEvents SDK.
step "tests with other programs" tests/with_postgres.sh cargo test --locked --quiet --test it -- \
    monitoring:: alerting:: dashboards:: simulator:: delivery:: nats:: store::postgres:: cluster:: --ignored
# In the profile of the tests: an optimized build takes minutes and shows no more.
step "benchmarks compile" cargo build --benches --locked --quiet
step "fuzzing, and instructions of the hot functions" finish_background

if $long; then
    step "dependencies: licenses, sources, duplicates" check_dependencies
    step "dependencies that nothing uses" unused_dependencies
    step "fuzzing with many inputs" env KFWATCH_FUZZ_RUNS="${KFWATCH_FUZZ_RUNS:-1000000}" tests/fuzz.sh
    step "deploy/, whole images and packages" check_deploy tests/deploy/long/*.sh
    step "many kill rounds" env KFWATCH_KILL_ROUNDS="${KFWATCH_KILL_ROUNDS:-1000}" \
        cargo test --locked --release --quiet --test it -- conservation:: --skip delivery_faults::
    step "many rounds of delivery" env KFWATCH_DELIVERY_ROUNDS="${KFWATCH_DELIVERY_ROUNDS:-500}" \
        cargo test --locked --release --quiet --test it -- delivery_faults::
    step "many rounds of delivery to NATS" env KFWATCH_DELIVERY_ROUNDS="${KFWATCH_DELIVERY_ROUNDS:-100}" \
        cargo test --locked --release --quiet --test it -- nats:: --ignored
    step "many disturbances of a cluster" env KFWATCH_CLUSTER_ROUNDS="${KFWATCH_CLUSTER_ROUNDS:-1000}" \
        tests/with_postgres.sh cargo test --locked --release --quiet --test it -- cluster:: --ignored
    step "many reloads" env KFWATCH_RELOAD_ROUNDS="${KFWATCH_RELOAD_ROUNDS:-1000}" \
        cargo test --locked --release --quiet --test it -- reload::storm
    step "a sweep of many accounts" env KFWATCH_SWEEP_ACCOUNTS="${KFWATCH_SWEEP_ACCOUNTS:-20000}" \
        cargo test --locked --release --quiet --test sweep
    step "soak" env KFWATCH_SOAK_MINUTES="${KFWATCH_SOAK_MINUTES:-30}" \
        cargo test --locked --release --quiet --test soak -- --ignored --nocapture
    step "messages about ten faults" ignored_tests ten_faults
    step "slow tests of operation" ignored_tests operations schedule
    step "slow tests of the store" cargo test --locked --release --quiet --test it -- store:: --skip store::postgres:: --ignored
fi
