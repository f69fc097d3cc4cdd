"""What a person may type, through the forms that admin, pages and commands share."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from agents import jobs
from agents.forms import AgentForm, DockerSettingsForm, RowForm, RunForm
from agents.models import Agent, Session
from tests.conftest import execute

# Fixed, for tests run in several processes that have to agree on their names.
NOBODYS = "829f9928-cdb9-48da-8960-e04f1e40b658"
pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]


def filled(kind: type[RowForm], **typed: Any) -> RowForm:
    """A form of a new row as a browser sends it, with some fields typed over."""
    empty = kind()
    data = {
        name: field.prepare_value(empty.get_initial_for_field(field, name))
        for name, field in empty.fields.items()
    }
    return kind({**data, **({"name": "web"} if kind is AgentForm else {}), **typed})


AGENT = [
    # 1 to 8
    ("name", "", "Name is required."),
    ("name", "   ", "Name is required."),
    (
        "name",
        "../../etc/passwd",
        "Name may contain a-z, 0-9, - and _ (1 to 63 characters), starting with a letter.",
    ),
    ("name", "w" * 64, "This one has 64."),
    ("name", "w" * 500, "This one has 500."),
    ("name", "we\x00b", "Name may contain"),
    ("name", "we\nb", "Name may contain"),
    ("name", "\u0430dmin", "Name may contain"),
    ("name", "Web", "Name may contain"),
    # 9, 13
    ("description", "x" * 10_000, "at most 2000 characters (it has 10000)"),
    ("description", "a\x00", "Contains a NUL character at position 2."),
    ("description", "a\ud800", "Not valid UTF-8 at position 2."),
    ("default_prompt", "a\x00", "Contains a NUL character at position 2."),
    ("default_prompt", "x" * 20 * 1024**2, "Prompt is 20 MB; the limit is 1 MB."),
    ("system_prompt", "a\x00", "Contains a NUL character at position 2."),
    # 39, 41
    *[
        ("time_limit", text, "Must be between 1s and 7d.")
        for text in ("0", "-1", "1 year", "8d", "1,5", "NaN")
    ],
    *[("idle_limit", text, "Must be between 1s and 1d.") for text in ("0", "-5m", "25h")],
    *[("cancel_grace", text, "Must be between 0s and 5m.") for text in ("-1", "1 year", "6m")],
    *[("exit_grace", text, "Must be between 1s and 10m.") for text in ("0", "11m")],
    *[("output_limit", text, "Must be between 1 MB and 4 GB.") for text in ("0", "1k", "5g", "abc")],
    *[
        ("max_concurrent", text, "Must be between 1 and 64.")
        for text in ("0", "-1", "10^9", "1000000000", "x", "")
    ],
    *[("max_turns", text, "greater than or equal to 1") for text in ("0", "-1")],
    ("max_turns", "10001", "less than or equal to 10000"),
    # 42, 43
    ("model", "x" * 500, "up to 128 of A-Z"),
    ("model", "-x", "starts with a letter or digit"),
    (
        "permission_mode",
        "--root",
        "--root is not allowed. Choose: acceptEdits, auto, bypassPermissions, dontAsk",
    ),
    ("runtime", "bash", "bash is not allowed. Choose: claude_cli, command, echo."),
    ("system_prompt_mode", "x", "Choose: append, replace."),
    ("allowed_tools", "Read\nBash(rm:*", "'Bash(rm:*' is not a tool."),
    ("denied_tools", "\n".join(["Read"] * 1000), "At most 200 entries; there are 1000."),
    ("setting_sources", "everywhere", "Choose from: user, project, local."),
    ("enabled", "maybe", "Must be true or false"),
    ("command", "it's", "A quote is not closed in"),
    ("command", '["a", 1]', "strings only"),
    ("mcp_servers", "{", "This is not valid JSON"),
    ("mcp_servers", "[" * 100_000, "nested too deep"),
    ("mcp_servers", "[]", "A JSON object is expected"),
    ("mcp_servers", "9" * 5000, "not valid JSON"),
    ("mcp_servers", '{"a": {"command": NaN}}', "no NaN"),
    ("mcp_servers", '{"a": {"command": 1e999}}', "no NaN and no infinite"),
    ("working_directory", "/etc", "/etc is outside the allowed roots."),
    ("working_directory", "x", "is not an absolute path"),
    ("workspace_scope", "fleet", "Choose: agent, session, run."),
    *[
        ("git_url", text, "is not the address of a git repository")
        for text in (
            "git://host/x",
            "http://host/x",
            "ssh://host/x",
            "git@host:x",
            "ext::sh -c id",
            "--upload-pack=id",
            "https://host",
            "https://host/x y",
            "https://host/x?token=1",
            "https://host/x#y",
            "file://host/x",
            "file:///srv/%2e%2e/etc",
            "/srv/x",
            "https://h\u00f6st/x",
        )
    ],
    ("git_url", "https://me:secret@host/x", "must not hold a name or a password"),
    ("git_url", "file:///etc", "/etc is outside the allowed roots."),
    *[
        ("git_branch", text, "is not a branch's name")
        for text in (
            "-x",
            "a..b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a b",
            "a~1",
            "a:b",
            "@{u}",
            "x.",
        )
    ],
    ("git_depth", "0", "greater than or equal to 1"),
    ("git_credential", "HERDWEB_SECRET_KEY", "HERDWEB_GIT_ENV lists: GIT_TOKEN."),
    *[
        ("git_push", text, "needs one of the placeholders")
        for text in ("main", "{run", "{branch}", "{}", "{0}/{run}")
    ],
    *[
        ("git_push", text, "is not a branch's name")
        for text in ("-{run}", "x {run}", "{{run}}", "{run}..", "{run}/{")
    ],
]

DOCKER = [
    # 16
    ("image", "", "not a valid image reference"),
    *[
        ("image", text, "not a valid image reference")
        for text in ("UPPER/Case", "a b", "img:tag:tag", "--privileged", "http://x/y", ";reboot", "x" * 400)
    ],
    # 20 to 24
    *[
        ("memory", text, "Must be between 64 MB and 64 GB.")
        for text in ("0", "-1", "1m", "abc", "2gb2", "1e9g", "99t", "", "9" * 400, "NaN")
    ],
    *[
        ("cpus", text, "Must be between 0.1 and 64.")
        for text in ("0", "-0.5", "1000", "NaN", "inf", "-inf", "1,5", "", "1e400")
    ],
    *[
        ("pids_limit", text, "Must be between 16 and 4096.")
        for text in ("0", "-1", "5", "10^9", "1000000000", "9" * 5000, "1.5")
    ],
    *[
        ("user", text, "Must be a non-root uid:gid")
        for text in (
            "0",
            "0:0",
            "root",
            "1000:0",
            "-1",
            "4294967296",
            "4294967296:4294967296",
            "1000:1000\n0:0",
        )
    ],
    *[
        ("network", text, "is not allowed. Choose: bridge, none.")
        for text in ("host", "container:abc", "bridge; x", "unknown")
    ],
    ("workspace_mode", "rwx", "Choose: rw, ro."),
    # 25 to 28
    *[
        ("mounts", f"{path}:/data", "outside the allowed roots")
        for path in ("/", "/etc", "/var/run/docker.sock", "/proc")
    ],
    ("mounts", "relative:/data", "is not an absolute path"),
    ("mounts", "C:\\x", "is not an absolute path"),
    ("mounts", "a:b:c:d", "a path cannot contain ':'"),
    ("mounts", "x:/y:rwx", "the mode is ro or rw"),
    ("mounts", '["/a\\nb:/y"]', "is not an absolute path"),
    # 29 to 31, 34
    ("tmpfs", "/cache:size=0", "is not allowed. Allowed are"),
    ("tmpfs", "/cache:exec,suid", "'suid'"),
    ("tmpfs", "no-slash", "does not begin with an absolute path"),
    *[("env", f"{name}=x", "invalid as a variable's name") for name in ("1A", "", "A B")],
    ("env", '{"A=B": "x"}', "invalid as a variable's name"),
    ("env", "novalue", "not of the form NAME=value"),
    *[
        ("env", f"{name}=x", "is reserved by herdweb")
        for name in ("LD_PRELOAD", "PATH", "HOME", "ANTHROPIC_BASE_URL", "NODE_OPTIONS", "DOCKER_HOST")
    ],
    ("env", '{"A": "\\u0000"}', "NUL character"),
    ("env", "A=" + "x" * 1024**2, "longer than 32 KB"),
    ("labels", "herdweb.run=1", "the prefix herdweb. is reserved"),
    ("labels", "=x", "is not a label's name"),
    ("labels", "\n".join(f"l{n}=x" for n in range(10_000)), "At most 32 labels; there are 10000."),
]


def short(value: object) -> str:
    return repr(value)[:30]


@pytest.mark.parametrize(("field", "typed", "expected"), AGENT, ids=short)
def test_an_agent_s_field_says_what_is_allowed(field: str, typed: str, expected: str) -> None:
    form = filled(AgentForm, **{field: typed})
    assert expected in str(form.errors.as_data().get(field))
    assert list(form.errors) == [field]
    assert form.as_p()


@pytest.mark.parametrize(("field", "typed", "expected"), DOCKER, ids=short)
def test_a_docker_setting_says_what_is_allowed(field: str, typed: str, expected: str) -> None:
    form = filled(DockerSettingsForm, **{field: typed})
    assert expected in str(form.errors.as_data().get(field))
    assert list(form.errors) == [field]
    assert form.as_p()


ACCEPTED = [
    (AgentForm, "description", "😀 \u202egnirts <script>alert(1)</script>", None),
    (AgentForm, "default_prompt", "--dangerously-skip-permissions", None),
    (AgentForm, "time_limit", "2h", 7200),
    (AgentForm, "cancel_grace", "0", 0),
    (AgentForm, "command", "python3 work.py 'a b'", ["python3", "work.py", "a b"]),
    (AgentForm, "mcp_servers", "", {}),
    (AgentForm, "mcp_servers", "null", {}),
    (AgentForm, "enabled", "off", False),
    (AgentForm, "max_turns", "", None),
    (DockerSettingsForm, "enabled", "YES", True),
    (DockerSettingsForm, "memory", "1.5g", 1536 * 1024**2),
    (DockerSettingsForm, "cpus", "0.5", 0.5),
    (DockerSettingsForm, "image", "localhost:5000/herd/agent:v1", None),
    (DockerSettingsForm, "env", '{"A": "line\\nline"}', {"A": "line\nline"}),
    (DockerSettingsForm, "env", "A=B=C", {"A": "B=C"}),
    (DockerSettingsForm, "tmpfs", "/cache:size=64m\n\n/var/lib", ["/cache:size=64m", "/var/lib"]),
]


@pytest.mark.parametrize(("kind", "field", "typed", "expected"), ACCEPTED, ids=short)
def test_is_accepted(kind: type[RowForm], field: str, typed: str, expected: object) -> None:
    form = filled(kind, **{field: typed})
    assert form.errors == {}
    assert form.cleaned_data[field] == (typed if expected is None and field != "max_turns" else expected)


def test_a_box_that_was_not_ticked_is_off() -> None:
    form = filled(AgentForm)
    data = {name: value for name, value in form.data.items() if name != "enabled"}
    again = AgentForm(data)
    assert again.is_valid()
    assert again.cleaned_data["enabled"] is False


def test_a_name_that_differs_by_case_alone_is_already_used(make_agent: MakeAgent) -> None:
    make_agent("web")
    for name in ("Web", "WEB", "web"):
        assert "already used (names are compared without case)" in str(filled(AgentForm, name=name).errors)


def test_an_agent_cannot_be_renamed(make_agent: MakeAgent) -> None:
    agent = make_agent("web")
    form = AgentForm({**filled(AgentForm).data, "name": "other"}, instance=agent)
    assert form.errors == {"name": ["The name of an agent cannot be changed."]}


def test_the_command_runtime_needs_a_program() -> None:
    assert "needs a program" in str(filled(AgentForm, runtime="command").errors["command"])


def test_a_grace_longer_than_the_time_limit_is_refused() -> None:
    form = filled(AgentForm, time_limit="20s", cancel_grace="1m")
    assert form.errors == {"cancel_grace": ["Must not be longer than the time limit, 20s."]}


def test_a_short_time_limit_may_keep_the_default_grace() -> None:
    assert filled(AgentForm, time_limit="2s").is_valid()


def test_one_target_is_not_mounted_twice(settings: Settings, tmp_path: Any) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path.resolve())]
    twice = filled(DockerSettingsForm, mounts=f"{tmp_path}:/data\n{tmp_path}:/data:rw")
    both = filled(DockerSettingsForm, mounts=f"{tmp_path}:/data", tmpfs="/data:size=1m")
    assert twice.errors == {"mounts": ["/data is used twice."]}
    assert both.errors == {"mounts": ["/data is used twice: here and in tmpfs."]}


@pytest.mark.parametrize("target", ["/", "/proc", "/sys", "/dev", "/workspace/../etc", "//etc"])
def test_reserved_paths_are_not_mounted_over(target: str, settings: Settings, tmp_path: Any) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path.resolve())]
    assert "reserved path" in str(filled(DockerSettingsForm, mounts=f"{tmp_path}:{target}").errors["mounts"])


def ask(agent: Agent, prompt: str = "go", mode: str = "new", session: str = "") -> RunForm:
    return RunForm(agent, {"prompt": prompt, "mode": mode, "session": session})


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "Prompt is required"),
        (" \n", "Prompt is required"),
        ("x" * 20 * 1024**2, "Prompt is 20 MB; the limit is 1 MB."),
        ("ab\x00", "Contains a NUL character at position 3."),
        ("ab\ud800", "Not valid UTF-8 at position 3."),
    ],
    ids=short,
)
def test_a_prompt_is_refused(make_agent: MakeAgent, prompt: str, expected: str) -> None:
    assert expected in str(ask(make_agent(), prompt).errors["prompt"])


@pytest.mark.parametrize(
    "prompt",
    [
        '"; rm -rf / #',
        "$(id)",
        "`id`",
        "%s",
        "{{7*7}}",
        "--dangerously-skip-permissions",
        "x" * 200 * 1024,
        " a ",
    ],
    ids=short,
)
def test_a_prompt_is_taken_literally(make_agent: MakeAgent, prompt: str) -> None:
    form = ask(make_agent(), prompt)
    assert form.is_valid()
    assert form.submission["prompt"] == prompt


def test_no_prompt_is_the_default_prompt(make_agent: MakeAgent) -> None:
    form = ask(make_agent(default_prompt="as always"), "")
    assert form.is_valid()
    assert form.submission["prompt"] == "as always"


def test_an_agent_that_is_off_is_not_started(make_agent: MakeAgent) -> None:
    assert "switched off" in str(ask(make_agent(enabled=False)).errors)


@pytest.mark.parametrize("session", ["x", "0", "../1", NOBODYS, "\x00", "\ud800", "9" * 4000], ids=short)
def test_a_session_that_is_not_there_is_not_found(make_agent: MakeAgent, session: str) -> None:
    assert set(ask(make_agent(), mode="continue", session=session).errors) == {"session"}


@pytest.mark.django_db(transaction=True)
def test_another_agent_s_session_looks_like_none(make_agent: MakeAgent) -> None:
    other = execute(jobs.submit(make_agent("other", runtime="command", command=["cat"]), "one")).session
    assert isinstance(other, Session)
    mine = make_agent("mine", runtime="command", command=["cat"])
    absent = ask(mine, mode="continue", session=str(uuid4())).errors
    assert ask(mine, mode="continue", session=str(other.public_id)).errors == absent
    assert "Not found" in str(absent)


@pytest.mark.django_db(transaction=True)
def test_a_session_needs_to_be_told_what_to_do_with_it(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = execute(jobs.submit(agent, "one")).session
    assert session is not None
    assert "Choose whether" in str(ask(agent, mode="", session=str(session.public_id)).errors)
    assert ask(agent, mode="continue", session=str(session.public_id)).is_valid()
    assert "cannot fork sessions" in str(ask(agent, mode="fork", session=str(session.public_id)).errors)
    assert "Choose the session" in str(ask(agent, mode="continue").errors)


ANYTHING = st.one_of(
    st.text(),
    st.text(st.characters(codec=None)),
    st.from_regex(r"\A[/:a-z,=.\[\]{}\"0-9-]*\Z"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ).map(json.dumps),
)
often = hypothesis_settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, name) for kind in (AgentForm, DockerSettingsForm) for name in kind.base_fields]
)
def test_nothing_that_is_typed_breaks_a_form(
    kind: type[RowForm], field: str, db: None, settings: Settings
) -> None:
    settings.HERDWEB_MOUNT_ROOTS = ["/"]

    @often
    @given(ANYTHING)
    def never_raises(typed: str) -> None:
        form = filled(kind, **{field: typed})
        if form.is_valid():
            again = kind(instance=form.instance)
            shown = again.fields[field].prepare_value(again.get_initial_for_field(again.fields[field], field))
            assert filled(kind, **{field: shown}).is_valid()
        assert form.as_p()

    never_raises()


def test_nothing_that_is_typed_breaks_the_form_of_a_run(make_agent: MakeAgent) -> None:
    agent = make_agent()

    @often
    @given(ANYTHING, ANYTHING, ANYTHING)
    def never_raises(prompt: str, mode: str, session: str) -> None:
        form = ask(agent, prompt, mode, session)
        if form.is_valid():
            assert form.submission["prompt"] == prompt

    never_raises()


def test_rules_are_the_models_own_too(make_agent: MakeAgent) -> None:
    agent = make_agent()
    agent.model = "--model"
    with pytest.raises(ValidationError, match="up to 128 of"):
        agent.full_clean()
