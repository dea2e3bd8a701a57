# Checks compose.yaml with docker-compose, or with docker compose if present: the permissions and mounts of its services. Checks
# the mounted configurations with the programs that read them. Starts no container.
. tests/lib.sh
kfwatch=${KFWATCH_TEST_BINARY:-$target/debug/kfwatch}
compose=(docker-compose)
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif ! command -v docker-compose >/dev/null; then
    install_packages docker-compose
fi
command -v promtool >/dev/null || install_packages prometheus

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

(cd deploy/docker && "${compose[@]}" --profile watch --profile demo config) >"$work/resolved.yaml"
"$venv/bin/python" tests/python/compose.py services "$work/resolved.yaml" "$PWD"
# A mirror is in the name of every image, and the build gets it.
(cd deploy/docker && DOCKER_MIRROR=mirror.example "${compose[@]}" --profile watch --profile demo config) >"$work/mirrored.yaml"
diff <(sed 's|docker\.io|mirror.example|' "$work/resolved.yaml") "$work/mirrored.yaml"

promtool check config deploy/docker/prometheus.yml
"$venv/bin/python" tests/python/compose.py prometheus deploy/docker/prometheus.yml deploy/prometheus/prometheus.yml

# The configuration as in the container, with its absolute paths moved into the temporary directory.
mkdir "$work/secrets" "$work/store"
(umask 077 && echo 00000000000000005ec2e70000000000 >"$work/secrets/shop_secret")
sed -e "s|/run/secrets/|$work/secrets/|" -e "s|/var/lib/kfwatch/|$work/store/|" \
    deploy/docker/config/config.toml >"$work/config.toml"
"$kfwatch" check --no-environment --config "$work/config.toml"
