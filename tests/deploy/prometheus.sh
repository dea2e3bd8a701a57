# Checks the shipped Prometheus files with promtool. The unit tests of the rules run as they are, and in several namespaces and
# clusters at once.
. tests/lib.sh
command -v promtool >/dev/null || install_packages prometheus
promtool check config deploy/prometheus/prometheus.yml
promtool check rules --lint=all --lint-fatal deploy/prometheus/kfwatch.rules.yml

scoped=$(mktemp --directory)
trap 'rm -rf "$scoped"' EXIT
"$venv/bin/python" tests/python/rule_scopes.py "$scoped" tests/prometheus/*.test.yml
printf '%s\n' tests/prometheus/*.test.yml "$scoped"/*.test.yml | xargs -P "$(nproc)" -n 1 promtool test rules
