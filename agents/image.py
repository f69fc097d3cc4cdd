"""The agent image: a recipe with a pinned, checked Claude Code, built once for each change of it.

Everything comes from package registries: the CLI from npm, Debian's packages through apt, and the
base from a container registry or, where none can be reached, from Debian's packages as well.
"""

import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256, sha512
from pathlib import Path
from subprocess import PIPE, STDOUT

from agents.runtimes.image import Image, Images
from agents.runtimes.types import RunError

RECIPE = Path(__file__).resolve().parent.parent / "docker" / "agent"
RECIPE_LABEL, VERSION_LABEL = "herdweb.recipe", "herdweb.claude-code.version"
BASE, SELF_MADE_BASE, SUITE = "debian:bookworm-slim", "herdweb/base:bookworm", "bookworm"
# What Debian's own slim images leave out as well.
LEFT_OUT = ("dev/*", "proc/*", "sys/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/info/*",
            "usr/share/locale/*", "var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*")  # fmt: skip
# In seconds: far beyond what a slow line needs, so that nothing hangs for ever.
FETCH_LIMIT, DEBOOTSTRAP_LIMIT = 900, 1800

STEP_WIDTH = 100
# The kernel's names of architectures, and the engine's.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# debootstrap lies where only root looks for programs, if at all.
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pin:
    """One architecture's package of the CLI, and the checksum it must have."""

    version: str
    name: str
    integrity: str


@dataclass(frozen=True)
class Built:
    """The image as it is now; `size` in bytes, `built` when it was made just now."""

    image: str
    digest: str
    size: int
    claude_code: str
    built: bool

    def as_json(self) -> str:
        """For scripts."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        state = "built" if self.built else "already there"
        cli = f"Claude Code {self.claude_code}" if self.claude_code else "not of herdweb's making"
        return f"{self.image} {state}: {self.digest}, {self.size / 1e6:.0f} MB, {cli}"


def ensure(images: Images, name: str, say: Say, *, force: bool = False, recipe: Path = RECIPE) -> Built:
    """Build the image unless it is there and of this recipe; raises RunError with the remedy."""
    found = None if force else current(images, name, recipe)
    if found:
        return report(name, found, built=False)
    build(images, name, say, recipe, fresh=force)
    made = images.find(name)
    if made is None:
        raise RunError(f"The engine has built {name} but does not have it.")
    return report(name, made, built=True)


def current(images: Images, name: str, recipe: Path = RECIPE) -> Image | None:
    """The image, if it is of this recipe, or carries none of our labels: then it is the operator's."""
    found = images.find(name)
    return found if found and found.labels.get(RECIPE_LABEL) in (None, digest(recipe)) else None


def report(name: str, image: Image, *, built: bool) -> Built:
    """What there is to tell of an image."""
    return Built(name, image.digest, image.size, image.labels.get(VERSION_LABEL, ""), built)


def build(images: Images, name: str, say: Say, recipe: Path, *, fresh: bool) -> None:
    """Fetch and check the CLI first, so that nothing is made of one that is not what we pinned."""
    wanted = pin(recipe, images.architecture)
    with tempfile.TemporaryDirectory(prefix="herdweb-image-") as temporary:
        context = Path(temporary) / "context"
        context.mkdir()
        say(f"Fetching Claude Code {wanted.version} from the npm registry")
        unpack(checked(fetch(wanted, Path(temporary)), wanted), context)
        shutil.copy(recipe / "Dockerfile", context)
        base = find_base(images, say)
        say(f"Building {name} on {base}")
        for line in images.build(context, name, base, labels(wanted, recipe), fresh):
            if line.startswith("Step "):
                say(line[:STEP_WIDTH])


def pin(recipe: Path, architecture: str) -> Pin:
    """The pinned package for an engine's architecture."""
    pinned = json.loads((recipe / "claude-code.json").read_text())
    try:
        package = pinned["packages"][architecture]
    except KeyError:
        known = ", ".join(pinned["packages"])
        raise RunError(f"Claude Code is pinned for {known}; this engine is {architecture}.") from None
    return Pin(pinned["version"], package["name"], package["integrity"])


def digest(recipe: Path) -> str:
    """Changes with everything that decides what the image holds."""
    files = (recipe / "Dockerfile", recipe / "claude-code.json")
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def labels(wanted: Pin, recipe: Path) -> dict[str, str]:
    """What the image says of itself."""
    return {
        "org.opencontainers.image.title": "herdweb agent",
        "org.opencontainers.image.description": "Claude Code and the usual tools, for one agent at a time",
        "org.opencontainers.image.version": wanted.version,
        VERSION_LABEL: wanted.version,
        RECIPE_LABEL: digest(recipe),
    }


