"""A site with some of everything, the addresses of all its pages, and a browser that complains."""

import os
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, WebError

from agents import archive, jobs, machine, schedules
from agents.attachments import Attachment
from agents.models import Agent, Audit, Beat, Container, Fire, Fleet, Run, SavedList, Schedule
from agents.models.agent import MB
from agents.runtimes import Beneath
from tests.conftest import execute

MakeAgent = Callable[..., Agent]
Person = Callable[..., User]
TRANSCRIPT = (Path(__file__).parent / "transcript.jsonl").read_text()

# A green square.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAT0lEQVR42u3PQQkAAAgEsItjJtMZ1Qi+hcEKLDX9WgQEBAQEBAQE"
    "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQELguwhiEP4esa3QAAAABJRU5ErkJggg=="
)
# Pages that answer a POST are reached by what is ticked or pressed on another one.
PRESSES = " > "
# For every address of ours (agents/urls.py) where it is looked at; the first one is named after it.
PAGES = {
    "dashboard": ["/"],
    "agents": ["/agents/"],
    "agent": ["/agents/reviewer/", "/agents/nightly-report/", "/agents/reviewer/?from={run}",
              "/agents/reviewer/?tab=sessions", "/agents/reviewer/?tab=containers"],
    "runs": ["/runs/", "/runs/?state=failed", "/runs/?agent=nobody"],
    "runs_bulk": ["/runs/ > all > Cancel …", "/runs/ > all > Delete …"],
    "run": ["/runs/{run}/", "/runs/{live}/", "/runs/{failed}/", "/runs/{waiting}/", "/runs/{run}/?q=page"],
    "sessions": ["/sessions/"],
    "session": ["/sessions/{session}/", "/sessions/{forgetful}/"],
    "session_files": ["/sessions/{session}/files/", "/sessions/{session}/files/?path=src/review.py",
                      "/sessions/{session}/files/?path=chart.png",
                      "/sessions/{session}/files/?path=core.bin"],
    "session_conversation": ["/sessions/{session}/conversation/", "/sessions/{forgetful}/conversation/",
                             "/sessions/{session}/conversation/?q=page"],
    "session_delete": ["/sessions/{forgetful}/ > Delete …"],
    "retention": ["/agents/reviewer/retention/", "/agents/docs-checker/retention/?keep_bytes=much"],
    "containers": ["/containers/"],
    "container": ["/containers/{container}/", "/containers/{living}/", "/containers/{inspected}/"],
    "schedules": ["/schedules/", "/schedules/?state=paused", "/schedules/?agent=nobody"],
    "schedule": ["/schedules/{nightly}/", "/schedules/{tripped}/", "/schedules/{over}/"],
    "schedule_new": ["/schedules/new/", "/schedules/new/?agent=reviewer"],
    "schedule_edit": ["/schedules/{nightly}/edit/"],
    "schedule_delete": ["/schedules/{nightly}/ > Delete …"],
    "schedules_week": ["/schedules/week/", "/schedules/week/?from=1999-01-01&zone=Nowhere"],
    "help": ["/help/"],
}  # fmt: skip
# Those that are no pages, and why.
NO_PAGES = {
    "run_cancel": "answers a POST, with a redirect",
    "run_again": "answers a POST, with a redirect",
    "run_markdown": "a download",
    "run_output": "a download",
    "run_errors": "a download",
    "run_patch": "a download",
    "run_events": "JSON, for the page of a run",
    "run_stream": "a stream, for the page of a run",
    "run_image": "a picture, on the page of a run",
    "run_attachment": "a download",
    "session_file": "a download",
    "session_picture": "a picture, on the page of a file",
    "session_now": "JSON, for the page of a conversation",
    "session_markdown": "a download",
    "session_jsonl": "a download",
    "run_pin": "answers a POST, with a redirect",
    "session_pin": "answers a POST, with a redirect",
    "session_rename": "answers a POST, with a redirect",
    "session_download": "a download",
    "session_restore": "answers a POST, with a redirect",
    "container_now": "parts of the page of a container",
    "container_stop": "answers a POST, with a redirect",
    "container_keep": "answers a POST, with a redirect",
    "container_remove": "answers a POST, with a redirect",
    "agent_pause": "answers a POST, with a redirect",
    "agent_resume": "answers a POST, with a redirect",
    "site_pause": "answers a POST, with a redirect",
    "site_resume": "answers a POST, with a redirect",
    "schedule_preview": "JSON, for the form of a schedule",
    "schedule_run": "answers a POST, with a redirect",
    "schedule_pause": "answers a POST, with a redirect",
    "schedule_anew": "answers a POST, with a redirect",
    "schedule_resume": "answers a POST, with a redirect",
    "schedules_pause": "answers a POST, with a redirect",
    "schedules_resume": "answers a POST, with a redirect",
    "list_save": "answers a POST, with a redirect",
    "list_forget": "answers a POST, with a redirect",
}
ADMIN_PAGES = {
    "admin": "/admin/",
    "admin-app": "/admin/agents/",
    "admin-password": "/admin/password_change/",
    "admin-agents": "/admin/agents/agent/",
    "admin-agent-add": "/admin/agents/agent/add/",
    "admin-agent": "/admin/agents/agent/{agent_pk}/change/",
    "admin-agent-delete": "/admin/agents/agent/{agent_pk}/delete/",
    "admin-agent-history": "/admin/agents/agent/{agent_pk}/history/",
    "admin-runs": "/admin/agents/run/",
    "admin-run": "/admin/agents/run/{run_pk}/change/",
    "admin-sessions": "/admin/agents/session/",
    "admin-session": "/admin/agents/session/{session_pk}/change/",
    "admin-containers": "/admin/agents/container/",
    "admin-container": "/admin/agents/container/{container}/change/",
    "admin-schedules": "/admin/agents/schedule/",
    "admin-schedule": "/admin/agents/schedule/{nightly}/change/",
    "admin-schedule-add": "/admin/agents/schedule/add/",
    "admin-fires": "/admin/agents/fire/",
    "admin-fire": "/admin/agents/fire/{fire_pk}/change/",
    "admin-fleets": "/admin/agents/fleet/",
    "admin-fleet": "/admin/agents/fleet/{fleet_pk}/change/",
    "admin-fleet-add": "/admin/agents/fleet/add/",
    "admin-events": "/admin/agents/event/",
    "admin-event": "/admin/agents/event/{event_pk}/change/",
    "admin-audits": "/admin/agents/audit/",
    "admin-audit": "/admin/agents/audit/{audit_pk}/change/",
    "admin-users": "/admin/auth/user/",
    "admin-user": "/admin/auth/user/{user_pk}/change/",
    "admin-user-add": "/admin/auth/user/add/",
    "admin-groups": "/admin/auth/group/",
    "admin-group": "/admin/auth/group/{group_pk}/change/",
    "missing": "/nothing/",
    "forbidden": "/admin/agents/run/add/",
}


