"""Git on behalf of an agent: what each errand executes, and what its output means.

Four errands, so that nothing of a repository and no credential ever meet:

mirror    the origin into a bare mirror that no agent sees; with network and credential
checkout  the mirror into the workspace; no network, no credential
capture   the workspace, to read only, against its base; likewise, by a repository of our own
push      what was captured to the origin, from a bare repository; with network and credential

Only `checkout` reads a configuration that an agent may have written, and has nothing to lose.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

MIRROR, WORKSPACE, CAPTURE, ORIGIN, OUTBOX = "/mirror", "/workspace", "/capture", "/origin", "/outbox"
FILES, SECRETS = "/run/herdweb", "/run/herdweb-secrets"
# In bytes: of a patch what is kept, of a changed file what is looked at, of lists what is read.
PATCH_LIMIT, FILE_LIMIT, LIST_LIMIT = 10 * 1024**2, 50 * 1024**2, 2 * 1024**2
# How many changed files and commits are named one by one.
NAMED = 500
# What tokens are sent as where only a password is given: hosts look at the password alone.
USER = "x-access-token"

CONFIG = """\
[core]
\thooksPath = /dev/null
\tfsmonitor = false
\tsshCommand = /bin/false
\tautocrlf = false
\tquotePath = true
\tfsync = none
[safe]
\tdirectory = *
[protocol]
\tallow = never
[protocol "https"]
\tallow = always
[protocol "file"]
\tallow = always
[protocol "ext"]
\tallow = never
[submodule]
\trecurse = false
[fetch]
\trecurseSubmodules = false
[push]
\trecurseSubmodules = no
[gc]
\tautoDetach = false
[advice]
\tdetachedHead = false
[init]
\tdefaultBranch = main
\ttemplateDir =
[user]
\tname = herdweb
\temail = herdweb@localhost
"""
CA = f"[http]\n\tsslCAInfo = {FILES}/ca\n"
# For this host alone, wherever a server may redirect to.
CREDENTIAL = f"""\
[credential "{{origin}}"]
\thelper = "!f() {{{{ test \\"$1\\" = get && cat {SECRETS}/credential; }}}}; f"
"""

ENV = {
    "GIT_CONFIG_GLOBAL": f"{FILES}/gitconfig",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}

# $1 URL, $2 branch or empty, $3 depth or empty. Prints the branch and its commit.
MIRROR_SCRIPT = f"""\
set -eu
cd {MIRROR}
[ -f HEAD ] || git init --quiet --bare .
# One at a time comes here, so these are of one that died.
find . -name '*.lock' -delete
branch=$2
if [ -z "$branch" ]; then
    said=$(git ls-remote --symref -- "$1" HEAD)
    branch=$(printf '%s\\n' "$said" | sed -n 's|^ref: refs/heads/\\(.*\\)\\tHEAD$|\\1|p')
    [ -n "$branch" ] || {{ echo "It has no branch to begin with: it may be empty." >&2; exit 3; }}
fi
if [ -n "$3" ]; then
    git fetch --progress --no-tags --update-head-ok --depth="$3" -- "$1" \\
        "+refs/heads/$branch:refs/heads/$branch"
else
    git fetch --progress --prune --update-head-ok -- "$1" \\
        "+refs/heads/*:refs/heads/*" "+refs/tags/*:refs/tags/*"
fi
git symbolic-ref HEAD "refs/heads/$branch"
commit=$(git rev-parse --verify --quiet "refs/heads/$branch^{{commit}}") ||
    {{ echo "It has no branch $branch." >&2; exit 3; }}
printf 'branch %s\\ncommit %s\\n' "$branch" "$commit"
"""

# What a workspace holds as a commit, without touching it: $head is its commit, $base one to fall back on.
SNAPSHOT = f"""\
[ -f {CAPTURE}/HEAD ] || git init --quiet --bare {CAPTURE}
export GIT_DIR={CAPTURE} GIT_WORK_TREE={WORKSPACE} GIT_INDEX_FILE={CAPTURE}/index
printf '%s\\n' {WORKSPACE}/.git/objects {MIRROR}/objects > {CAPTURE}/objects/info/alternates
for list in {MIRROR}/shallow {WORKSPACE}/.git/shallow; do
    if [ -f "$list" ]; then head -c 1000000 "$list"; fi
