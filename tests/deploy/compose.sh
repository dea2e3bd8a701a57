# Checks compose.yaml with docker-compose, or with docker compose if present: the permissions and mounts of its services. Checks
# the mounted configurations with the programs that read them. Starts no container, but two kfwatch and a PostgreSQL with what
# the containers of the cluster have.
. tests/lib.sh
kfwatch=${KFWATCH_TEST_BINARY:-$target/debug/kfwatch}
compose=(docker-compose)
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif ! command -v docker-compose >/dev/null; then
    install_packages docker-compose
fi
command -v promtool >/dev/null || install_packages prometheus
command -v openssl >/dev/null || install_packages openssl
install_packages postgresql

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

profiles=(--profile watch --profile demo --profile cluster)
(cd deploy/docker && "${compose[@]}" "${profiles[@]}" config) >"$work/resolved.yaml"
"$venv/bin/python" tests/python/compose.py services "$work/resolved.yaml" "$PWD"
# A mirror is in the name of every image, and the build gets it.
(cd deploy/docker && DOCKER_MIRROR=mirror.example "${compose[@]}" "${profiles[@]}" config) >"$work/mirrored.yaml"
diff <(sed 's|docker\.io|mirror.example|' "$work/resolved.yaml") "$work/mirrored.yaml"

promtool check config deploy/docker/prometheus.yml deploy/docker/prometheus-cluster.yml
shipped=deploy/prometheus/prometheus.yml
"$venv/bin/python" tests/python/compose.py prometheus deploy/docker/prometheus.yml $shipped kfwatch
"$venv/bin/python" tests/python/compose.py prometheus deploy/docker/prometheus-cluster.yml $shipped kfwatch-1 kfwatch-2

# The configuration as in the container, with its absolute paths moved into the temporary directory.
mkdir "$work/secrets" "$work/store"
(umask 077 && echo 00000000000000005ec2e70000000000 >"$work/secrets/shop_secret")
sed -e "s|/run/secrets/|$work/secrets/|" -e "s|/var/lib/kfwatch/|$work/store/|" \
    deploy/docker/config/config.toml >"$work/config.toml"
"$kfwatch" check --no-environment --config "$work/config.toml"

# The cluster. Its password and its URL are made by the commands that cluster.md has.
commands=$(sed -n '/^openssl rand .*database\.password$/p; /^printf .*database\.url$/p' docs/en/operate/cluster.md)
(umask 077 && cd "$work" && bash -euo pipefail -c "$commands")
# Each replica has a volume of its own at the path of the store.
for number in 1 2; do
    mkdir "$work/$number"
    sed -e "s|/run/secrets/database_url|$work/database_url|" -e "s|/run/secrets/|$work/secrets/|" \
        -e "s|/var/lib/kfwatch/|$work/$number/|" deploy/docker/config-cluster/config.toml >"$work/$number/config.toml"
done
"$venv/bin/python" tests/python/compose.py variables "$work/resolved.yaml" "$work"
# The server reads the password as its own user.
install --mode=644 "$work/secrets/database.password" "$work/password"
chmod 755 "$work"
export work
arguments=$("$venv/bin/python" tests/python/compose.py initdb "$work/resolved.yaml")
# shellcheck disable=SC2016 # the inner shell expands it
KFWATCH_TEST_INITDB="$arguments --pwfile=$work/password" tests/with_postgres.sh bash -euo pipefail -c '
    if psql --no-password --dbname=postgres --command="SELECT" >/dev/null 2>&1; then
        echo "the server asks for no password" >&2
        exit 1
    fi
    PGPASSWORD=$(<"$work/password") createdb kfwatch
    umask 077
    sed "s|%2Frun%2Fpostgresql|${PGHOST//\//%2F}|" "$work/secrets/database.url" >"$work/database_url"
    "$@"' _ "$venv/bin/python" tests/python/replicas.py "$kfwatch" "$work"