@dataclass(frozen=True)
class World:
    """What there is, as the addresses need it."""

    run: Run
    values: dict[str, object]

    def pages(self) -> dict[str, str]:
        """All pages by name, with their addresses."""
        ours = {
            f"{name}-{number}" if number else name: path
            for name, paths in PAGES.items()
            for number, path in enumerate(paths)
        }
        return {name: path.format_map(self.values) for name, path in (ours | ADMIN_PAGES).items()}


def world(make_agent: MakeAgent, person: Person, image: str, admin: User) -> World:
    """Agents, runs in many states, sessions, containers, people, and what was noted of them."""
    inspected(make_agent("night-watch"))
    make_agent("nightly-report", description="Sums up what changed since yesterday.", enabled=False)
    failing = make_agent(
        "docs-checker", runtime="command", command=["sh", "-c", "echo broken link >&2; exit 3"]
    )
    SavedList.objects.create(user=admin, page="runs", name="What failed", query="state=failed")
    failed = execute(jobs.submit(failing, "Check every link in docs/.", by=admin))
    agent = make_agent(
        "reviewer", runtime="command", command=["cat"], docker_enabled=True, docker_image=image,
        docker_network="none", description="Reads pull requests and comments on them.",
    )  # fmt: skip
    agent.groups.add(Group.objects.get_or_create(name="Reviewers")[0])
    notes = Attachment("notes for the review.md", 8, lambda: [b"# Notes\n"])
    run = execute(jobs.submit(agent, TRANSCRIPT, by=admin, attached=[notes]))
    live = going(jobs.submit(agent, "Review the branch feature/search."))
    waiting = jobs.submit(agent, "Review the branch feature/paging as well.")
    waiting.wait(f"Agent limit 1/1: run {live.short_id} is live.")
    changed_by(run)
    forgetful = execute(jobs.submit(make_agent("parrot"), "Say this."))
    archived(forgetful)
    Audit.note(admin, Audit.Deed.CHANGED, "agent reviewer", detail="Changed model.", agent=agent)
    LogEntry.objects.log_actions(admin.pk, [agent], 2, "Changed model.", single_object=True)
    person("viewer", "Viewer", "Reviewers", staff=True)
    work_in(machine.state().workspace("reviewer"))
    planned(agent, failed, admin)
    return seen(run, live=live, failed=failed, waiting=waiting, forgetful=forgetful)


