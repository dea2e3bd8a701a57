# Checks that the runbook has a section for each alert, and that its errcodes, metrics, commands and queries are valid.
. tests/lib.sh
kfwatch=${KFWATCH_TEST_BINARY:-$target/debug/kfwatch}
command -v promtool >/dev/null || install_packages prometheus
command -v curl >/dev/null || install_packages curl

work=$(mktemp --directory)
trap 'stop_demo; rm -rf "$work"' EXIT

# A demo provides the names of all metrics. Those of collectors appear last.
start_demo "$kfwatch" "$work"
for ((attempt = 0; attempt < 100; attempt++)); do
    if curl --silent --fail --output "$work/metrics" "$address/metrics" &&
        grep --quiet '^wechat_kf_waiting_customers' "$work/metrics"; then break; fi
    sleep 0.1
done
[[ -s $work/metrics ]] || { echo "the demo serves no metrics:"; cat "$work/demo.log"; exit 1; } >&2

"$venv/bin/python" tests/python/runbook.py "$kfwatch" "$work/metrics" "$work/queries.yml"
promtool check rules "$work/queries.yml"
