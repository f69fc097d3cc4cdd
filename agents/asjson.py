"""Rows as JSON: one shape for the commands and the API, described in docs/run.schema.json."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db.models import Model

from agents.models import Agent, Container, DockerSettings, Event, Run, Schedule, Session
from agents.models.agent import DOCKER_FIELDS

AGENT_FIELDS = (
    "name", "description", "enabled", "runtime", "command", "model", "system_prompt", "system_prompt_mode",
    "default_prompt", "permission_mode", "allowed_tools", "denied_tools", "max_turns", "mcp_servers",
    "setting_sources", "working_directory", "workspace_scope", "git_url", "git_branch", "git_depth",
    "git_credential", "git_push", "time_limit", "idle_limit", "start_limit", "wait_limit", "cancel_grace",
    "exit_grace", "output_limit", "fleet", "max_concurrent", "priority", "max_tokens", "max_cost", "day_cost",
    "day_tokens", "retry_on", "max_retries", "retry_delay", "continue_after_limit", "session_timeout",
    "shared_home", "keep_days", "keep_runs", "keep_bytes",
)  # fmt: skip


def run_json(run: Run) -> dict[str, Any]:
    """A run and what became of it; `result` to `output_tokens` are the agent's own claims."""
    return {
        "id": str(run.public_id),
        "agent": run.agent.name,
        "state": str(run.state),
        "reason": run.reason,
        "contradiction": run.contradiction,
        "failure": str(run.failure) or None,
        "trigger": str(run.trigger),
        "schedule": run.schedule.name if run.schedule else None,
        "priority": run.priority,
        "attempt": run.attempt,
        "first_attempt": str(run.first_attempt.public_id) if run.first_attempt else None,
        "not_before": moment(run.not_before),
        "prompt": run.prompt,
        "attachments": run.attachments,
        "session": str(run.session.public_id) if run.session else None,
        "workspace": run.workspace,
        "changes": run.changes or None,
        "container": run.container.name if run.container else None,
        "exit_code": run.exit_code,
        "oom": run.oom,
        "started_at": moment(run.started_at),
        "finished_at": moment(run.finished_at),
        "duration_s": round(run.duration.total_seconds(), 3) if run.duration else None,
        "result": run.result if run.result_seen_at else None,
        "turns": run.turns,
        "cost_usd": run.cost_usd,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "events": run.event_count,
        "output_bytes": run.output_bytes,
        "pinned": run.pinned,
        "files_removed_at": moment(run.files_removed_at),
    }


def session_json(session: Session) -> dict[str, Any]:
    """A session; `turns` to `output_tokens` are sums of what its runs claim."""
    return {
        "id": str(session.public_id),
        "agent": session.agent.name,
        "runtime": session.runtime,
        "title": session.title,
        "forked_from": str(session.forked_from.public_id) if session.forked_from else None,
        "turns": session.turns,
        "cost_usd": session.cost_usd,
        "input_tokens": session.input_tokens,
        "output_tokens": session.output_tokens,
        "created": moment(session.created),
        "last_used": moment(session.last_used),
    }


SCHEDULE_FIELDS = (
    "name", "cron", "interval", "counted_from", "time_zone", "prompt", "conversation", "enabled", "jitter",
    "blackouts", "missed", "missed_limit", "overlap", "priority", "breaker",
)  # fmt: skip


def schedule_json(schedule: Schedule) -> dict[str, Any]:
    """A schedule by its fields' names, durations in seconds; `due_at` is when the next moment is acted on."""
    return {
        "agent": schedule.agent.name,
        **fields(schedule, SCHEDULE_FIELDS),
        "session": str(schedule.session.public_id) if schedule.session else None,
        "starts_at": moment(schedule.starts_at),
        "ends_at": moment(schedule.ends_at),
        "words": schedule.words,
        "state": schedule.condition,
        "paused_by": schedule.paused_by or None,
        "paused_why": schedule.paused_why or None,
        "due_moment": moment(schedule.due_moment),
        "due_at": moment(schedule.due_at),
        "url": schedule.get_absolute_url(),
    }


def event_json(event: Event) -> dict[str, Any]:
    """An event; `offset` and `length` say where its raw line lies in the run's output."""
    return {
        "seq": event.seq,
        "kind": str(event.kind),
        "text": event.text,
        "payload": event.payload,
        "offset": event.offset,
        "length": event.length,
        "created": moment(event.created),
    }


def container_json(container: Container) -> dict[str, Any]:
    """A container; the times, the exit code and `oom` are those of the last run in it."""
    return {
        "name": container.name,
        "engine_id": container.engine_id,
        "agent": container.agent.name,
        "session": str(container.session.public_id) if container.session else None,
        "state": container.state,
        "image": container.image,
        "scope": container.scope or None,
        "created": moment(container.created),
        "started_at": moment(container.started_at),
        "finished_at": moment(container.finished_at),
        "exit_code": container.exit_code,
        "oom": container.oom,
        "kept_until": moment(container.kept_until),
        "disk_bytes": container.disk_bytes,
        "disk_at": moment(container.disk_at),
        "removed_at": moment(container.removed_at),
    }


def agent_json(agent: Agent, docker: DockerSettings) -> dict[str, Any]:
    """An agent by its fields' names, sizes in bytes and durations in seconds."""
    return {
        **fields(agent, AGENT_FIELDS),
        "docker": fields(docker, DOCKER_FIELDS),
        "url": agent.get_absolute_url(),
    }


def fields(row: Model, names: Iterable[str]) -> dict[str, Any]:
    """The named fields of a row; another row goes by its name."""
    found = {name: getattr(row, name) for name in names}
    return {name: str(value) if isinstance(value, Model) else value for name, value in found.items()}


def moment(time: datetime | None) -> str | None:
    """ISO 8601 in UTC, to the microsecond."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if time else None
