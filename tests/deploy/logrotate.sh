# Runs the real logrotate with the shipped file repeatedly, while a daemon delivers events to the rotated file. Each event of the
# log must be in the files exactly once and in order. Needs root, as logrotate does.
. tests/lib.sh
command -v /usr/sbin/logrotate >/dev/null || install_packages logrotate

rounds=12
kfwatch=$target/debug/kfwatch
work=$(mktemp -d "$target/logrotate.XXXXXX")
children=()
cleanup() {
    for child in "${children[@]}"; do
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    done
    as_root rm -rf "$work"
}
trap cleanup EXIT

fail() {
    echo "logrotate.sh: $1" >&2
    exit 1
}

# Waits up to 15 seconds until a command succeeds.
eventually() {
    for _ in $(seq 300); do
        if "$@"; then return; fi
        sleep 0.05
    done
    fail "never: $*"
}

data=$work/data
mkdir --mode=700 "$data"
# logrotate rejects a file that other users can write. Only the path and the user differ from the shipped file.
sed -e "s|/var/lib/kfwatch/|$data/|" -e "s|su kfwatch kfwatch|su $(id -un) $(id -gn)|" deploy/logrotate/kfwatch >"$work/logrotate.conf"
as_root chown root:root "$work/logrotate.conf"
as_root chmod 644 "$work/logrotate.conf"
rotate() {
    as_root /usr/sbin/logrotate --verbose --state "$work/status" "$@" "$work/logrotate.conf" >>"$work/logrotate.log" 2>&1 ||
        fail "$(cat "$work/logrotate.log")"
}

# Sessions change so fast that every poll has events.
"$kfwatch" simulate --listen 127.0.0.1:0 --load-accounts 20 --load-sessions 20 --load-churn 30 \
    >"$work/config.toml" 2>"$work/simulator.log" &
children+=($!)
eventually test -s "$work/config.toml"
cat >>"$work/config.toml" <<EOF
[poll]
schedule = "* * * * * *"
[web]
listen = "127.0.0.1:0"
[log]
level = "warn"
[store]
path = "$data/kfwatch.db"
[[sinks]]
name = "archive"
type = "jsonl"
path = "$data/events.jsonl"
EOF
chmod 600 "$work/config.toml"

# The file does not exist yet: missingok.
rotate --force
"$kfwatch" run --config "$work/config.toml" 2>"$work/run.log" &
daemon=$!
children+=("$daemon")

rotated() { compgen -G "$data/events.jsonl.*" | wc -l; }
for round in $(seq $rounds); do
    # The daemon creates the file again, with the mode of its configuration.
    eventually test -s "$data/events.jsonl"
    [[ $(stat --format=%a "$data/events.jsonl") == 600 ]] || fail "mode $(stat --format=%a "$data/events.jsonl")"
    moved=$(stat --format=%i "$data/events.jsonl")
    rotate --force
    # Moved, not copied and truncated: that would lose the events written in between.
    [[ $(stat --format=%i "$data/events.jsonl.1") == "$moved" ]] || fail "another file after round $round"
    (($(rotated) == round)) || fail "$(rotated) files after $round rotations: $(cat "$work/logrotate.log")"
done
eventually test -s "$data/events.jsonl"
kill -TERM "$daemon"
wait "$daemon" || fail "the daemon: $(cat "$work/run.log")"

# The oldest file comes first; all except the newest are compressed.
"$kfwatch" events --config "$work/config.toml" --format json >"$work/log"
for number in $(seq $rounds -1 2); do
    gunzip --stdout "$data/events.jsonl.$number.gz"
done >"$work/files"
cat "$data/events.jsonl.1" "$data/events.jsonl" >>"$work/files"
cmp "$work/log" "$work/files" || fail "the files are not the log: $(wc -l "$work/log" "$work/files")"
echo "$(wc -l <"$work/log") events in $((rounds + 1)) files, each once and in order"
