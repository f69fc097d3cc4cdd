"""What an operator may set: every environment variable herdweb reads, with its type and default.

Each field is the variable of the same name in capitals; docs/configuration.md explains them, and
a test fails when one is missing there.
"""

import os
import secrets
import tempfile
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

BASE_DIR = Path(__file__).resolve().parent.parent

# Sizes that are written like 20m or 1.5g; 1024 to the next unit.
SIZE = r"(?i)^[0-9]{1,6}(\.[0-9]{1,3})?[kmgt]b?$"
UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}

# A Unix socket's path may have 107 bytes on Linux; longer ones cannot be bound.
SOCKET_PATH_LIMIT = 107


class Environment(BaseSettings):
    """The variables as they were given, checked all at once so that every mistake is named."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    herdweb_debug: bool = False
    herdweb_secret_key: str = ""
    herdweb_base_url: str = Field(default="", pattern=r"^(https?://[^/\s]+)?$")
    herdweb_allowed_hosts: str = "localhost,127.0.0.1,[::1]"
    herdweb_state_dir: Path = BASE_DIR / "media" / "state"
    herdweb_redis_url: str = ""
    herdweb_instance: str = Field(default="", pattern=r"^[a-z0-9]{0,16}$")
    herdweb_pass_env: str = "ANTHROPIC_API_KEY,CLAUDE_CODE_OAUTH_TOKEN,ANTHROPIC_BASE_URL"
    herdweb_git_env: str = "GIT_TOKEN"
    herdweb_git_ca: str = ""
    herdweb_image: str = "herdweb/agent"
    herdweb_container_user: str = Field(default="", pattern=r"^(\d+:\d+)?$")
    herdweb_mount_roots: str = ""
    herdweb_secrets_dir: Path | None = None
    herdweb_free_space: str = Field(
        default="5g", pattern=r"(?i)^([0-9]{1,6}(\.[0-9]{1,3})?[mgt]b?|[0-9]{1,2}(\.[0-9]{1,3})?%)$"
    )
    herdweb_upload_limit: str = Field(default="20m", pattern=SIZE)
    herdweb_upload_total: str = Field(default="50m", pattern=SIZE)
    herdweb_download_limit: str = Field(default="1g", pattern=SIZE)
    herdweb_workers: int = Field(default=4, ge=1, le=64)
    herdweb_time_zone: str = "UTC"
    herdweb_log_level: str = Field(default="INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    database_url: str = ""
    docker_host: str = Field(default="", validation_alias=AliasChoices("DOCKER_HOST"))
    port: int = Field(default=8000, ge=1, le=65535)

    @field_validator("herdweb_state_dir")
    @classmethod
    def absolute(cls, path: Path) -> Path:
        """A relative state directory would mean another place for every process's folder."""
        return path.expanduser().resolve()

    @cached_property
    def secret_key(self) -> str:
        """The given key, or one made at the first start and kept in the state directory."""
        return self.herdweb_secret_key or remembered_secret(self.herdweb_state_dir / "secret_key")

    @cached_property
    def instance(self) -> str:
        """Tells this herdweb's containers from another's on the same engine."""
        return self.herdweb_instance or sha256(f"instance {self.secret_key}".encode()).hexdigest()[:8]

    @cached_property
    def redis_socket(self) -> Path:
        """Where the stack's own Redis listens: in the state directory if the path is short enough."""
        usual = self.herdweb_state_dir / "redis.sock"
        if len(os.fsencode(usual)) <= SOCKET_PATH_LIMIT:
            return usual
        short = sha256(os.fsencode(usual)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"herdweb-{os.getuid()}-{short}" / "redis.sock"

    @cached_property
    def redis_url(self) -> str:
        """The queue's server."""
        return self.herdweb_redis_url or f"unix://{self.redis_socket}"

    @cached_property
    def database(self) -> str:
        """The database as a URL: a file in the state directory unless told otherwise."""
        return self.database_url or f"sqlite:///{self.herdweb_state_dir / 'herdweb.sqlite3'}"

    @cached_property
    def secrets_dir(self) -> Path:
        """Where credentials wait for a starting container: memory, not disk, wherever there is any."""
        if self.herdweb_secrets_dir:
            return self.herdweb_secrets_dir
        shared_memory = Path("/dev/shm")
        root = shared_memory if os.access(shared_memory, os.W_OK) else self.herdweb_state_dir
        return root / f"herdweb-{os.getuid()}-{self.instance}"

    @cached_property
    def container_user(self) -> str:
        """uid:gid inside containers: herdweb's own, so that both can read the files; never root."""
        if self.herdweb_container_user:
            return self.herdweb_container_user
        return f"{os.getuid()}:{os.getgid()}" if os.getuid() else "1000:1000"

    @cached_property
    def upload_limit(self) -> int:
        """How large one attachment may be, in bytes."""
        return size(self.herdweb_upload_limit)

    @cached_property
    def upload_total(self) -> int:
        """How large all attachments of a run may be together."""
        return size(self.herdweb_upload_total)

    @cached_property
    def download_limit(self) -> int:
        """How large a file of a workspace may be that is handed out."""
        return size(self.herdweb_download_limit)

    @cached_property
    def hosts(self) -> list[str]:
        """Host names that the site answers to: those given, and that of its own address."""
        own = urlsplit(self.herdweb_base_url).hostname
        return [*names(self.herdweb_allowed_hosts), *([own] if own else [])]

    @cached_property
    def pass_env(self) -> list[str]:
        """Names of the variables that reach an agent's process."""
        return names(self.herdweb_pass_env)

    @cached_property
    def git_env(self) -> list[str]:
        """Names of the variables that may hold a credential for git."""
        return names(self.herdweb_git_env)

    @cached_property
    def mount_roots(self) -> list[str]:
        """Host directories below which agents may be given mounts and working directories."""
        return [os.path.realpath(root) for root in self.herdweb_mount_roots.split(":") if root.strip()]


def names(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def size(text: str) -> int:
    """Bytes of a size that fits the pattern."""
    number = text.lower().removesuffix("b")
    return int(float(number[:-1]) * UNITS[number[-1]])


def remembered_secret(path: Path) -> str:
    """Read the secret in a file, or make one; two processes that start at once agree on it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
