# What tests/run.sh and the scripts in tests/deploy/ share. Sourced, with the repository as working directory.

target=${CARGO_TARGET_DIR:-$PWD/target}
case $target in
    /*) ;;
    *) target=$PWD/$target ;;
esac
export CARGO_TARGET_DIR=$target CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p "$target"

# The programs that tests use from PyPI.
# shellcheck disable=SC2034 # for those who source this
venv=$target/python-venv

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# Installs Debian packages that are missing. The service of a server that comes with one is not started: its tests start
# their own, on their own ports.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    # In a subshell, whose trap removes the file again whatever ends it. Scripts that run at the same time take turns.
    (
        flock 9
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap 'as_root rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
            as_root chmod 755 $policy
        fi
        # Once for a run of all tests.
        if [[ -z $(find "$target/packages.updated" -mmin -60 2>/dev/null) ]]; then
            as_root apt-get -qq update
            touch "$target/packages.updated"
        fi
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}"
    ) 9>"$target/packages.lock"
}

# Installs a tool of cargo into target/tools unless it is there, in the version that is given.
install_tool() {
    PATH=$target/tools/bin:$PATH
    command -v "$1" >/dev/null || cargo install --locked --quiet --root "$target/tools" --version "$2" "$1"
}

# Starts `kfwatch demo` with its log in $2/demo.log, and waits until it serves its pages, at $address. The process is $demo.
start_demo() {
    local binary=$1 log=$2/demo.log attempt
    : >"$log"
    "$binary" demo --listen 127.0.0.1:0 >/dev/null 2>>"$log" &
    demo=$!
    address=
    for ((attempt = 0; attempt < 100; attempt++)); do
        # It prints where it listens.
        address=$(sed -n 's|^ *metrics *\(http://[^/]*\)/metrics$|\1|p' "$log")
        if [[ -n $address ]] && curl --silent --fail --output /dev/null "$address/-/ready"; then return; fi
        sleep 0.1
    done
    { echo "the demo did not serve its pages:"; cat "$log"; } >&2
    return 1
}

# Ends the demo, if one was started.
stop_demo() {
    [[ -n ${demo-} ]] || return 0
    kill "$demo" 2>/dev/null || true
    wait "$demo" 2>/dev/null || true
}
