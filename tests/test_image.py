"""The agent image: what is in the real one, and what is refused."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import docker
import pytest
from django.conf import settings
from django.core.management import call_command

from agents import image
from agents.runtimes import RunError
from agents.runtimes.image import Images, images
from tests.conftest import ROOT

PINNED = json.loads((image.RECIPE / "claude-code.json").read_text())


@pytest.fixture(scope="module")
def agent_image(engine: docker.DockerClient) -> str:
    with images() as there:
        image.ensure(there, settings.HERDWEB_IMAGE, print)
    return str(settings.HERDWEB_IMAGE)


def inside(engine: docker.DockerClient, name: str, script: str) -> str:
    """What a script prints under the hardened set."""
    output: bytes = engine.containers.run(
        name,
        ["sh", "-c", script],
        user="1000:1000",
        init=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        tmpfs={"/home/agent": "uid=1000,gid=1000", "/tmp": ""},
        labels={"herdweb.instance": settings.HERDWEB_INSTANCE},
        remove=True,
    )
    return output.decode().strip()


def forged_recipe(folder: Path) -> Path:
    """Our recipe, in which the pinned checksum is that of something else."""
    recipe = Path(shutil.copytree(image.RECIPE, folder / "recipe"))
    pinned = json.loads((recipe / "claude-code.json").read_text())
    for package in pinned["packages"].values():
        package["integrity"] = "sha512-" + "A" * 86 + "=="
    (recipe / "claude-code.json").write_text(json.dumps(pinned))
    return recipe


def test_the_agent_is_a_plain_user_in_its_workspace(engine: docker.DockerClient, agent_image: str) -> None:
    who = inside(engine, agent_image, "id -u; id -un; id -g; echo $HOME; pwd")
    assert who.split() == ["1000", "agent", "1000", "/home/agent", "/workspace"]


def test_the_pinned_cli_runs_under_the_hardened_set(engine: docker.DockerClient, agent_image: str) -> None:
    assert inside(engine, agent_image, "claude --version").split()[0] == PINNED["version"]


def test_the_usual_tools_are_there(engine: docker.DockerClient, agent_image: str) -> None:
    tools = "git rg jq curl python3 claude"
    found = inside(engine, agent_image, f"for tool in {tools}; do command -v $tool; done")
    assert [Path(line).name for line in found.splitlines()] == tools.split()
    assert inside(engine, agent_image, "ls /etc/ssl/certs/ca-certificates.crt")


def test_neither_node_nor_sudo_is_there(engine: docker.DockerClient, agent_image: str) -> None:
    assert inside(engine, agent_image, "command -v node npm sudo || echo none") == "none"


def test_nothing_in_it_is_setuid(engine: docker.DockerClient, agent_image: str) -> None:
    assert inside(engine, agent_image, "find / -xdev -perm /6000 2>/dev/null; echo end") == "end"


def test_its_labels_tell_the_cli_and_the_recipe(engine: docker.DockerClient, agent_image: str) -> None:
    labels = engine.images.get(agent_image).labels
    assert labels[image.VERSION_LABEL] == labels["org.opencontainers.image.version"] == PINNED["version"]
    assert labels[image.RECIPE_LABEL] == image.digest(image.RECIPE)


def test_building_again_does_nothing(agent_image: str) -> None:
    out, progress = io.StringIO(), io.StringIO()
    call_command("build_agent_image", json=True, stdout=out, stderr=progress)
    facts = json.loads(out.getvalue())
    assert facts["built"] is False
    assert facts["image"] == agent_image
    assert facts["digest"].startswith("sha256:")
    assert facts["size"] > 100_000_000
    assert facts["claude_code"] == PINNED["version"]
    assert progress.getvalue() == ""


def test_a_package_that_is_not_the_pinned_one_is_refused(engine: docker.DockerClient, tmp_path: Path) -> None:
    name = "herdweb-test/forged"
    said: list[str] = []
    with images() as there, pytest.raises(RunError, match="is not what was pinned, so nothing was built"):
        image.ensure(there, name, said.append, recipe=forged_recipe(tmp_path))
    assert Images(engine).find(name) is None
    assert said == [f"Fetching Claude Code {PINNED['version']} from the npm registry"]


def test_an_operators_own_image_is_left_alone(tiny_image: str) -> None:
    with images() as there:
        built = image.ensure(there, tiny_image, print)
    assert not built.built
    assert "not of herdweb's making" in str(built)


def test_an_architecture_without_a_pin_is_named() -> None:
    with pytest.raises(RunError, match="pinned for amd64, arm64; this engine is riscv64"):
        image.pin(image.RECIPE, "riscv64")


def test_without_an_engine_the_remedy_is_given() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "build_agent_image"],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "systemctl start docker" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_registry_and_root_the_commands_are_given(
    monkeypatch: pytest.MonkeyPatch, engine: docker.DockerClient
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RunError, match="sudo debootstrap --force-check-gpg --variant=minbase bookworm"):
        image.make_base(Images(engine))
