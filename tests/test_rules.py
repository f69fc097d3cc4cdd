"""What may be typed, field by field; the numbers are the rows of the list of bad inputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from agents.models import fields, rules

DIGEST = "sha256:" + "0" * 64
NAME_RULE = "Name may contain a-z, 0-9, - and _"


def refusal(rule: Callable[[Any], object], value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        rule(value)
    return " ".join(caught.value.messages)


REFUSED: list[tuple[Callable[[Any], object], object, str]] = [
    # 2, 3, 4, 5, 6, 7, 8: names
    *[
        (rules.agent_name, name, NAME_RULE)
        for name in (
            "../../etc/passwd",
            "web/2",
            "web\\2",
            ".",
            "..",
            "-x",
            "_x",
            "2web",
            "a" * 64,
            "\u0430dmin",
            "we\u200bb",
            "we\u200fb",
            "Web",
            "we\nb",
            "web\n",
            "we\x00b",
            "we\x1bb",
            "<script>alert(1)</script>",
            "web 2",
            "wéb",
            "\ud800",
        )
    ],
    (rules.agent_name, "a" * 64, "This one has 64"),
    (rules.agent_name, "   ", "Name is required."),
    # 12, 13, 15: prompts
    (rules.prompt, "x" * 20 * 1024**2, "Prompt is 20 MB; the limit is 1 MB."),
    (rules.prompt, "x" * (1024**2 + 1), "the limit is 1 MB."),
    (rules.prompt, "ab\x00c", "Contains a NUL character at position 3."),
    (rules.prompt, "ab\ud800", "Not valid UTF-8 at position 3."),
    # 16, 17: images
    *[
        (rules.image, image, "not a valid image reference")
        for image in (
            "UPPER/Case",
            "UPPER/case",
            "a b",
            "img:tag:tag",
            "--privileged",
            "http://x/y",
            ";reboot",
            "img:",
            "img@sha256:12",
            "a//b",
            "/a",
            "a/",
            "a" * 256,
            "img\n",
            "-a",
            "localhost:/a",
            "im\x00g",
        )
    ],
    # 23: users
    *[
        (rules.user, user, "non-root uid:gid")
        for user in (
            "0",
            "0:0",
            "root",
            "1000:0",
            "0:1000",
            "-1",
            "4294967296",
            "4294967296:1",
            "\u0661:\u0661",
            "1:1:1",
        )
    ],
    # 27, 28: mounts
    (rules.mounts, ["C:\\x"], "not an absolute path"),
    (rules.mounts, ["a:b:c:d"], "a path cannot contain ':'"),
    (rules.mounts, ["x:/y:rwx"], "the mode is ro or rw"),
    (rules.mounts, ["/a"], "not of the form"),
    (rules.mounts, ["relative:/y"], "not an absolute path"),
    (rules.mounts, ["/a\nb:/y"], "not an absolute path"),
    (rules.mounts, ["/a\x00b:/y"], "NUL character"),
    (rules.mounts, ["/a\ud800b:/y"], "Not valid UTF-8"),
    *[
        (rules.free_target, target, "reserved path")
        for target in (
            "/",
            "//",
            "/proc",
            "/sys",
            "/dev",
            "/workspace/../etc",
            "/etc/passwd",
            "//etc",
            "//etc/x",
            "/etc/",
            "/dev/shm",
            "/run/herdweb",
            "/workspace",
            "/home/agent",
            "/home",
            "/usr/bin",
            "/tmp/x",
        )
    ],
    *[
        (rules.free_target, target, "not a plain absolute path")
        for target in ("data", "/data/", "/a//b", "/a,b", "/a\nb")
    ],
    # 29: memory file systems
    (rules.tmpfs, ["/cache:size=0"], "'size=0' in '/cache:size=0' is not allowed"),
    (rules.tmpfs, ["/cache:exec,suid"], "'suid'"),
    (rules.tmpfs, ["/cache:size=1t"], "size=64m"),
    (rules.tmpfs, ["/cache:size=17g"], "larger than 16 GB"),
    (rules.tmpfs, ["no-slash"], "does not begin with an absolute path"),
    (rules.tmpfs, ["/a/../etc"], "does not begin with an absolute path"),
    (rules.tmpfs, ["/etc"], "reserved path"),
    (rules.tmpfs, ["/a:size=1m", "/a"], "used twice"),
    (rules.tmpfs, [f"/t{n}" for n in range(33)], "At most 32 entries; there are 33."),
    # 30, 31: environment
    *[
        (rules.env, {name: "x"}, "is invalid as a variable's name")
        for name in ("1A", "A=B", "", "A B", "Ä", "A\n")
    ],
    *[
        (rules.env, {name: "x"}, "is reserved by herdweb")
        for name in (
            "LD_PRELOAD",
            "PATH",
            "HOME",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_API_KEY",
            "NODE_OPTIONS",
            "DOCKER_HOST",
            "path",
            "HERDWEB_RUN",
            "BASH_ENV",
        )
    ],
    (rules.env, {"A": "x\x00"}, "NUL character at position 2"),
    (rules.env, {"A": "x" * 1024**2}, "longer than 32 KB"),
    (rules.env, {f"A{n}": "" for n in range(201)}, "At most 200 variables"),
    # 34: labels
    (rules.labels, {"herdweb.run": "1"}, "the prefix herdweb. is reserved"),
    (rules.labels, {"": "x"}, "is not a label's name"),
    (rules.labels, {f"l{n}": "" for n in range(10_000)}, "At most 32 labels; there are 10000."),
    # 42, 43: model and tools
    *[(rules.model, model, "up to 128 of") for model in ("-x", "--model", "a b", "x" * 500, "a\n", "\u0430")],
    (rules.tools, ["Read", "Bash(rm:*"], "'Bash(rm:*' is not a tool"),
    (rules.tools, ["Read"] * 1000, "At most 200 entries; there are 1000."),
    (rules.tools, ["Read\nWrite"], "is not a tool"),
    (rules.tools, ["Bash(a\x00b)"], "is not a tool"),
    (rules.tools, ["--dangerously-skip-permissions"], "is not a tool"),
    (rules.setting_sources, ["everything"], "Choose from: user, project, local."),
    # Argument lists and MCP servers
    (rules.arguments, ["a\x00"], "NUL character"),
    (rules.arguments, ["x" * 128 * 1024], "at most 128 KB"),
    (rules.arguments, [" "], "The first item must be the program."),
    (rules.arguments, ["x"] * 1001, "At most 1000 entries"),
    (rules.mcp_servers, [], "A JSON object is expected"),
    (rules.mcp_servers, {"a": 1}, "A JSON object is expected"),
    (rules.mcp_servers, {"a b": {"command": "x"}}, "may contain A-Z"),
    (rules.mcp_servers, {"a": {}}, "needs a command or a url"),
    (rules.mcp_servers, {"a": {"command": "x\x00"}}, "NUL character"),
    (rules.mcp_servers, {"a": {"command": "x", "\ud800": 1}}, "Not valid UTF-8"),
    (rules.mcp_servers, {"a": {"command": float("nan")}}, "no NaN"),
    (rules.mcp_servers, {"a": {"command": "x" * 300_000}}, "longer than 256 KB"),
    (rules.mcp_servers, {"a": json.loads("[" * 30 + "]" * 30)}, "A JSON object is expected|deeper"),
    # 20, 39: sizes and durations
    *[
        (fields.parse_size, text, "Write it like 512m or 2g.")
        for text in ("-1", "abc", "2gb2", "1e9g", "", "9" * 400, "\u0663m")
    ],
    *[
        (fields.parse_seconds, text, "Write it like 30s, 5m, 2h or 1d.")
        for text in ("-1", "1 year", "1x", "", "\u0663s")
    ],
]


def short(value: object) -> str:
    """A name for a case, the same in every process."""
    return str(getattr(value, "__name__", repr(value)))[:40]


@pytest.mark.parametrize(("rule", "value", "expected"), REFUSED, ids=short)
def test_is_refused_with_what_is_allowed(rule: Callable[[Any], object], value: object, expected: str) -> None:
    said = refusal(rule, value)
    assert any(part in said for part in expected.split("|"))


ACCEPTED: list[tuple[Callable[[Any], object], object]] = [
    *[(rules.agent_name, name) for name in ("a", "web", "web-2", "web_2", "a" * 63)],
    # 11, 14: literal text, whatever it looks like
    *[
        (rules.prompt, prompt)
        for prompt in (
            '"; rm -rf / #',
            "$(id)",
            "`id`",
            "%s",
            "{{7*7}}",
            "--dangerously-skip-permissions",
            "x" * 200 * 1024,
            "x" * 1024**2,
            "\u202egnirts",
            "😀",
        )
    ],
    *[
        (rules.image, image)
        for image in (
            "herdweb/agent",
            "debian:bookworm-slim",
            "localhost/x",
            "localhost:5000/a/b:1",
            "Registry.example.org/a",
            "x@" + DIGEST,
            "r.example.org:5000/a_b/c--d:V1.0@" + DIGEST,
        )
    ],
    *[
        (rules.model, model)
        for model in ("sonnet", "claude-opus-4-5", "us.anthropic/x:1[1m]", "org/name@2025")
    ],
    (rules.tools, ["Read", "Bash(git *)", "mcp__x__*", "WebFetch(domain:example.org)", "*"]),
    (rules.tmpfs, ["/cache", "/var/cache:size=64m,noexec", "/tmp:size=1g,mode=1777"]),
    (rules.env, {"A": "line\nline", "_b1": ""}),
    (rules.labels, {"team": "web", "org.example/x": "ü"}),
    (rules.free_target, "/data"),
    (rules.free_target, "/workspace/lib"),
    (rules.free_target, "/home/agent/.cache"),
    (rules.arguments, ["sh", "-c", "$(id) \n ü", ""]),
    (
        rules.mcp_servers,
        {"a": {"command": "x", "args": ["é", 1, None, True]}, "b": {"url": "https://example.org"}},
    ),
]


@pytest.mark.parametrize(("rule", "value"), ACCEPTED, ids=short)
def test_is_accepted(rule: Callable[[Any], object], value: object) -> None:
    rule(value)


@pytest.mark.parametrize("path", ["/", "/etc", "/var/run/docker.sock", "/proc", "/tmp/../etc"])
def test_nothing_can_be_mounted_when_no_root_is_allowed(path: str) -> None:
    said = refusal(rules.host_directory, path)
    assert "is outside the allowed roots" in said
    assert "HERDWEB_MOUNT_ROOTS" in said


def test_a_link_that_leaves_the_allowed_root_is_refused(tmp_path: Path, settings: Settings) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path.resolve())]
    (tmp_path / "link").symlink_to("/")
    said = refusal(rules.host_directory, str(tmp_path / "link"))
    assert "it resolves outside, to /" in said
    assert f"Allowed roots: {tmp_path}" in said


def test_a_directory_below_an_allowed_root_is_accepted(tmp_path: Path, settings: Settings) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path.resolve())]
    (tmp_path / "data").mkdir()
    rules.mounts([f"{tmp_path}/data:/data:rw"])
    rules.working_directory(f"{tmp_path}/data")
    assert "is not a directory" in refusal(rules.working_directory, f"{tmp_path}/absent")


@pytest.mark.parametrize("path", ["/", "/proc/self", "/sys", "/dev", "/run", "/var/run/docker.sock"])
def test_the_system_itself_is_not_mounted_even_if_everything_is_allowed(
    path: str, settings: Settings
) -> None:
    settings.HERDWEB_MOUNT_ROOTS = ["/"]
    assert "the system's own directories" in refusal(rules.host_directory, path)


def test_herdweb_itself_is_not_mounted(settings: Settings) -> None:
    settings.HERDWEB_MOUNT_ROOTS = ["/"]
    for path in (
        settings.BASE_DIR,
        settings.BASE_DIR.parent,
        settings.BASE_DIR / "agents",
        settings.HERDWEB_STATE_DIR,
    ):
        assert "herdweb itself" in refusal(rules.host_directory, str(path))


def test_a_target_is_used_once() -> None:
    assert "/data is used twice" in refusal(rules.refuse_doubles, ["/data", "/x", "/data"])


TEXT = st.text(max_size=40)
no_rush = hypothesis_settings(deadline=None)


@no_rush
@given(st.integers(0, 2**50))
def test_a_size_reads_back_as_it_was_written(size: int) -> None:
    assert fields.parse_size(fields.write_size(size)) == size


@no_rush
@given(st.integers(0, 999_999_999))
def test_a_duration_reads_back_as_it_was_written(seconds: int) -> None:
    assert fields.parse_seconds(fields.write_seconds(seconds)) == seconds


@no_rush
@given(st.lists(TEXT, max_size=5), st.booleans())
def test_a_list_reads_back_as_it_was_written(items: list[str], words: bool) -> None:
    field = fields.LinesFormField(words=words, required=False)
    assert field.to_python(field.prepare_value(items)) == items


@no_rush
@given(st.dictionaries(TEXT, TEXT, max_size=5))
def test_pairs_read_back_as_they_were_written(pairs: dict[str, str]) -> None:
    field = fields.PairsFormField(required=False)
    assert field.to_python(field.prepare_value(pairs)) == pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python3 work.py 'a b'", ["python3", "work.py", "a b"]),
        ("python3\nwork.py\na b", ["python3", "work.py", "a b"]),
        ('["python3", "a\\nb"]', ["python3", "a\nb"]),
        ("", []),
    ],
)
def test_a_command_is_one_shell_like_line_or_many_or_json(text: str, expected: list[str]) -> None:
    assert fields.LinesFormField(words=True, required=False).clean(text) == expected


def test_a_list_that_holds_no_strings_is_refused() -> None:
    assert "strings only" in refusal(fields.LinesFormField().clean, "[1]")
    assert "A quote is not closed" in refusal(fields.LinesFormField(words=True).clean, "it's")
    assert "nested too deep" in refusal(fields.LinesFormField().clean, "[" * 100_000)
    assert "not valid JSON" in refusal(fields.PairsFormField().clean, '{"a"')
    assert "not of the form NAME=value" in refusal(fields.PairsFormField().clean, "novalue")


@pytest.mark.parametrize("text", ["", "  ", "null", "{}"])
def test_no_json_is_an_empty_object(text: str) -> None:
    assert fields.ObjectFormField(required=False).clean(text) == {}


def test_a_range_names_itself_as_people_write_it() -> None:
    assert str(fields.Between(1, 7 * 86400, fields.write_seconds)) == "Must be between 1s and 7d."
    assert "between" in refusal(fields.Between(0.1, 64), float("nan"))
