#!/usr/bin/env bash
# Install the Debian packages that this machine lacks: scripts/install.sh run|image|test
# As root they are installed; otherwise the command to do so is printed, and the exit code is 3.
set -euo pipefail
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=() reasons=()

# lack PACKAGE REASON
lack() {
    missing+=("$1") reasons+=("$1 ($2)")
}

# need PACKAGE REASON PROGRAM…: one of the programs is enough
need() {
    local package=$1 reason=$2 program
    shift 2
    for program; do
        if type -P "$program" >/dev/null; then return; fi
    done
    lack "$package" "$reason"
}

for_run() {
    if [ ! -x "${VENV:-.venv}/bin/python" ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        lack python3-venv "Python packages of its own"
    fi
    if [ -z "${HERDWEB_REDIS_URL:-}" ]; then need redis-server "the queue" redis-server valkey-server; fi
    if [ -z "${DOCKER_HOST:-}" ] && [ ! -S /var/run/docker.sock ]; then
        need docker.io "agents in containers" dockerd
        need iptables "the containers' network" iptables
    fi
}

for_image() {
    need npm "fetches Claude Code" npm
    need debootstrap "makes the agent image where no container registry answers" debootstrap
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || lack debian-archive-keyring "to check Debian's signatures"
}

for_test() {
    for_run
    for_image
    need busybox-static "a tiny image for tests" busybox
    need chromium "tests in a browser" chromium chromium-browser google-chrome
    need cron "tests of schedules" crontab
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || lack postgresql "tests on PostgreSQL"
}

"for_$1"
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

list=$(printf ', %s' "${reasons[@]}")
if ! type -P apt-get >/dev/null; then
    echo "herdweb: missing, and there is no apt-get to install it: ${list:2}" >&2
    exit 3
elif [ "$(id -u)" -ne 0 ]; then
    echo "herdweb: missing: ${list:2}. As root it would be installed; the command is" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 3
fi

echo "herdweb: installing ${list:2}" >&2
export DEBIAN_FRONTEND=noninteractive
# One repository that is away must not keep the others' packages from being installed.
apt-get update -qq >/dev/null || true
if ! output=$(apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}" 2>&1); then
    printf '%s\n' "$output" | tail -n 15 >&2
    echo "herdweb: apt-get could not install ${missing[*]}" >&2
    exit 3
fi
