#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own, and removes the server afterwards. Only a UNIX socket reaches it.
# KFWATCH_TEST_POSTGRES tells the command how to connect, PGHOST and PGUSER tell it to the programs of PostgreSQL. KFWATCH_TEST_INITDB has
# other arguments of initdb.
#
#   tests/with_postgres.sh cargo test --test it -- --ignored store::postgres::
set -euo pipefail

programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort | tail -n 1)
directory=$(mktemp --directory /tmp/kfwatch-postgres-XXXXXX)

# The server refuses to run as root.
as_owner=()
if ((EUID == 0)); then
    chown postgres "$directory"
    as_owner=(runuser --user postgres --)
fi
chmod 755 "$directory"

remove() {
    "${as_owner[@]}" "$programs/pg_ctl" --pgdata "$directory/data" --mode immediate stop >/dev/null 2>&1 || true
    rm -rf "$directory"
}
trap remove EXIT

cd "$directory"
read -ra arguments <<<"${KFWATCH_TEST_INITDB:---auth trust --encoding UTF8 --no-locale}"
"${as_owner[@]}" "$programs/initdb" --pgdata data --username kfwatch "${arguments[@]}" >initdb.log 2>&1 || {
    cat initdb.log
    exit 1
}
"${as_owner[@]}" "$programs/pg_ctl" --pgdata data --log server.log --wait start \
    --options "-c listen_addresses='' -c unix_socket_directories=$directory -c max_connections=700" >/dev/null || {
    cat server.log
    exit 1
}
cd "$OLDPWD"

status=0
KFWATCH_TEST_POSTGRES="host=$directory user=kfwatch dbname=postgres" PGHOST=$directory PGUSER=kfwatch "$@" || status=$?
if ((status != 0)); then tail -n 30 "$directory/server.log"; fi
exit "$status"