def planned(agent: Agent, run: Run, admin: User) -> None:
    """Schedules that are on, paused by their breaker, and over, with a log of every kind."""
    now = timezone.now()
    nightly = Schedule.objects.create(
        agent=agent, name="nightly", cron="30 2 * * mon-fri", time_zone="Europe/Berlin", owner=admin,
        saved_by="admin", blackouts=["2026-12-24 to 2026-12-26"], breaker=3, jitter=300,
        prompt="Review what came since {date}.",
    )  # fmt: skip
    often = Schedule.objects.create(agent=agent, name="often", interval=3600, time_zone="UTC")
    for each in (nightly, often):
        schedules.set_due(each, now)
    tripped = Schedule.objects.create(agent=agent, name="tripped", cron="*/5 * * * *", saved_by="admin")
    schedules.pause(
        tripped, "circuit breaker", "3 failures in a row, the last one run 1a2b3c4d: Exit code 3."
    )
    Schedule.objects.create(agent=agent, name="over", interval=60, ends_at=now - timedelta(days=1))
    for number, kind in enumerate(Fire.Kind.values, 1):
        ran = run if kind in ("started", "late") else None
        Fire.objects.create(
            schedule=nightly, moment=now - timedelta(days=number), kind=kind, run=ran, at=now,
            reason="" if kind == "started" else "Missed: nobody looked at the clock.",
        )  # fmt: skip
    Fire.objects.create(
        schedule=nightly, moment=now - timedelta(days=9), since=now - timedelta(days=30), count=15,
        kind="skipped", reason="Missed: nobody looked at the clock.",
    )  # fmt: skip
    Fleet.objects.create(name="night", max_concurrent=2, month_cost=20)
    for source in Beat.Source.values:
        Beat.objects.create(source=source, at=now - timedelta(minutes=5), host="alpha", expected_since=now)


def work_in(workspace: Path) -> None:
    """Some of every kind of file."""
    (workspace / "src").mkdir(exist_ok=True)
    (workspace / "src" / "review.py").write_text("def review(branch: str) -> str:\n    return branch\n" * 40)
    (workspace / "chart.png").write_bytes(b64decode(PICTURE))
    with (workspace / "core.bin").open("wb") as file:
        file.truncate(2 * 1024**4)
    for name in ("latest", "pipe"):
        (workspace / name).unlink(missing_ok=True)
    (workspace / "latest").symlink_to("/etc/hostname")
    os.mkfifo(workspace / "pipe")
    (workspace / "two\nlines \udcff.txt").write_text("x")


def inspected(agent: Agent) -> Container:
    """As the container of a failed run is that is kept for a while."""
    now = timezone.now()
    return Container.objects.create(
        engine_id="f" * 64, name="herdweb-inspected", image="herdweb-test/tiny", agent=agent,
        started_at=now, finished_at=now, exit_code=3, kept_until=now + timedelta(hours=5),
        disk_bytes=3 * MB, disk_at=now,
    )  # fmt: skip


def archived(run: Run) -> None:
    """A transcript that was rewritten, with both of its archives."""
    assert run.session
    home = Beneath(machine.state().path / run.session.home, machine.own_user())
    for text in (b"one\ntwo\n", b"three\n"):
        home.write({"talk.jsonl": text})
        archive.store(run.session, home, "talk.jsonl", run)


def changed_by(run: Run) -> None:
    """As a run is that worked in a clone and pushed what it did."""
    patch = b"diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n"
    machine.state().patch(str(run.public_id)).write_bytes(patch)
    files = [
        {"path": "a.py", "was": "", "status": "M", "added": 1, "removed": 1},
        {"path": "logo.png", "was": "picture.png", "status": "R", "added": None, "removed": None},
    ]
    changes = {
        "branch": "main", "base": "a" * 40, "start": "a" * 40, "head": "b" * 40, "end": "c" * 40,
        "files": files, "file_count": 2, "added": 1, "removed": 1, "commit_count": 1,
        "commits": [{"id": "b" * 40, "author": "reviewer", "subject": "Count to three"}],
        "patch_bytes": len(patch), "patch_cut": False, "left_out": ["film.mp4"],
        "push": {"branch": "herdweb/x", "commit": "c" * 40, "problem": "The server did not answer."},
    }  # fmt: skip
    Run.objects.filter(pk=run.pk).update(changes=changes)


def going(run: Run) -> Run:
    """As a run is while it lives in its container."""
    now = timezone.now()
    container = Container.objects.create(
        engine_id="e" * 64, name=f"herdweb-{run.short_id}", image="herdweb-test/tiny", agent=run.agent,
        started_at=now, sampled_at=now, memory_now=300 * MB, cpu_percent=42.0,
        limits={"Memory": 512 * MB, "NanoCpus": 2 * 10**9},
    )  # fmt: skip
    Run.objects.filter(pk=run.pk).update(
        state="running", started_at=now, last_output_at=now, container=container,
        deadline_at=now + timedelta(hours=1),
    )  # fmt: skip
    run.refresh_from_db()
    return run


