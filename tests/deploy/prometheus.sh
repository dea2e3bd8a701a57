# Checks the shipped Prometheus files with promtool, and with vmalert. The unit tests of the rules run as they are, and in several
# namespaces and clusters at once.
. tests/lib.sh
command -v promtool >/dev/null || install_packages prometheus
command -v vmalert >/dev/null || install_packages victoria-metrics
command -v shellcheck >/dev/null || install_packages shellcheck

shellcheck deploy/prometheus/simple-rules.sh
promtool check config deploy/prometheus/prometheus.yml
promtool check rules --lint=all --lint-fatal deploy/prometheus/*.rules.yml

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

# The simple rules are those of the other file whose alerts reach people, and none of them needs one that is missing.
cp deploy/prometheus/kfwatch.rules.yml deploy/prometheus/simple-rules.sh "$work/"
sh "$work/simple-rules.sh"
cmp "$work/kfwatch-simple.rules.yml" deploy/prometheus/kfwatch-simple.rules.yml
rules() { grep -cE '^ +- (alert|record): ' "$1"; }
inhibitors=$(grep -c 'severity: none$' "$work/kfwatch.rules.yml")
(($(rules "$work/kfwatch.rules.yml") - inhibitors == $(rules "$work/kfwatch-simple.rules.yml")))
[[ $(grep -c Inhibitor "$work/kfwatch-simple.rules.yml") == 0 ]]
echo "$inhibitors inhibitors left out of $(rules "$work/kfwatch.rules.yml") rules"

# Debian's vmalert is too old for this key. With -dryRun it ends with a fatal message if a rule or a template is invalid.
mkdir "$work/vmalert"
for rules in deploy/prometheus/*.rules.yml; do
    sed '/keep_firing_for:/d' "$rules" >"$work/vmalert.rules.yml"
    vmalert -dryRun -rule="$work/vmalert.rules.yml" &>"$work/vmalert.log" || { cat "$work/vmalert.log"; exit 1; }
done
sed '/keep_firing_for:/d' deploy/prometheus/kfwatch.rules.yml >"$work/vmalert.rules.yml"
"$venv/bin/python" tests/python/vmalert.py "$work/vmalert.rules.yml" "$work/vmalert"

mkdir "$work/scoped"
"$venv/bin/python" tests/python/rule_scopes.py "$work/scoped" tests/prometheus/*.test.yml
printf '%s\n' tests/prometheus/*.test.yml "$work"/scoped/*.test.yml | xargs --max-procs="$(nproc)" -n 1 promtool test rules
