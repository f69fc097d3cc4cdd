"""A first administrator and two agents to begin with."""

import secrets
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand
from django.db import transaction

from agents.models import Agent, DockerSettings
from herdweb.settings import ENVIRONMENT

MB = 1024**2

HELLO = """\
place="directly on this machine"
if [ "$PWD" = /workspace ]; then place="in a container of my own, without any network"; fi
echo "Hello! I am a small program, $place."
echo
echo "You said:"
sed 's/^/  | /'
echo
echo
echo "Who I am:"
echo "  $(id)"
echo "Where I am:"
echo "  $(uname -a)"
echo "What I see of the world:"
ls -lA / | tail -n +2 | sed 's/^/  /'
echo "What is in my workspace ($PWD):"
ls -lA | tail -n +2 | sed 's/^/  /'
"""

AGENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hello": (
        {
            "description": "Prints its prompt and what it sees of the world. It needs no key.",
            "runtime": "command",
            "command": ("sh", "-c", HELLO),
            "default_prompt": "Who are you, and what do you see?",
            "time_limit": 60,
        },
        {"enabled": True, "network": DockerSettings.Network.NONE, "memory": 128 * MB, "cpus": 0.5},
    ),
    "claude": (
        {
            "description": "Claude Code in a container. It needs a key: see docs/configuration.md.",
            "runtime": "claude_cli",
            # Nobody is there to be asked, and the container is what keeps it in.
            "allowed_tools": ("Bash",),
        },
        {"enabled": True},
    ),
}


class Command(BaseCommand):
    """Leaves alone whatever is there already."""

    help = "Create an administrator, unless there is one, and the agents hello and claude."

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Agents first: the password is the last thing on the screen."""
        for name, (fields, docker) in AGENTS.items():
            if not Agent.objects.filter(name__iexact=name).exists():
                create(name, fields, docker)
                self.stdout.write(f"Created the agent {name}.")
        if not User.objects.filter(is_superuser=True).exists():
            self.stdout.write(block(*administrator()))


@transaction.atomic
def create(name: str, fields: dict[str, Any], docker: dict[str, Any]) -> None:
    """One agent, by the rules that hold for every other."""
    agent = Agent(name=name, **fields)
    agent.full_clean()
    agent.save()
    settings = DockerSettings(agent=agent, **docker)
    settings.full_clean()
    settings.save()


def administrator() -> tuple[str, str]:
    """A new administrator's name and password; the name is the first that is free."""
    taken = set(User.objects.filter(username__startswith="admin").values_list("username", flat=True))
    name = next(name for name in ("admin", *(f"admin{n}" for n in range(2, 1000))) if name not in taken)
    password = secrets.token_urlsafe(12)
    User.objects.create_superuser(name, password=password)
    return name, password


def block(name: str, password: str) -> str:
    """What the operator must not overlook."""
    address = ENVIRONMENT.herdweb_base_url or f"http://127.0.0.1:{ENVIRONMENT.port}"
    lines = [f"Log in at  {address}", f"as         {name}", f"password   {password}"]
    lines += ["", "The password is shown only this once."]
    edge = "+" + "-" * 64 + "+"
    return "\n".join(["", edge, *(f"|  {line:<60}  |" for line in lines), edge, ""])
