# Checks the shipped Prometheus files with promtool.
. tests/lib.sh
command -v promtool >/dev/null || install_packages prometheus
promtool check config deploy/prometheus/prometheus.yml
promtool check rules --lint=all --lint-fatal deploy/prometheus/kfwatch.rules.yml
promtool test rules tests/prometheus/*.test.yml
