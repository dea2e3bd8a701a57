# Checks the Kubernetes objects that kustomize builds: they are valid and consistent, kfwatch accepts their configuration, and it
# answers their probes. Any version of kubectl works: Debian's is old, and the files support old and new versions.
. tests/lib.sh
kfwatch=${KFWATCH_TEST_BINARY:-$target/debug/kfwatch}
command -v kubectl >/dev/null || install_packages kubernetes-client
command -v curl >/dev/null || install_packages curl
command -v shellcheck >/dev/null || install_packages shellcheck

shellcheck deploy/kubernetes/prometheus-operator/prometheusrule.sh

work=$(mktemp --directory)
trap 'stop_demo; rm -rf "$work"' EXIT

kubectl kustomize deploy/kubernetes >"$work/core.yaml"
kubectl kustomize deploy/kubernetes/prometheus-operator >"$work/operator.yaml"

# A demo, to request the paths of the probes.
start_demo "$kfwatch" "$work"

"$venv/bin/python" tests/python/kubernetes.py core "$work/core.yaml" "$address"
"$venv/bin/python" tests/python/kubernetes.py operator "$work/operator.yaml" "$work/core.yaml" \
    deploy/prometheus/kfwatch.rules.yml

# The configuration as in the pod, with its absolute paths moved into the temporary directory.
mkdir "$work/etc" "$work/secrets" "$work/store"
"$venv/bin/python" tests/python/kubernetes.py configuration "$work/core.yaml" "$work/etc"
(umask 077 && echo 00000000000000005ec2e70000000000 >"$work/secrets/shop.secret")
sed -i -e "s|/run/secrets/kfwatch/|$work/secrets/|" -e "s|/var/lib/kfwatch/|$work/store/|" "$work/etc/config.toml"
"$kfwatch" check --no-environment --config "$work/etc/config.toml"