def fetch(wanted: Pin, folder: Path) -> Path:
    """Download the package's tarball with the npm client, which knows the registry to ask."""
    spec = f"{wanted.name}@{wanted.version}"
    command = ["npm", "pack", spec, "--pack-destination", str(folder), "--silent", "--ignore-scripts"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_LIMIT, cwd=folder)
    except FileNotFoundError:
        raise RunError("npm fetches Claude Code and is missing. Install it: apt-get install npm") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"npm did not fetch {spec} within {FETCH_LIMIT} s.") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()[-1000:]
        raise RunError(f"npm could not fetch {spec}. Try `npm pack {spec}` to see why. {said}") from error
    return next(folder.glob("*.tgz"))


def checked(tarball: Path, wanted: Pin) -> Path:
    """The tarball, if it is the one that was pinned."""
    integrity = "sha512-" + b64encode(sha512(tarball.read_bytes()).digest()).decode()
    if integrity != wanted.integrity:
        raise RunError(
            f"{wanted.name}@{wanted.version} is not what was pinned, so nothing was built."
            f" Expected {wanted.integrity}, got {integrity}."
        )
    return tarball


def unpack(tarball: Path, context: Path) -> None:
    """Put the one binary that matters into the build context."""
    with tarfile.open(tarball) as tar:
        source = tar.extractfile("package/claude")
        if source is None:
            raise RunError(f"{tarball.name} holds no binary package/claude.")
        with source, (context / "claude").open("wb") as binary:
            shutil.copyfileobj(source, binary)
    (context / "claude").chmod(0o755)


def find_base(images: Images, say: Say) -> str:
    """Debian from a registry, or the one that is here already, or one made of Debian's packages."""
    say(f"Asking for {BASE}")
    if images.pull(BASE) or images.find(BASE):
        return BASE
    if not images.find(SELF_MADE_BASE):
        say("No container registry answers; making the base of Debian's packages (about a minute)")
        make_base(images)
    return SELF_MADE_BASE


def make_base(images: Images) -> None:
    """Import what debootstrap installs; it needs root, and an engine of this machine's architecture."""
    same = ARCHITECTURES.get(platform.machine()) == images.architecture
    if os.geteuid() or not same or not shutil.which("debootstrap", path=SYSTEM_PATH):
        raise RunError(
            f"No container registry has answered, and making the base image {SELF_MADE_BASE} needs root and"
            " debootstrap. Make it with these commands, then build again:\n"
            "  sudo apt-get install -y debootstrap debian-archive-keyring\n"
            f"  sudo debootstrap --force-check-gpg --variant=minbase {SUITE} /var/tmp/herdweb-base\n"
            f"  sudo tar -C /var/tmp/herdweb-base -c . | docker import - {SELF_MADE_BASE}"
        )
    with tempfile.TemporaryDirectory(prefix="herdweb-base-") as temporary:
        root, tar = Path(temporary) / "root", Path(temporary) / "base.tar"
        shell(["debootstrap", "--force-check-gpg", "--variant=minbase", SUITE, str(root)])
        add_security_updates(root / "etc" / "apt" / "sources.list")
        leave_out_documentation(root / "etc" / "dpkg" / "dpkg.cfg.d" / "slim")
        shell(["tar", "-C", str(root), *(f"--exclude=./{path}" for path in LEFT_OUT), "-cf", str(tar), "."])
        images.import_tar(tar, SELF_MADE_BASE)


def shell(command: list[str]) -> None:
    """Execute one step of making the base; raises RunError with the end of what it said."""
    try:
        done = subprocess.run(
            command,
            check=False,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            timeout=DEBOOTSTRAP_LIMIT,
            env={**os.environ, "PATH": SYSTEM_PATH},
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"No base image: {error}") from error
    if done.returncode:
        raise RunError(f"No base image: {command[0]} failed.\n{done.stdout[-1500:]}")


def add_security_updates(sources: Path) -> None:
    """The same mirror has them; debootstrap names the plain suite only."""
    plain = sources.read_text()
    sources.write_text(plain + plain.replace(f"/debian {SUITE}", f"/debian-security {SUITE}-security"))


def leave_out_documentation(configuration: Path) -> None:
    """Keep what is installed later as slim as the base."""
    paths = ("doc", "man", "info", "locale")
    excluded = "".join(f"path-exclude /usr/share/{path}/*\n" for path in paths)
    configuration.write_text(f"{excluded}path-include /usr/share/doc/*/copyright\n")
