# Tests the image: checks the Dockerfile, and runs the file system that it copies in a chroot as the user of the container.
# Needs no container engine, but root for the chroot.
#
#   image.sh [BINARY]    target/debug/kfwatch unless given
. tests/lib.sh
command -v openssl >/dev/null || install_packages openssl
test -e /etc/ssl/certs/ca-certificates.crt || install_packages ca-certificates
test -d /usr/share/zoneinfo || install_packages tzdata

binary=${1:-$target/debug/kfwatch}
work=$(mktemp -d "$target/image.XXXXXX")
tree=$work/rootfs
children=()
cleanup() {
    for child in "${children[@]}"; do
        kill "$child" 2>/dev/null || true
    done
    as_root rm -rf "$work"
}
trap cleanup EXIT

fail() {
    echo "image.sh: $1" >&2
    exit 1
}

# Waits for a line that a background program writes to a file.
line_of() {
    for _ in $(seq 100); do
        if [[ -s $1 ]]; then
            head -n 1 "$1"
            return
        fi
        sleep 0.1
    done
    fail "nothing in $1"
}

# Runs kfwatch in the image for at most ten seconds, without the variables of this shell.
in_image() {
    as_root env -i "${variables[@]}" timeout --foreground --preserve-status --signal=TERM "${seconds:-10}" \
        /usr/sbin/chroot --userspec=65532:65532 "$tree" /usr/bin/kfwatch "$@"
}
variables=()

# The build context has all files that cargo needs to load the package.
mkdir "$work/context"
sed -n 's/^!//p' deploy/docker/Dockerfile.dockerignore | xargs -I{} cp -R --parents {} "$work/context"
cargo metadata --locked --no-deps --format-version 1 --manifest-path "$work/context/Cargo.toml" >/dev/null

# It also has the files that the program includes. Tests include others.
grep -rE '^(pub(\([a-z]+\))? )?(const|static) .*include_(str|bytes)!\("' src | sed -E 's/^([^:]*):.*include_[a-z]+!\("([^"]*)".*/\1 \2/' |
    while read -r source included; do
        [[ -e $work/context/$(dirname "$source")/$included ]] || fail "not in the build context: $included of $source"
    done

# With a mirror of crates.io cargo asks the mirror; nothing listens at this one. Without one there is no configuration.
mkdir "$work/cargo"
crates_script=$("$venv/bin/python" tests/python/image.py script CRATES_MIRROR)
CRATES_MIRROR='' CARGO_HOME=$work/cargo sh -c "$crates_script"
[[ -z $(ls "$work/cargo") ]] || fail "a configuration of cargo without a mirror"
CRATES_MIRROR=sparse+http://127.0.0.1:1/index/ CARGO_HOME=$work/cargo sh -c "$crates_script"
said=$(CARGO_HOME=$work/cargo CARGO_NET_RETRY=0 cargo fetch --locked --manifest-path "$work/context/Cargo.toml" 2>&1) &&
    fail "cargo does not use the mirror"
[[ $said == *http://127.0.0.1:1/index/config.json* ]] || fail "cargo does not use the mirror: $said"

as_root sh "$work/context/deploy/docker/rootfs.sh" "$binary" "$tree"
echo "the tree: $(as_root du -sm "$tree" | cut -f1) MB, of which kfwatch $(du -m "$binary" | cut -f1) MB"
as_root "$venv/bin/python" tests/python/image.py check "$tree"

# The user can write only to its data and to /tmp.
writable=$(as_root find "$tree" ! -type l \( -uid 65532 -o -gid 65532 -o -perm /o+w -o -perm /u+s,g+s \) -printf '/%P\n' | sort)
[[ $writable == $'/tmp\n/var/lib/kfwatch' ]] || fail "not only these belong to the user: $writable"

events=$(in_image demo --for 5s --listen 127.0.0.1:0 2>"$work/demo.log" | wc -l) || true
((events > 0)) || fail "the demo had no events: $(cat "$work/demo.log")"
echo "the demo: $events events"

# A WeChat simulator with TLS, at a name that only the image's own files resolve, with a certificate that only its own bundle
# trusts.
openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=Test CA" -days 2 \
    -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=api.weixin.test" -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile <(echo "subjectAltName = DNS:api.weixin.test") -out "$work/server.pem" 2>/dev/null
"$target/debug/kfwatch" simulate --listen 127.0.0.1:0 >"$work/simulated.toml" 2>"$work/simulator.log" &
children+=($!)
line_of "$work/simulated.toml" >/dev/null
port=$(sed -n 's|^base_url = "http://127.0.0.1:\([0-9]*\)"$|\1|p' "$work/simulated.toml")
python3 tests/python/tls_proxy.py "$work/server.pem" "$work/server.key" "$port" >"$work/proxy.port" &
children+=($!)
tls_port=$(line_of "$work/proxy.port")

{
    sed "s|http://127.0.0.1:$port|https://api.weixin.test:$tls_port|" "$work/simulated.toml"
    cat <<'EOF'
[poll]
schedule = "* * * * * *"
timezone = "Asia/Urumqi"
[web]
listen = "127.0.0.1:0"
[store]
path = "/var/lib/kfwatch/kfwatch.db"
[[sinks]]
name = "archive"
type = "jsonl"
path = "/var/lib/kfwatch/events.jsonl"
EOF
} >"$work/config.toml"
as_root install --owner=65532 --mode=400 "$work/config.toml" "$tree/etc/kfwatch/config.toml"
# A container engine would write this file.
echo "127.0.0.1 api.weixin.test" | as_root tee "$tree/etc/hosts" >/dev/null

in_image check >"$work/check" || fail "check: $(cat "$work/check")"
grep -q "Asia/Urumqi" "$work/check" || fail "no time zone in $(cat "$work/check")"

status=0
in_image check --online >"$work/online" 2>&1 || status=$?
grep -qi "certificate" "$work/online" || fail "an untrusted certificate was accepted ($status): $(cat "$work/online")"
as_root tee -a "$tree/etc/ssl/certs/ca-certificates.crt" <"$work/ca.pem" >/dev/null
status=0
in_image check --online >"$work/online" 2>&1 || status=$?
# 69: some simulated accounts have problems, so kfwatch has queried all of them.
[[ $status == 69 && $(<"$work/online") == *"errcode 65402"* ]] || fail "check --online ($status): $(cat "$work/online")"
echo "HTTPS: the image's own files resolve the name and verify the certificate"

! in_image health 2>"$work/health" || fail "the health check passes without a daemon"
seconds=8 in_image run 2>"$work/run.log" &
daemon=$!
for _ in $(seq 50); do
    in_image health >"$work/health" 2>&1 && break
    sleep 0.1
done
in_image health >"$work/health" 2>&1 || fail "health: $(cat "$work/health")"
echo "the health check passes while the daemon runs, and fails without it"
wait $daemon || fail "run: $(cat "$work/run.log")"
as_root grep -q '"type":"kf.session.started"' "$tree/var/lib/kfwatch/events.jsonl" || fail "no events: $(cat "$work/run.log")"
owners=$(as_root find "$tree/var/lib/kfwatch" -type f -printf '%u %m\n' | sort -u)
[[ $owners == "65532 600" ]] || fail "files of the volume: $owners"

variables=(KFWATCH__STORE__PATH=/kfwatch.db)
status=0
in_image run 2>"$work/run.log" || status=$?
[[ $status == 1 && $(<"$work/run.log") == *"no permission"* ]] || fail "/ is writable ($status): $(cat "$work/run.log")"
echo "the volume is writable, / is not"
