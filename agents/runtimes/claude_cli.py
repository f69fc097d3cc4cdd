"""Claude Code, as its command line: `claude -p` with stream-json.

Flags as of 2.1. Every value that somebody typed travels as `--flag=value`, so that none of them
can become a flag of its own; texts that may be long travel as files, the prompt on standard input.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import BinaryIO

from agents.runtimes.base import Runtime
from agents.runtimes.claude_transcript import ClaudeTranscript
from agents.runtimes.streamjson import messages
from agents.runtimes.types import Command, Exit, Kept, Message, Outcome, Request, Result, Transcript

# No self-update and no calls home from inside a container that may not even have a network.
ENVIRONMENT = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
# The CLI deletes transcripts after this many days; sessions are herdweb's to expire.
CLEANUP_PERIOD_DAYS = 36500
PROJECT_SETTINGS_ARE_CODE = ("user",)
LOGGED_OUT = "/login"
CREDENTIALS = (
    "There is no terminal here to log in: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN in the"
    " environment of the workers."
)


SHARED = ("CLAUDE.md", "agents/", "commands/", "rules/", "skills/")
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class ClaudeCLI(Runtime):
    """Runs Claude Code for one prompt and understands every message that it prints."""

    name = "claude_cli"
    label = "Claude Code"
    supports_resume = True
    supports_fork = True
    sums_cost = True
    expects_result = True
    needs_credentials = True
    reads = (
        "model", "system_prompt", "system_prompt_mode", "permission_mode", "allowed_tools", "denied_tools",
        "max_turns", "mcp_servers", "setting_sources", "session_timeout", "shared_home",
    )  # fmt: skip
    version_arguments = ("--version",)
    # The places in `.claude` where the CLI looks; plugins and memory have addresses of their own.
    shared = (*SHARED, "plugins/", "memory/")

    def command(self, request: Request) -> Command:
        """`claude -p …` with the session's id minted by us, continued or forked."""
        flags = [*conversation_flags(request), *agent_flags(request), *file_flags(request)]
        return Command(
            argv=("claude", "-p", "--output-format=stream-json", "--verbose", *flags),
            request=request,
            env={"HOME": request.paths.home, **ENVIRONMENT},
            files=dict(files(request)),
            stdin="prompt",
        )

    def parse(self, line: str) -> list[Message]:
        """Stream-json; lines that are none are kept as text."""
        return messages(line)

    def outcome(self, end: Exit, result: Result | None) -> Outcome:
        """As every runtime, with the remedy for the failure that everybody meets first."""
        outcome = super().outcome(end, result)
        if outcome.ok or LOGGED_OUT not in outcome.reason:
            return outcome
        return replace(outcome, reason=f"{outcome.reason} {CREDENTIALS}")

    def transcripts(self, request: Request) -> Sequence[str]:
        """`.claude/projects/<working directory>/<id>.jsonl`, as the CLI names it."""
        conversation = request.conversation
        return (f"{project(request)}/{conversation.forked_from or conversation.id}.jsonl",)

    def kept(self, request: Request) -> Kept:
        """Transcripts, what restoring set aside, and directories: what sub-agents said, long results."""
        return Kept(project(request), rf"{UUID}(\.jsonl(\.before-restore\d*)?)?")

    def foreign(self, request: Request, head: bytes) -> str | None:
        """Lines carry the id of their session, but not each of them does."""
        wanted = request.conversation.forked_from or request.conversation.id
        found = set(named_in(head))
        if wanted in found or not found:
            return "" if found else None
        return f"holds another conversation, {min(found)}"

    def home_links(self, request: Request) -> Mapping[str, str]:
        """Only the paths are translated in a container, so the links lead to what is mounted there."""
        if not request.paths.shared:
            return {}
        places = {f".claude/{name}": name for name in map(bare_name, SHARED)}
        places[f"{project(request)}/memory"] = "memory"
        return {place: f"{request.paths.shared}/{name}" for place, name in places.items()}

    def read_transcript(self, file: BinaryIO) -> Transcript:
        """The CLI's own format, one JSON object a line."""
        return ClaudeTranscript(file)

    def by_hand(self, request: Request) -> tuple[str, ...]:
        """The CLI as a person uses it, in the session's home and working directory."""
        paths, resume = request.paths, ("claude", f"--resume={request.conversation.id}")
        return ("env", f"--chdir={paths.workspace}", f"HOME={paths.home}", *resume)

    def home_files(self, request: Request) -> Mapping[str, bytes]:
        """The user settings: ours before every start, whatever the last run made of them."""
        return {".claude/settings.json": json.dumps({"cleanupPeriodDays": CLEANUP_PERIOD_DAYS}).encode()}


def project(request: Request) -> str:
    """Where the CLI keeps the conversations of a working directory, relative to the home."""
    return f".claude/projects/{re.sub(r'[^A-Za-z0-9]', '-', request.paths.workspace)}"


def bare_name(name: str) -> str:
    """Without the slash of a directory."""
    return name.rstrip("/")


def named_in(head: bytes) -> Iterator[str]:
    """The sessions that whole lines of a transcript name."""
    for line in head.splitlines():
        try:
            named = json.loads(line)["sessionId"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(named, str):
            yield named[:40]


def conversation_flags(request: Request) -> list[str]:
    """Which conversation: a new one with our id, the same one again, or a copy under our id."""
    conversation = request.conversation
    if conversation.forked_from:
        return [f"--resume={conversation.forked_from}", "--fork-session", f"--session-id={conversation.id}"]
    return [f"--resume={conversation.id}" if conversation.resume else f"--session-id={conversation.id}"]


def agent_flags(request: Request) -> Iterator[str]:
    """What the agent's configuration says, flag by flag."""
    agent = request.agent
    if agent.model:
        yield f"--model={agent.model}"
    if agent.permission_mode:
        yield f"--permission-mode={agent.permission_mode}"
    if agent.max_turns:
        yield f"--max-turns={agent.max_turns}"
    if agent.max_cost:
        yield f"--max-budget-usd={agent.max_cost}"
    yield from (f"--allowedTools={tool}" for tool in agent.allowed_tools)
    yield from (f"--disallowedTools={tool}" for tool in agent.denied_tools)
    # A repository's own settings can run hooks and redirect the API: only where the agent says so.
    yield f"--setting-sources={','.join(agent.setting_sources or PROJECT_SETTINGS_ARE_CODE)}"


def file_flags(request: Request) -> Iterator[str]:
    """Flags that point to the files of `files`."""
    agent, folder = request.agent, request.paths.run
    if agent.system_prompt:
        flag = (
            "--system-prompt-file" if agent.system_prompt_mode == "replace" else "--append-system-prompt-file"
        )
        yield f"{flag}={folder}/system-prompt"
    if request.paths.shared:
        yield f"--plugin-dir={request.paths.shared}/plugins"
    if agent.mcp_servers:
        yield f"--mcp-config={folder}/mcp.json"
        yield "--strict-mcp-config"


def files(request: Request) -> Iterator[tuple[str, bytes]]:
    """The files that the command reads, by their name in the run's directory."""
    agent = request.agent
    yield "prompt", request.prompt.encode()
    if agent.system_prompt:
        yield "system-prompt", agent.system_prompt.encode()
    if agent.mcp_servers:
        yield "mcp.json", json.dumps({"mcpServers": dict(agent.mcp_servers)}).encode()
