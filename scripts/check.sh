#!/usr/bin/env bash
# Everything that can be judged without running herdweb; stops at the first complaint.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${VENV:-.venv}/bin" && pwd)

# A site as it would be deployed, for `check --deploy`.
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
HERDWEB_SECRET_KEY=$("$bin/python" -c 'import secrets; print(secrets.token_urlsafe(50))')
export HERDWEB_SECRET_KEY HERDWEB_STATE_DIR=$state HERDWEB_BASE_URL=https://herdweb.example
unset DATABASE_URL

step() {
    echo "-- $1" >&2
    shift
    "$@"
}

manage() {
    "$bin/python" -W error manage.py "$@"
}

step "lint" "$bin/ruff" check --quiet
step "format" "$bin/ruff" format --check --quiet
step "types" "$bin/mypy" agents herdweb scripts tests bench
step "layers" "$bin/lint-imports"
step "templates" "$bin/djlint" templates --check --lint --quiet
step "migrations" manage makemigrations --check --dry-run
step "deployment" manage check --deploy --fail-level WARNING
