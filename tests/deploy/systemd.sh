# Checks the unit with systemd-analyze, the configuration with kfwatch, and that the daemon does nothing that the unit forbids.
# systemd itself does not run here.
. tests/lib.sh
install_packages systemd strace
cargo build --locked --quiet
kfwatch=$target/debug/kfwatch
unit=deploy/systemd/kfwatch.service
highest_exposure=2.0

work=$(mktemp -d)
simulator=""
daemon=""
cleanup() {
    if [[ -n $daemon ]]; then kill -KILL "$daemon" 2>/dev/null || true; fi
    if [[ -n $simulator ]]; then kill "$simulator" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

fail() {
    echo "systemd.sh: $*" >&2
    exit 1
}

eventually() {
    local attempt
    for ((attempt = 0; attempt < 300; attempt++)); do
        if "$@"; then return; fi
        sleep 0.2
    done
    fail "not within 60 s: $*"
}

# systemd-analyze finds no mistake, in a directory where the programs of the unit exist. It exits with 0 even for an unknown
# key, so only its output counts.
root=$work/root
mkdir -p "$root/etc/systemd/system" "$root/usr/bin" "$root/usr/lib/systemd"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
cp -r /lib/systemd/system "$root/usr/lib/systemd/"
install -m 755 "$kfwatch" "$root/usr/bin/kfwatch"
verify() {
    cp "$1" "$root/etc/systemd/system/kfwatch.service"
    systemd-analyze verify --man=no --root="$root" kfwatch.service 2>&1
}
said=$(verify "$unit") || fail "systemd-analyze verify: $said"
[[ -z $said ]] || fail "systemd-analyze verify: $said"
sed 's/^WatchdogSec=/WatchdogSeconds=/' "$unit" >"$work/wrong.service"
[[ $(verify "$work/wrong.service") == *WatchdogSeconds* ]] || fail "systemd-analyze verify overlooks an unknown key"

exposure=$(systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*Overall exposure level[^:]*: \([0-9.]*\).*/\1/p')
echo "exposure $exposure"
awk -v is="$exposure" -v most=$highest_exposure 'BEGIN { exit !(is != "" && is + 0 < most) }' ||
    fail "the exposure is not below $highest_exposure"

# kfwatch rejects the shipped configuration and lists the missing values. It accepts the configuration with these values.
said=$("$kfwatch" check -c deploy/systemd/config.toml 2>&1) && fail "check accepts a configuration with missing values"
for key in appid kf_accounts secret_file; do
    grep -q "official_accounts\.[a-z.]*$key: " <<<"$said" || fail "check does not report $key: $said"
done
(($(wc -l <<<"$said") == 3)) || fail "check reports more than the values to fill in: $said"

# A simulated WeChat; its first official account is filled in.
"$kfwatch" simulate --listen 127.0.0.1:0 >"$work/simulated.toml" 2>"$work/simulator.log" &
simulator=$!
eventually grep -qs '^secret = ' "$work/simulated.toml"
first() { sed -n "s/^$1 = //p" "$work/simulated.toml" | head -n 1; }
state=$work/state
credentials=$work/credentials
mkdir -m 700 "$state" "$credentials"
filled_in() {
    sed -e "s|^appid = .*|appid = $(first appid)|" -e 's|^kf_accounts = .*|kf_accounts = ["*"]|' \
        -e "s|/run/credentials/kfwatch.service/|$credentials/|" deploy/systemd/config.toml
}
(umask 077 && first secret | tr -d '"' >"$credentials/shop.secret")
filled_in >"$work/checked.toml"
"$kfwatch" check --no-environment -c "$work/checked.toml"

# The same configuration runs for a while, with another state directory and WeChat address. The address is a name, so that
# the daemon resolves a name.
{
    filled_in | sed -e "s|/var/lib/kfwatch/|$state/|" -e 's|^listen = .*|listen = ["127.0.0.1:0"]|'
    printf '[poll]\nschedule = "* * * * * *"\n[api]\nbase_url = %s\n' "$(first base_url | sed 's/127\.0\.0\.1/localhost/')"
} >"$work/config.toml"

# The system calls that SystemCallFilter= allows, one per line.
expand() {
    local name
    while read -r name; do
        case $name in
            '#'* | '') ;;
            @*) expand "$name" ;;
            *) echo "$name" ;;
        esac
    done < <(systemd-analyze syscall-filter --no-pager "$1" | sed 1d)
}
allowed() {
    local filter item name members
    local -A names=()
    for name in $(expand @default); do names[$name]=1; done
    while read -r filter; do
        for item in ${filter#\~}; do
            members=$item
            if [[ $item == @* ]]; then members=$(expand "$item"); fi
            for name in $members; do
                if [[ $filter == \~* ]]; then unset "names[$name]"; else names[$name]=1; fi
            done
        done
    done < <(sed -n 's/^SystemCallFilter=//p' "$unit")
    printf '%s\n' "${!names[@]}"
}

if ! strace -qq -o /dev/null true; then
    echo "systemd.sh: no process may be traced here, so the system calls of the daemon cannot be checked" >&2
    # For example in a container without CAP_SYS_PTRACE.
    [[ -n ${KFWATCH_TEST_WITHOUT_PTRACE-} ]] && exit 0
    exit 1
fi
# Run as an ordinary user without capabilities, as in the unit: root can do more, and does.
trace=$work/trace
trace_of_reload=$work/trace.reload
as_service=()
if ((EUID == 0)); then
    as_service=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all)
    touch "$trace" "$trace_of_reload"
    chown -R 65534:65534 "$state" "$credentials" "$trace" "$trace_of_reload"
    chmod 755 "$work"