done | sort -u > {CAPTURE}/shallow
[ -s {CAPTURE}/shallow ] || rm -f {CAPTURE}/shallow
snapshot() {{
    cd {WORKSPACE}
    rm -f "$GIT_INDEX_FILE"
    git read-tree "$1"
    {{
        # What people have attached is no change of the agent's.
        printf ':/\\000:(exclude,top)attachments/%s\\000' "$run"
        find {WORKSPACE} -xdev -path {WORKSPACE}/.git -prune -o -type f -size +{FILE_LIMIT // 1024}k \\
            -printf ':(exclude,literal,top)%P\\0' 2> /dev/null || true
    }} > {CAPTURE}/paths
    # With this threshold all go into one pack: six times as fast as a file for each of 30,000.
    git -c core.bigFileThreshold=1 add --all --ignore-errors --pathspec-from-file={CAPTURE}/paths \\
        --pathspec-file-nul || true
    tree=$(git write-tree)
    if [ "$tree" = "$(git rev-parse "$1^{{tree}}")" ]; then
        snapshot=$1
    else
        snapshot=$(git commit-tree -p "$1" -m "$2" "$tree")
    fi
}}
"""

# $1 URL, $2 branch, $3 "new" or "there", $4 the run, $5 the agent. Prints base (a commit of the
# repository), start (that with what earlier runs left uncommitted), and what became of the branch.
CHECKOUT_SCRIPT = f"""\
set -eu
run=$4
safely="-c core.hooksPath=/dev/null -c core.fsmonitor=false -c credential.helper= -c submodule.recurse=false"
cd {WORKSPACE}
if [ "$3" = new ]; then
    git $safely clone --quiet --no-local --branch "$2" -- file://{MIRROR} .
    git $safely remote set-url origin "$1"
    # Without a name nobody can commit.
    git $safely config user.name "$5"
    git $safely config user.email "$5@herdweb.invalid"
    printf 'news cloned\\n'
else
    [ -d .git ] || {{ echo "The workspace is no git repository any more." >&2; exit 3; }}
    if [ -f {MIRROR}/shallow ]; then update=--update-shallow; fi
    git $safely fetch --quiet --prune --update-head-ok ${{update-}} -- file://{MIRROR} \\
        "+refs/heads/*:refs/remotes/origin/*"
    here=$(git $safely symbolic-ref --short --quiet HEAD || true)
    if [ "$here" = "$2" ] && [ -z "$(git $safely status --porcelain)" ] &&
        git $safely merge --quiet --ff-only "refs/remotes/origin/$2" > /dev/null 2>&1; then
        printf 'news updated\\n'
    else
        printf 'news kept\\n'
    fi
fi
head=$(git $safely rev-parse --verify --quiet "HEAD^{{commit}}") ||
    {{ echo "The workspace has no commit." >&2; exit 3; }}
snapshot=$head
if [ "$3" != new ]; then
{SNAPSHOT}
    snapshot "$head" "Before run $4"
fi
printf 'base %s\\nstart %s\\n' "$head" "$snapshot"
"""

# $1 base, $2 start, $3 the run, $4 branch, $5 "push" or empty. Lists and patch go into /capture/out.
CAPTURE_SCRIPT = f"""\
set -eu
start_=$2 run=$3
head=$(git --git-dir={WORKSPACE}/.git rev-parse --verify --quiet "HEAD^{{commit}}") || head=$1
{SNAPSHOT}
git cat-file -e "$2^{{commit}}" 2> /dev/null ||
    {{ echo "The commit that it began with is gone." >&2; exit 3; }}
git cat-file -e "$head^{{commit}}" 2> /dev/null || head=$1
snapshot "$head" "Left uncommitted by run $3"
out={CAPTURE}/out
mkdir -p $out
list() {{ git diff-tree -r -z --find-renames --no-ext-diff --no-textconv "$@"; }}
list --name-status "$start_" "$snapshot" | head -c {LIST_LIMIT} > $out/names
list --numstat "$start_" "$snapshot" | head -c {LIST_LIMIT} > $out/numbers
git diff-tree --shortstat --find-renames "$start_" "$snapshot" > $out/sum
git diff-tree -p --binary --full-index --find-renames --no-ext-diff --no-textconv --no-color \\
    "$start_" "$snapshot" | head -c {PATCH_LIMIT + 1} > $out/patch
git log -z --max-count={NAMED} --format='%H%x01%an%x01%s' "$1..$head" | head -c {LIST_LIMIT} > $out/log
commits=$(git rev-list --count "$1..$head")
printf 'head %s\\nend %s\\ncommits %s\\n' "$head" "$snapshot" "$commits"
tr '\\000' '\\n' < {CAPTURE}/paths | sed -n 's/^:(exclude,literal,top)/large /p' | head -n 20
if [ "$5" = push ] && [ "$snapshot" != "$start_" ]; then
    git update-ref refs/heads/herdweb "$snapshot"
    have=$(git --git-dir={MIRROR} rev-parse --verify --quiet "refs/heads/$4^{{commit}}")
    git bundle create --quiet $out/bundle refs/heads/herdweb --not "$have"
    printf 'bundle 1\\n'
fi
"""

# $1 URL, $2 the new branch. No work tree, so nothing is checked out, filtered or hooked.
PUSH_SCRIPT = f"""\
set -eu
cd {OUTBOX}
[ -f HEAD ] || git init --quiet --bare .
printf '%s\\n' {MIRROR}/objects > objects/info/alternates
[ ! -f {MIRROR}/shallow ] || cp {MIRROR}/shallow shallow
git fetch --quiet -- {CAPTURE}/out/bundle refs/heads/herdweb:refs/heads/herdweb
git push --quiet --no-verify -- "$1" "refs/heads/herdweb:refs/heads/$2"
"""


def files(url: str, *, credential: bool = False, authorities: bytes = b"") -> dict[str, bytes]:
    """The configuration that git reads, and no other; with those who vouch for hosts, if not the usual."""
    text = CONFIG + (CREDENTIAL.format(origin=origin(url)) if credential else "")
    if not authorities:
        return {"gitconfig": text.encode()}
    return {"gitconfig": (text + CA).encode(), "ca": authorities}


def origin(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def local_path(url: str) -> str:
    """The host's directory that a file URL means; empty for others."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "file" else ""


def inside(url: str) -> str:
    """The URL as an errand uses it."""
    return f"file://{ORIGIN}" if local_path(url) else url


def env(url: str = "") -> dict[str, str]:
    """The environment: without a URL, and with one of this host, nothing but files."""
    return {**ENV, "GIT_ALLOW_PROTOCOL": "file:https" if url and not local_path(url) else "file"}


def credential(value: str) -> tuple[bytes, dict[str, str]]:
    """A variable's value, `token` or `user:token`, as git reads it, and what of it must be masked."""
    user, colon, token = value.strip().rpartition(":")
    said = f"username={user if colon else USER}\npassword={token}\n"
    return said.encode(), {"whole": value.strip(), "token": token}


def said(stdout: bytes) -> dict[str, str]:
    """What a script printed: a word a line, and what follows it."""
    lines = stdout.decode("utf-8", "replace").splitlines()
    return {word: rest for word, _, rest in (line.partition(" ") for line in lines)}


@dataclass(frozen=True)
class Changed:
    """A changed file; `status` is git's letter, lines are None in what is no text."""

    path: str
    status: str
    was: str = ""
    added: int | None = None
    removed: int | None = None


@dataclass(frozen=True)
class Changes:
    """What a run did to its workspace: what was committed, and what was left uncommitted.

    `head` is the repository's commit, `end` that with what was left uncommitted on top; `files` and
    `commits` are the first `NAMED` of them.
    """

    head: str
    end: str
    commit_count: int
    file_count: int
    added: int
    removed: int
    patch_bytes: int
    patch_cut: bool
    files: tuple[Changed, ...] = field(default=())
    commits: tuple[Mapping[str, str], ...] = field(default=())
    left_out: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it is stored in a run's row."""
        return asdict(self)


def changes(stdout: bytes, lists: Mapping[str, bytes], patch_bytes: int) -> Changes:
    """What the capture's output means; `lists` are its files by name."""
    words = said(stdout)
    counts = summed(lists["sum"])
    files = tuple(changed(lists["names"], lists["numbers"]))
    return Changes(
        head=words["head"],
        end=words["end"],
        commit_count=int(words["commits"]),
        file_count=counts.get("file", 0),
        added=counts.get("insertion", 0),
        removed=counts.get("deletion", 0),
        patch_bytes=min(patch_bytes, PATCH_LIMIT),
        patch_cut=patch_bytes > PATCH_LIMIT,
        files=files[:NAMED],
        commits=tuple(commits(lists["log"])),
        left_out=tuple(readable(line[6:]) for line in stdout.split(b"\n") if line.startswith(b"large ")),
    )


def summed(line: bytes) -> dict[str, int]:
    """` 3 files changed, 5 insertions(+), 2 deletions(-)` as numbers."""
    parts = [part.split() for part in line.decode("ascii", "replace").split(",") if part.strip()]
    return {part[1].split("(")[0].rstrip("s"): int(part[0]) for part in parts}


def changed(names: bytes, numbers: bytes) -> Iterator[Changed]:
    """The two lists of the same files, side by side; they may have been cut in the middle."""
    lines = line_counts(numbers)
    items = iter(names.split(b"\0")[:-1])
    for status in items:
        was = next(items, b"") if status[:1] in b"RC" else b""
        path = next(items, None)
        if path is None:
            return
        added, removed = lines.get(path, (None, None))
        yield Changed(readable(path), status[:1].decode("ascii", "replace"), readable(was), added, removed)


def line_counts(numbers: bytes) -> dict[bytes, tuple[int | None, int | None]]:
    """Added and removed lines by path."""
    found: dict[bytes, tuple[int | None, int | None]] = {}
    items = iter(numbers.split(b"\0")[:-1])
    for item in items:
        added, _, rest = item.partition(b"\t")
        removed, _, path = rest.partition(b"\t")
        if not path:
            # Renamed: both names follow.
            next(items, None)
            path = next(items, b"")
        found[path] = (count(added), count(removed))
    return found


def count(said: bytes) -> int | None:
    """A number; git prints a dash for what is no text."""
    return int(said) if said.isdigit() else None


def commits(log: bytes) -> Iterator[dict[str, str]]:
    """Id, author and subject of each."""
    for entry in log.split(b"\0"):
        parts = entry.split(b"\x01", 2)
        if len(parts) == 3:
            yield dict(zip(("id", "author", "subject"), map(readable, parts), strict=True))


def readable(raw: bytes) -> str:
    """A name as text that every database takes; bytes that are no UTF-8 are spelt out."""
    return raw.decode("utf-8", "backslashreplace").replace("\x00", "")[:1000]