def seen(run: Run, **others: Run) -> World:
    """The world around a run that was in a container."""
    run.refresh_from_db()
    assert run.session
    assert run.container
    forgetful = others.pop("forgetful").session
    assert forgetful
    values: dict[str, object] = {
        "run": run.public_id,
        "session": run.session.public_id,
        "forgetful": forgetful.public_id,
        "container": run.container.pk,
        "inspected": Container.objects.get(name="herdweb-inspected").pk,
        "living": others["live"].container_id,
        "agent_pk": run.agent_id,
        "run_pk": run.pk,
        "session_pk": run.session_id,
        "event_pk": run.events.earliest("pk").pk,
        "audit_pk": Audit.objects.latest("pk").pk,
        "fleet_pk": Fleet.objects.get(name="night").pk,
        "fire_pk": Fire.objects.earliest("pk").pk,
        **{each.name: each.pk for each in Schedule.objects.all()},
        "user_pk": User.objects.get(username="viewer").pk,
        "group_pk": Group.objects.get(name="Reviewers").pk,
    }
    return World(run, values | {name: other.public_id for name, other in others.items()})


# The browser's complaints.

WITNESS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`The policy forbids ${event.blockedURI || "something inline"} (${event.violatedDirective})`));
"""


class Complaints:
    """What goes wrong in the pages of a context, each with the address of its page.

    `expected` are answers that are no mistake, by address: the page of a missing row answers 404.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.found: list[str] = []
        self.expected: dict[str, int] = {}
        context.add_init_script(WITNESS)
        context.on("console", self._console)
        context.on(
            "weberror", lambda error: self.found.append(f"{error.page and error.page.url}: {error.error}")
        )
        context.on("response", self._response)
        context.on("requestfailed", self._failed)

    def _weberror(self, error: WebError) -> None:
        self.found.append(f"{error.page and error.page.url}: {error.error}")

    def _console(self, said: ConsoleMessage) -> None:
        # What could not be loaded is told with its address by its answer.
        if said.type in ("error", "warning") and "Failed to load resource" not in said.text:
            self.found.append(f"{said.page and said.page.url}: {said.text}")

    def _response(self, answer: Response) -> None:
        if answer.status >= 400 and self.expected.get(answer.url) != answer.status:
            self.found.append(f"{answer.url} answered {answer.status}")

    def _failed(self, request: Request) -> None:
        # Whoever leaves a page ends its stream.
        if request.failure != "net::ERR_ABORTED":
            self.found.append(f"{request.url} failed: {request.failure}")


def log_in(page: Page, name: str) -> None:
    page.goto("/login/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("a-password-for-tests")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")


@contextmanager
def visitor(browser: Browser, web: str, name: str, **options: Any) -> Iterator[tuple[Page, Complaints]]:
    """Somebody who has logged in, and what the browser complains of."""
    context = browser.new_context(base_url=web, viewport={"width": 1280, "height": 800}, **options)
    complaints = Complaints(context)
    page = context.new_page()
    log_in(page, name)
    yield page, complaints
    context.close()


def go(page: Page, address: str) -> None:
    """To an address, and on by the buttons that come after it."""
    path, *buttons = address.split(PRESSES)
    page.goto(path)
    for name in buttons:
        here = page.locator(f"main input[name='{name}'], main button:has-text('{name}')").first
        here.click()
    page.wait_for_load_state()


# What axe finds.

# Preloading would fetch style sheets anew, by their wrong addresses.
AXE = """async () => {
  const { violations } = await axe.run({ resultTypes: ["violations"], preload: false });
  return violations.flatMap(({ id, impact, nodes }) =>
    nodes.map((node) => [id, impact, node.target.flat().join(" "), node.failureSummary]));
}"""
# Findings in what Django's admin itself writes, by rule and by the beginning or end of the selector.
DJANGOS_OWN: dict[str, tuple[str, ...]] = {
    # SelectFilter2.js names its question marks, which have a label beside them.
    "aria-prohibited-attr": (".help-tooltip.search-label-icon",),
    # The two fields of a date and time have one label for the pair, and "Date:", "Time:" beside them.
    "label": ("#id_last_login", "#id_date_joined"),
    # The search field's label is a picture with a text of its own; what may be typed stands below.
    "label-title-only": ("#searchbar",),
}


def barriers(page: Page, name: str) -> list[str]:
    """What keeps people out of a page: rule, impact, element, and what is wrong."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = [
        each for each in page.evaluate(AXE) if not (name.startswith("admin") and is_djangos(*each[0:3:2]))
    ]
    return [f"{name}: {' | '.join(map(str, each))}" for each in found]


def is_djangos(rule: str, element: str) -> bool:
    """Whether a finding in the admin is not ours to mend."""
    known = DJANGOS_OWN.get(rule, ())
    return element.startswith(known) or element.endswith(known)
