#!/usr/bin/env bash
# Run a command on a PostgreSQL of its own, in DATABASE_URL; the server ends with the command.
#   scripts/with-postgres.sh COMMAND…
set -euo pipefail

bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
if [ -z "$bin" ]; then
    echo "There is no PostgreSQL server: sudo apt-get install -y postgresql" >&2
    exit 1
fi

folder=$(mktemp -d)
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
echo "$password" >"$folder/password"

# The server refuses to run as root.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then (cd "$folder" && runuser -u postgres -- "$@"); else "$@"; fi
}
if [ "$(id -u)" -eq 0 ]; then chown -R postgres "$folder"; fi

finish() {
    as_server "$bin/pg_ctl" --pgdata "$folder/data" --mode immediate --silent stop || true
    rm -rf "$folder"
}
trap finish EXIT

as_server "$bin/initdb" --pgdata "$folder/data" --username herdweb --pwfile "$folder/password" \
    --auth scram-sha-256 --encoding UTF8 --locale C >/dev/null
# What the tests write need not survive a power failure.
as_server "$bin/pg_ctl" --pgdata "$folder/data" --log "$folder/log" --silent --wait start --options \
    "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder -c fsync=off -c synchronous_commit=off"

export DATABASE_URL=postgres://herdweb:$password@127.0.0.1:$port/postgres
"$@"