fi
(umask 077 && exec "${as_service[@]}" strace -f -qq -o "$trace" "$root/usr/bin/kfwatch" run -c "$work/config.toml") \
    >"$work/stdout" 2>"$work/daemon.log" &
tracer=$!
eventually test -s "$state/kfwatch.db-lock"
daemon=$(<"$state/kfwatch.db-lock")
eventually test -s "$state/events.jsonl"
"$kfwatch" poll -c "$work/config.toml" >"$work/poll.log" 2>&1 || (($? == 1)) || fail "poll does not reach the daemon"

# ExecReload= with this configuration. It fails if the configuration has a mistake, and the daemon runs on.
grep -qx "ExecStart=/usr/bin/kfwatch run -c /etc/kfwatch/config.toml" "$unit" || fail "ExecStart= uses another configuration"
grep -qx "ExecReload=/usr/bin/kfwatch reload -c /etc/kfwatch/config.toml" "$unit" || fail "ExecReload= uses another configuration"
reload() {
    "${as_service[@]}" strace -A -f -qq -o "$trace_of_reload" "$root/usr/bin/kfwatch" reload -c "$work/config.toml" \
        >"$work/reload.log" 2>&1
}
sed -i '1i shutdown_timeout = "9s"' "$work/config.toml"
reload || fail "the reload failed: $(cat "$work/reload.log")"
grep -q shutdown_timeout "$work/reload.log" || fail "the reload changed nothing: $(cat "$work/reload.log")"
sed -i '1s/.*/shutdown_timeout = "nine seconds"/' "$work/config.toml"
status=0
reload || status=$?
((status == 78)) && grep -q "config.toml:1" "$work/reload.log" ||
    fail "the reload with a mistake ended with $status: $(cat "$work/reload.log")"
kill -HUP "$daemon"
kill -TERM "$daemon"
wait "$tracer" || fail "the daemon ended with $?: $(cat "$work/daemon.log")"
daemon=""
[[ ! -s $work/stdout ]] || fail "the journal would get $(head -c 200 "$work/stdout")"
! find "$state" -perm /077 | grep . || fail "other users can read these files"

sed -nE 's/^[0-9]+ +([a-z0-9_]+)\(.*/\1/p' "$trace" "$trace_of_reload" | sort -u >"$work/used"
used=$(wc -l <"$work/used")
((used > 40)) || fail "only $used system calls were observed"
forbidden=$(allowed | sort -u | comm -23 "$work/used" -)
[[ -z $forbidden ]] || fail "SystemCallFilter forbids what the daemon does: $forbidden"

executable=$(grep -hE '(mprotect|pkey_mprotect)\(.*PROT_EXEC|mmap\(.*PROT_WRITE\|PROT_EXEC' "$trace" "$trace_of_reload") || true
[[ -z $executable ]] || fail "MemoryDenyWriteExecute forbids what the daemon does: $executable"

families=$(sed -nE 's/.* socket(pair)?\((AF_[A-Z0-9]+),.*/\2/p' "$trace" "$trace_of_reload" | sort -u)
permitted=$(sed -n 's/^RestrictAddressFamilies=//p' "$unit" | tr ' ' '\n' | sort)
others=$(comm -23 <(echo "$families") <(echo "$permitted"))
[[ -z $others ]] || fail "RestrictAddressFamilies forbids what the daemon does: $others"

written=$(grep -hE '^[0-9]+ +(openat|unlink|unlinkat|rename|renameat2?|mkdir|mkdirat|ftruncate|chmod|fchmodat)\(' "$trace" "$trace_of_reload" |
    grep -E 'O_WRONLY|O_RDWR|O_CREAT|unlink|rename|mkdir|chmod' | grep -vE "\"($state/|/dev/null\")") || true
[[ -z $written ]] || fail "the daemon writes outside of its state directory: $written"
echo "all $used observed system calls are allowed; families $(xargs <<<"$families")"
