# Tests the Debian package in a debootstrap chroot: installs it, runs it as its user, upgrades, removes and purges it. No systemd
# runs there: a fake systemctl records its arguments. Needs root and the machine's Debian mirror.
. tests/lib.sh
install_packages debootstrap dpkg-dev lintian

work=$(mktemp -d "$target/debian.XXXXXX")
root=$work/root
simulator=
cleanup() {
    [[ -z $simulator ]] || kill "$simulator" 2>/dev/null || true
    # A mount of debootstrap, if it was interrupted.
    mount | awk -v root="$root/" 'index($3, root) == 1 { print $3 }' | sort -r | while read -r mounted; do
        as_root umount --lazy "$mounted"
    done
    as_root rm -rf --one-file-system "$work"
}
trap cleanup EXIT

fail() {
    echo "debian.sh: $1" >&2
    exit 1
}
progress() { echo "debian.sh, after $SECONDS s: $1"; }

in_chroot() { as_root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
    http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" /usr/sbin/chroot "$root" "$@"; }
as_kfwatch() { in_chroot runuser -u kfwatch -- "$@"; }
# Installs a package from the chroot's /tmp, and keeps the existing configuration.
apt_install() {
    in_chroot apt-get install --quiet --quiet --yes --no-install-recommends \
        --option Dpkg::Options::=--force-confdef --option Dpkg::Options::=--force-confold "$@"
}
# The recorded arguments of systemctl since the last call.
systemctl_calls() {
    as_root cat "$root/systemctl.log" 2>/dev/null
    as_root rm -f "$root/systemctl.log"
}
# Checks owner, group and permissions.
expect() {
    local found
    found=$(in_chroot stat --format='%U:%G %a' "$1")
    [[ $found == "$2" ]] || fail "$1 is $found, and should be $2"
}

progress "building the package"
package=$(deploy/debian/build.sh)
lintian --allow-root --fail-on error,warning "$package"

# The next version, with a different configuration.
as_root dpkg-deb --raw-extract "$package" "$work/next"
as_root sed -i 's/^Version: .*/&.1/' "$work/next/DEBIAN/control"
echo "# The next version's." | as_root tee -a "$work/next/etc/kfwatch/config.toml" >/dev/null
as_root dpkg-deb --build "$work/next" "$work/next.deb" >/dev/null

# shellcheck disable=SC2016 # apt fills these in
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
    awk '$2 == "bookworm" && $3 == "main" && $4 == "Debian" { print $1; exit }')
[[ -n $mirror ]] || fail "apt of this machine has no mirror of Debian bookworm"
progress "making a Debian"
as_root debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/debootstrap.log" || fail "$(tail "$work/debootstrap.log")"
as_root cp /etc/resolv.conf "$root/etc/resolv.conf"
as_root install -m 644 "$package" "$root/tmp/kfwatch.deb"
as_root install -m 644 "$work/next.deb" "$root/tmp/next.deb"
as_root mkdir -p "$root/run/systemd/system"
printf '#!/bin/sh\necho "$*" >>/systemctl.log\n' | as_root tee "$root/usr/bin/systemctl" >/dev/null
as_root chmod 755 "$root/usr/bin/systemctl"
in_chroot apt-get --quiet --quiet update
before=$(as_root find "$root" -xdev -path "$root/tmp" -prune -o -name '*kfwatch*' -print)
[[ -z $before ]] || fail "there before: $before"

progress "installing"
apt_install /tmp/kfwatch.deb >"$work/install.log" 2>&1 || fail "$(cat "$work/install.log")"
grep -q "systemctl enable --now kfwatch" "$work/install.log" || fail "does not explain how to start it: $(cat "$work/install.log")"
expect /etc/kfwatch/credentials "root:root 700"
expect /etc/kfwatch/config.toml "root:kfwatch 640"
expect /var/lib/kfwatch "kfwatch:kfwatch 700"
expect /usr/bin/kfwatch "root:root 755"
[[ -z $(in_chroot dpkg --verify kfwatch) ]] || fail "dpkg --verify: $(in_chroot dpkg --verify kfwatch)"
# A configuration with placeholders cannot work, so the service is neither started nor enabled.
commands=$(systemctl_calls)
[[ $commands != *start* && $commands != *enable* ]] || fail "systemctl was called: $commands"
in_chroot test ! -e /etc/systemd/system/multi-user.target.wants/kfwatch.service || fail "the service is enabled"
in_chroot test -f /usr/lib/systemd/system/kfwatch.service -a -f /usr/share/man/man1/kfwatch.1.gz -a -f /usr/share/man/man5/kfwatch-config.5.gz -a -f /etc/logrotate.d/kfwatch

