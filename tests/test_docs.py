"""The docs name everything there is, and nothing that is not."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from django.core.management import get_commands

from agents.asjson import AGENT_FIELDS
from agents.forms import AgentForm, DockerSettingsForm, FleetForm, RowForm, SiteForm
from agents.models import Agent, Event, Run
from agents.models.agent import DOCKER_FIELDS
from agents.runtimes import RUNTIMES
from agents.scheduleform import ScheduleForm
from agents.urls import urlpatterns
from herdweb.environment import Environment
from tests.conftest import ROOT

DOCS = ROOT / "docs"


def named(page: str) -> set[str]:
    """What a page sets as code, by its first word."""
    text = (DOCS / page).read_text()
    return {code.split()[0] for code in re.findall(r"`([^`\n]+)`", text) if code.split()}


def rows(page: str) -> set[str]:
    """What the first columns of a page's tables name."""
    firsts = re.findall(r"^\| (`.+?`) \|", (DOCS / page).read_text(), re.M)
    return {code.split()[0] for first in firsts for code in re.findall(r"`([^`]+)`", first)}


COMMANDS = {name for name, app in get_commands().items() if app == "agents"}
VARIABLES = {name.upper() for name in Environment.model_fields}
FORMS: dict[str, type[RowForm]] = {
    "docker": DockerSettingsForm,
    "schedule": ScheduleForm,
    "fleet": FleetForm,
    "site": SiteForm,
}
FIELDS = set(AgentForm.base_fields) | {
    f"{of}.{name}" for of, form in FORMS.items() for name in form.base_fields
}
SCHEMA = json.loads((DOCS / "run.schema.json").read_text())


def test_every_environment_variable_is_explained() -> None:
    assert VARIABLES - rows("configuration.md") == set()


def test_every_field_is_explained_and_none_that_is_not() -> None:
    assert rows("configuration.md") - VARIABLES == FIELDS


def test_defaults_are_those_of_the_models() -> None:
    text = (DOCS / "configuration.md").read_text()
    for name in ("time_limit", "idle_limit", "start_limit", "cancel_grace"):
        written = AgentForm.base_fields[name].prepare_value(Agent().deadline(name))
        assert re.search(rf"^\| `{name}` \|.*\| `{written}`, or the fleet's \|", text, re.M)
    for name in ("exit_grace", "output_limit", "retry_delay"):
        written = AgentForm.base_fields[name].prepare_value(getattr(Agent(), name))
        assert re.search(rf"^\| `{name}` \|.*\| `{written}` \|", text, re.M)


def test_every_command_is_explained_and_none_that_is_not() -> None:
    first_table = {name for name in rows("commands.md") if name in COMMANDS}
    assert first_table == COMMANDS
    for page in ("README.md", "CHANGELOG.md", "docs/commands.md"):
        said = re.findall(r"manage\.py (\w+)", (ROOT / page).read_text())
        assert set(said) - {"COMMAND", "makemigrations", "migrate", "axes_reset"} <= COMMANDS


def test_every_page_is_listed_and_none_that_is_not() -> None:
    assert rows("pages.md") == {pattern.name for pattern in urlpatterns}


@pytest.mark.parametrize("words", [Run.State.values, Event.Kind.values, Run.Trigger.values], ids=str)
def test_every_state_kind_and_trigger_is_explained(words: list[str]) -> None:
    assert set(words) <= named("commands.md")


def test_every_runtime_is_named() -> None:
    assert set(RUNTIMES) <= named("configuration.md")


def test_the_schema_knows_every_state_and_trigger() -> None:
    assert SCHEMA["properties"]["state"]["enum"] == list(Run.State.values)
    assert SCHEMA["properties"]["trigger"]["enum"] == list(Run.Trigger.values)
    assert set(SCHEMA["properties"]) <= rows("commands.md")


def test_an_agent_s_json_has_every_field_that_a_person_can_set() -> None:
    assert list(AGENT_FIELDS) == list(AgentForm.base_fields)
    assert list(DOCKER_FIELDS) == list(DockerSettingsForm.base_fields)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))], ids=str
)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists() or target == "docs/screenshot.png", target
    for path in re.findall(r"`((?:agents|tests|templates|docs|scripts)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_layer_has_its_place_in_the_architecture() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    said = (DOCS / "architecture.md").read_text()
    assert [layer for layer in contract["layers"] if f"\n{layer}\n" not in said] == []
