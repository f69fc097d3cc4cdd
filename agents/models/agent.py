"""An agent: a stored configuration, and how it is kept in a container."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse

from agents.models import rules
from agents.models.fields import (
    Between,
    LinesField,
    PairsField,
    SecondsField,
    SizeField,
    write_seconds,
    write_size,
)
from agents.models.fleet import DAY, DEADLINES, Deadlines, Fleet
from agents.models.rights import Guarded
from agents.models.site import Pausable
from agents.runtimes import CHOICES, AgentConfig, DockerConfig, bare, human_size

MB, GB = 1024**2, 1024**3


class Agents(Guarded["Agent"]):
    """Agents, which are where rights begin."""

    agent = "pk"


class Agent(Deadlines, Pausable):
    """What to run, how, and with which rights."""

    class Permission(models.TextChoices):
        """Claude Code's permission modes; unattended, what would be asked for is denied."""

        ACCEPT_EDITS = "acceptEdits", "acceptEdits: edit files freely, the rest as allowed"
        AUTO = "auto", "auto: the agent's own judgement"
        BYPASS = "bypassPermissions", "bypassPermissions: everything, use it in containers only"
        DONT_ASK = "dontAsk", "dontAsk: only what is allowed explicitly"
        MANUAL = "manual", "manual: whatever would be asked is denied"
        PLAN = "plan", "plan: read and plan, change nothing"

    class PromptMode(models.TextChoices):
        """What the system prompt does to the agent's own."""

        APPEND = "append", "added to the agent's own"
        REPLACE = "replace", "instead of the agent's own"

    class SharedHome(models.TextChoices):
        """What the sessions of an agent share beside its workspace."""

        NONE = "none", "nothing"
        READ_ONLY = "ro", "a home that people fill, read only"
        READ_WRITE = "rw", "a home that the agent itself may change, too"

    class Scope(models.TextChoices):
        """Who works in the same workspace."""

        AGENT = "agent", "agent: all sessions in the same one"
        SESSION = "session", "session: each session in one of its own"
        RUN = "run", "run: each run in a fresh one"

    name = models.CharField(
        max_length=200,
        validators=[rules.agent_name],
        error_messages={"blank": "Name is required.", "required": "Name is required."},
        help_text="a-z, 0-9, - and _, starting with a letter. It names directories and stays.",
    )
    description = models.TextField(blank=True, max_length=2000, help_text="For people.")
    enabled = models.BooleanField(default=True, help_text="Off: nothing starts this agent.")
    runtime = models.CharField(
        max_length=40,
        choices=CHOICES,
        default="claude_cli",
        help_text="What is executed and how its output is read.",
    )
    command = LinesField(
        words=True,
        validators=[rules.arguments],
        help_text="For the Command runtime: program and arguments, one a line or a JSON list; no shell.",
    )
    model = models.CharField(
        max_length=128,
        blank=True,
        validators=[rules.model],
        help_text="An alias like sonnet, or a full name.",
    )
    system_prompt = models.TextField(blank=True, validators=[rules.prompt], help_text="Standing orders.")
    system_prompt_mode = models.CharField(
        max_length=10,
        choices=PromptMode,
        default=PromptMode.APPEND,
        help_text="Added to the agent's own, or instead.",
    )
    default_prompt = models.TextField(
        blank=True, validators=[rules.prompt], help_text="Used when a run is started without a prompt."
    )
    permission_mode = models.CharField(
        max_length=20,
        choices=Permission,
        default=Permission.ACCEPT_EDITS,
        help_text="What it may do unasked.",
    )
    allowed_tools = LinesField(validators=[rules.tools], help_text="One a line, like Read or Bash(git *).")
    denied_tools = LinesField(validators=[rules.tools], help_text="One a line; wins over allowed.")
    max_turns = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="The agent ends after so many turns. Empty: no limit.",
    )
    mcp_servers = models.JSONField(
        "MCP servers",
        default=dict,
        blank=True,
        validators=[rules.mcp_servers],
        help_text="MCP servers by name, as JSON.",
    )
    setting_sources = LinesField(
        validators=[rules.setting_sources],
        help_text="Settings that Claude Code reads: user, project, local. Empty: user only, because a"
        " repository's own settings can execute programs.",
    )
    working_directory = models.CharField(
        max_length=1000,
        blank=True,
        validators=[rules.working_directory],
        help_text="A host directory below the allowed roots. Empty: a workspace of the agent's own.",
    )
    workspace_scope = models.CharField(
        max_length=10, choices=Scope, default=Scope.AGENT, help_text="Who works in the same workspace."
    )
    git_url = models.CharField(
        "git repository",
        max_length=500,
        blank=True,
        validators=[rules.git_url],
        help_text="Cloned into the workspace, in a container: https://… or file:///… Empty: none.",
    )
    git_branch = models.CharField(
        max_length=200, blank=True, validators=[rules.git_ref], help_text="Empty: the repository's own."
    )
    git_depth = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="So many commits, of this branch alone. Empty: the whole history.",
    )
    git_credential = models.CharField(
        max_length=128,
        blank=True,
        validators=[rules.git_credential],
        help_text="The name of a variable of the workers that holds token or user:token; not the agent's.",
    )
    git_push = models.CharField(
        max_length=200,
        blank=True,
        validators=[rules.git_push],
        help_text="A branch to push changes to after a success, like herdweb/{agent}/{run}. Empty: none.",
    )
    exit_grace = SecondsField(
        default=30,
        validators=[Between(1, 600, write_seconds)],
        help_text="From its result message to its end.",
    )
    output_limit = SizeField(
        default=100 * MB,
        validators=[Between(1 * MB, 4 * GB, human_size)],
        help_text="The run is stopped when it printed more, like 100m.",
    )
    fleet = models.ForeignKey(
        Fleet,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="agents",
        help_text="Whose defaults, limits and purse it shares.",
    )
    max_concurrent = models.PositiveSmallIntegerField(
        default=1,
        validators=[Between(1, 64)],
        help_text="Live runs at once; others wait and say so.",
    )
    priority = models.SmallIntegerField(
        default=0,
        validators=[Between(-10, 10)],
        help_text="Waiting runs of higher numbers start first, from -10 to 10.",
    )
    max_tokens = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[Between(1000, 10**12)],
        help_text="A run is stopped when it used more, in and out. Empty: no limit.",
    )
    max_cost = models.FloatField(
        null=True,
        blank=True,
        validators=[Between(0.01, 10_000)],
        help_text="A run ends when it cost more dollars. Empty: no limit.",
    )
    day_cost = models.FloatField(
        null=True,
        blank=True,
        validators=[Between(0.01, 100_000)],
        help_text="Dollars that its runs may report in a day; then nothing new starts until the next.",
    )
    day_tokens = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[Between(1000, 10**12)],
        help_text="Tokens, in and out, that its runs may report in a day.",
    )
    retry_on = LinesField(
        validators=[rules.failure_classes],
        help_text="Failures after which it is tried again: engine, start, rate_limit, lost, agent.",
    )
    max_retries = models.PositiveSmallIntegerField(
        default=3, validators=[Between(0, 10)], help_text="How often a run is tried again at the most."
    )
    retry_delay = SecondsField(
        default=30,
        validators=[Between(1, DAY, write_seconds)],
        help_text="Before the first retry, like 30s; twice as long before each further one.",
    )
    continue_after_limit = models.BooleanField(
        default=True,
        help_text="A run that met the provider's usage limit goes on in its session when that is reset.",
    )
    session_timeout = SecondsField(
        null=True,
        blank=True,
        validators=[Between(60, 3650 * DAY, write_seconds)],
        help_text="A session unused for longer, like 24h, cannot be continued, only forked. Empty: never.",
    )
    shared_home = models.CharField(
        max_length=4,
        choices=SharedHome,
        default=SharedHome.NONE,
        error_messages={"invalid_choice": "%(value)r is not allowed. Choose: none, ro, rw."},
        help_text="Memory file, skills, agents, commands and plugins that all its sessions find.",
    )
    keep_days = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[Between(1, 36_500)],
        help_text="Files of runs that ended longer ago are removed. Empty: no limit.",
    )
    keep_runs = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[Between(1, 1_000_000)],
        help_text="Files of the newest so many runs are kept. Empty: of all.",
    )
    keep_bytes = SizeField(
        null=True,
        blank=True,
        validators=[Between(1 * MB, 1_000_000 * GB, write_size)],
        help_text="The newest runs keep files of so much in all, like 2g. Empty: no limit.",
    )
    groups = models.ManyToManyField(
        "auth.Group",
        blank=True,
        related_name="agents",
        help_text="Only members of these groups, and administrators, see this agent and what belongs to it."
        " None: everybody who has a role.",
    )
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    objects = Agents.as_manager()

    class Meta:
        ordering = ["name"]
        permissions = [
            ("run_agent", "Can start, cancel and continue runs"),
            ("administer", "Can see every agent, and set what containers can reach"),
        ]
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="agent_name_once",
                violation_error_message="This name is already used (names are compared without case).",
            )
        ]

    # What an agent's workspace is made of, and where from its work goes, is for administrators alone.
    # So is whose purse it shares.
    ADMINISTRATOR_FIELDS = ("working_directory", "git_url", "git_credential", "git_push", "fleet", "groups")

    docker: "DockerSettings"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """The agent's page."""
        return reverse("agents:agent", args=[self.name])

    def clean(self) -> None:
        """Rules between fields."""
        if self.runtime and bare(self.runtime).uses_command and not self.command:
            raise ValidationError({"command": "The Command runtime needs a program to execute."})
        self._clean_workspace()

    def _clean_workspace(self) -> None:
        """A host directory and a clone exclude each other, and a clone for all takes one run at a time."""
        if self.working_directory and self.git_url:
            raise ValidationError({"git_url": "Leave this or working_directory empty: a run works in one."})
        if self.working_directory and self.workspace_scope != self.Scope.AGENT:
            raise ValidationError({"workspace_scope": "A host directory is the same for all: choose agent."})
        if self.git_url and self.workspace_scope == self.Scope.AGENT and self.max_concurrent > 1:
            raise ValidationError(
                {
                    "max_concurrent": "Must be 1: all runs work in the same clone. Or choose a workspace per"
                    " session or run."
                }
            )

    def deadline(self, name: str) -> Any:
        """One of the deadlines in seconds: its own, its fleet's, or herdweb's."""
        own = getattr(self, name)
        if own is None:
            return self.fleet.default(name) if self.fleet else DEADLINES[name]
        return own

    def freeze(self) -> dict[str, Any]:
        """The configuration as JSON, as a run keeps it; `AgentConfig.from_json` reads it."""
        config = AgentConfig(
            **{name: getattr(self, name) for name in PLAIN_FIELDS},
            **{name: self.deadline(name) for name in DEADLINES},
            docker=DockerConfig(**{name: getattr(self.docker, name) for name in DOCKER_FIELDS}),
        )
        return config.as_json()