progress "running as the user kfwatch"
events=$(as_kfwatch kfwatch demo --for 5s --listen 127.0.0.1:0 2>"$work/demo.log" | wc -l)
((events > 0)) || fail "the demo had no events: $(cat "$work/demo.log")"
echo "the demo: $events events"
status=0
as_kfwatch kfwatch check --config /etc/kfwatch/config.toml >"$work/check" 2>&1 || status=$?
[[ $status == 78 ]] || fail "check of the placeholders ($status): $(cat "$work/check")"
grep -F 'FILL IN' "$work/check" | sed 's/^/check of the placeholders: /'

# The operator's configuration, for a simulated WeChat outside the chroot.
"$target/dist/kfwatch" simulate --listen 127.0.0.1:0 >"$work/simulated.toml" 2>"$work/simulator.log" &
simulator=$!
for _ in $(seq 100); do
    [[ ! -s $work/simulated.toml ]] || break
    sleep 0.1
done
{
    cat "$work/simulated.toml"
    cat <<'EOF'
[poll]
schedule = "* * * * * *"
[web]
listen = "127.0.0.1:0"
[store]
path = "/var/lib/kfwatch/kfwatch.db"
[[sinks]]
name = "events"
type = "jsonl"
path = "/var/lib/kfwatch/events.jsonl"
EOF
} >"$work/config.toml"
as_root tee "$root/etc/kfwatch/config.toml" <"$work/config.toml" >/dev/null
as_kfwatch kfwatch check --config /etc/kfwatch/config.toml >"$work/check" 2>&1 || fail "check: $(cat "$work/check")"
as_kfwatch timeout --preserve-status --signal=TERM 5 kfwatch run --config /etc/kfwatch/config.toml 2>"$work/run.log" ||
    fail "run: $(cat "$work/run.log")"
kept() { as_kfwatch kfwatch events --config /etc/kfwatch/config.toml --format json; }
kept >"$work/events"
echo "the daemon: $(wc -l <"$work/events") events"
[[ -s $work/events ]] || fail "the daemon had no events: $(cat "$work/run.log")"
as_root cmp "$work/events" "$root/var/lib/kfwatch/events.jsonl"

progress "rotating the events"
apt_install logrotate >"$work/logrotate.log" 2>&1 || fail "$(cat "$work/logrotate.log")"
in_chroot logrotate --force /etc/logrotate.d/kfwatch >"$work/logrotate.log" 2>&1 || fail "logrotate: $(cat "$work/logrotate.log")"
expect /var/lib/kfwatch/events.jsonl.1 "kfwatch:kfwatch 600"

progress "upgrading"
systemctl_calls >/dev/null
apt_install /tmp/next.deb >"$work/upgrade.log" 2>&1 || fail "$(cat "$work/upgrade.log")"
# shellcheck disable=SC2016 # and dpkg this
[[ $(in_chroot dpkg-query --show --showformat='${Version}' kfwatch) == *.1 ]] || fail "not upgraded: $(cat "$work/upgrade.log")"
as_root cmp "$work/config.toml" "$root/etc/kfwatch/config.toml" || fail "the configuration was replaced"
expect /etc/kfwatch/config.toml "root:kfwatch 640"
as_root grep -q "The next version's" "$root/etc/kfwatch/config.toml.dpkg-dist" || fail "the new configuration is not next to it"
cmp <(kept) "$work/events" || fail "other events after the upgrade"
commands=$(systemctl_calls)
[[ $commands == *restart*kfwatch.service* ]] || fail "the service is not restarted: $commands"
! grep -q "enable --now" "$work/upgrade.log" || fail "explains itself again: $(cat "$work/upgrade.log")"

progress "removing"
in_chroot apt-get --quiet --quiet --yes remove kfwatch >"$work/remove.log" 2>&1 || fail "$(cat "$work/remove.log")"
commands=$(systemctl_calls)
[[ $commands == *stop*kfwatch.service* ]] || fail "the service is not stopped: $commands"
in_chroot test ! -e /usr/bin/kfwatch || fail "the program is still there"
as_root cmp "$work/config.toml" "$root/etc/kfwatch/config.toml" || fail "the configuration is missing"
in_chroot test -s /var/lib/kfwatch/kfwatch.db || fail "the store is missing"

progress "purging"
in_chroot apt-get --quiet --quiet --yes purge kfwatch >"$work/purge.log" 2>&1 || fail "$(cat "$work/purge.log")"
grep "^kfwatch: removed" "$work/purge.log" || fail "does not list what it removed: $(cat "$work/purge.log")"
left=$(as_root find "$root" -xdev -path "$root/tmp" -prune -o -name '*kfwatch*' -print)
left+=$(as_root grep -H "^kfwatch:" "$root/etc/passwd" "$root/etc/group" "$root/etc/shadow" || true)
[[ -z $left ]] || fail "left: $left"
progress "nothing is left"
