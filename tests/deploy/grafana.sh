# Checks the dashboards: they are what their source generates, Grafana's own types read them without loss, and the files that
# provision them are complete.
. tests/lib.sh

work=$(mktemp --directory)
mkdir "$work/dashboards"
trap 'rm -rf "$work"' EXIT

# Byte for byte.
python3 deploy/grafana/source "$work/dashboards"
diff --recursive --unified=0 deploy/grafana/dashboards "$work/dashboards" >"$work/difference" || {
    head --lines=20 "$work/difference"
    echo "the dashboards differ from their source: run python3 deploy/grafana/source and commit the result"
    exit 1
}

"$venv/bin/python" tests/python/dashboards.py deploy/grafana/provisioning deploy/grafana/dashboards/*.json
