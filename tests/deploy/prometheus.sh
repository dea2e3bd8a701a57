# What is shipped for Prometheus, as Prometheus itself reads it.
. tests/lib.sh
command -v promtool >/dev/null || install_packages prometheus
promtool check config deploy/prometheus/prometheus.yml
promtool check rules --lint=all --lint-fatal deploy/prometheus/kfwatch.rules.yml
promtool test rules tests/prometheus/*.test.yml