PLAIN_FIELDS = (
    "name", "runtime", "command", "model", "system_prompt", "system_prompt_mode", "permission_mode",
    "allowed_tools", "denied_tools", "max_turns", "mcp_servers", "setting_sources", "working_directory",
    "workspace_scope", "git_url", "git_branch", "git_depth", "git_credential", "git_push",
    "exit_grace", "output_limit", "max_tokens", "max_cost", "session_timeout", "shared_home",
)  # fmt: skip
DOCKER_FIELDS = (
    "enabled", "image", "network", "memory", "cpus", "pids_limit", "user", "workspace_mode", "tmpfs",
    "mounts", "env", "labels", "ephemeral", "container_scope", "max_containers", "keep_failed",
)  # fmt: skip


GIT_NEEDS_DOCKER = "Must be on: the agent has a git workspace, and that is handled in containers only."


def default_image() -> str:
    """The image that `build_agent_image` makes."""
    return str(settings.HERDWEB_IMAGE)


class DockerSettings(models.Model):
    """Whether and how an agent is kept in a container; `agent.docker.enabled` decides."""

    class Network(models.TextChoices):
        """What the container may reach; only `none` is no network at all."""

        BRIDGE = "bridge", "bridge: the internet, and services that this host offers"
        NONE = "none", "none: no network"

    class WorkspaceMode(models.TextChoices):
        """Whether the agent may change its workspace."""

        READ_WRITE = "rw", "read and write"
        READ_ONLY = "ro", "read only"

    class Scope(models.TextChoices):
        """Whose a container is that serves many runs."""

        SESSION = "session", "session: each session has its own"
        AGENT = "agent", "agent: its sessions share one, and can read each other's files"

    agent = models.OneToOneField(Agent, on_delete=models.CASCADE, related_name="docker")
    enabled = models.BooleanField(default=False, help_text="Run this agent in a container of its own.")
    image = models.CharField(
        max_length=255, default=default_image, validators=[rules.image], help_text="It needs /bin/sh."
    )
    network = models.CharField(
        max_length=20,
        choices=Network,
        default=Network.BRIDGE,
        error_messages={"invalid_choice": "%(value)r is not allowed. Choose: bridge, none."},
        help_text="none is the only honest “no network”: on bridge the host's own services can be reached.",
    )
    memory = SizeField(
        default=2 * GB,
        validators=[Between(64 * MB, 64 * GB, human_size)],
        help_text="Memory, like 512m or 2g; no swap on top.",
    )
    cpus = models.FloatField("CPUs", default=2.0, validators=[Between(0.1, 64)], help_text="Cores, like 1.5.")
    pids_limit = models.PositiveIntegerField(
        "process limit", default=512, validators=[Between(16, 4096)], help_text="Processes and threads."
    )
    user = models.CharField(
        max_length=21, blank=True, validators=[rules.user], help_text="uid:gid. Empty: herdweb's own choice."
    )
    workspace_mode = models.CharField(
        max_length=2,
        choices=WorkspaceMode,
        default=WorkspaceMode.READ_WRITE,
        help_text="How /workspace is mounted.",
    )
    tmpfs = LinesField(
        validators=[rules.tmpfs], help_text="Memory file systems, one a line: /cache:size=64m."
    )
    mounts = LinesField(
        validators=[rules.mounts],
        help_text="Host directories, one a line: /host:/container[:ro|rw]; read-only if unsaid.",
    )
    env = PairsField(
        "environment", validators=[rules.env], help_text="NAME=value, one a line. Not for secrets."
    )
    labels = PairsField(validators=[rules.labels], help_text="name=value, one a line.")
    ephemeral = models.BooleanField(
        default=True,
        help_text="On: each run has a container of its own, removed after it. Off: it is stopped after a run"
        " and started again for the next one, its files kept; then its root can be written to.",
    )
    container_scope = models.CharField(
        max_length=10,
        choices=Scope,
        default=Scope.SESSION,
        error_messages={"invalid_choice": "%(value)r is not allowed. Choose: session, agent."},
        help_text="Whose a container is that is not ephemeral: one a session, or one for all of the agent.",
    )
    max_containers = models.PositiveSmallIntegerField(
        default=3,
        validators=[Between(1, 100)],
        help_text="How many containers that are not ephemeral are kept; beyond, the one idle longest goes.",
    )
    keep_failed = SecondsField(
        default=0,
        validators=[Between(0, 30 * DAY, write_seconds)],
        help_text="How long a failed run's ephemeral container is kept for inspection, like 2h. 0s: not.",
    )

    # Whether there is a container at all, and what it can reach, is for administrators alone.
    ADMINISTRATOR_FIELDS = ("enabled", "image", "network", "user", "mounts", "env")

    class Meta:
        verbose_name = verbose_name_plural = "Docker settings"

    def __str__(self) -> str:
        return f"{self.agent.name}: {self.image if self.enabled else 'no container'}"

    def clean(self) -> None:
        """What of the agent needs a container."""
        agent = getattr(self, "agent", None)
        if agent and agent.git_url and not self.enabled:
            raise ValidationError({"enabled": GIT_NEEDS_DOCKER})
