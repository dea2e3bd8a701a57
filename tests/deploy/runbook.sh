# The runbook has a section for each alert, and what it says of errcodes, metrics, commands and queries is so.
. tests/lib.sh
kfwatch=${KFWATCH_TEST_BINARY:-$target/debug/kfwatch}
command -v promtool >/dev/null || install_packages prometheus
command -v curl >/dev/null || install_packages curl

work=$(mktemp --directory)
demo=
cleanup() {
    if [[ -n $demo ]]; then
        kill "$demo" 2>/dev/null || true
        wait "$demo" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

# A demo for the metrics that there are; it prints where it serves them.
: >"$work/demo.log"
"$kfwatch" demo --listen 127.0.0.1:0 >/dev/null 2>>"$work/demo.log" &
demo=$!
page=
for ((attempt = 0; attempt < 100; attempt++)); do
    page=$(sed -n 's|^ *metrics *\(http://.*/metrics\)$|\1|p' "$work/demo.log")
    # The last metrics to appear are those that collectors bring.
    if [[ -n $page ]] && curl --silent --fail --output "$work/metrics" "$page" &&
        grep --quiet '^wechat_kf_waiting_users' "$work/metrics"; then break; fi
    sleep 0.1
done
[[ -s $work/metrics ]] || { echo "the demo did not serve its metrics:"; cat "$work/demo.log"; exit 1; } >&2

"$venv/bin/python" tests/python/runbook.py "$kfwatch" "$work/metrics" "$work/queries.yml"
promtool check rules "$work/queries.yml"
