"""A past that never was: rows by the hundred thousand, for load tests.

What is random is drawn from a generator with a fixed seed, so that two databases are alike; nothing
here is a secret.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import connection, models, transaction
from django.utils import timezone

from agents.models import Agent, Container, DockerSettings, Event, Run, Session
from agents.models.run import COLUMNS, INSERT

# In the prompt of every 10,000th run, the first of them among the oldest.
RARE, RARELY = "quokka", 10_000
BATCH = 1000
# Bytes of a line of output.
LINE = 300
SPAN = timedelta(days=365)
PEOPLE = 12
LIVE, PENDING = 20, 30
# Every third run has no container; a session has two runs and a half.
CONTAINED, NEW_SESSION = 2 / 3, 0.4

ENDS = {
    Run.State.SUCCEEDED: (88.0, "", 0),
    Run.State.FAILED: (6.5, "It ended with exit code 1: tests/test_paging.py failed.", 1),
    Run.State.CANCELLED: (2.5, "Cancelled by person-03.", 143),
    Run.State.TIMED_OUT: (2.2, "It was stopped after its time limit of 1h.", 143),
    Run.State.LOST: (0.8, "Its worker died, and it had no container that could be adopted.", None),
}
WORDS = (
    "review the branch and comment on every function that has no test look for races in the queue then"
    " write down what you changed and why run make check before you finish do not touch the migrations"
    " update the changelog when a page changes its address sort the imports keep the public names as"
    " they are find the slowest query of the report and explain its plan close issues that are fixed"
).split()
KINDS: tuple[tuple[str, int], ...] = (
    (Event.Kind.TOOL_USE, 34),
    (Event.Kind.TOOL_RESULT, 34),
    (Event.Kind.TEXT, 14),
    (Event.Kind.THINKING, 10),
    (Event.Kind.STATUS, 5),
    (Event.Kind.STDERR, 3),
)


class History:
    """Writes runs with their sessions, containers and events, spread over the last year."""

    def __init__(self, runs: int, events: int, agents: int, seed: int = 1) -> None:
        self.runs, self.events = runs, events
        self.random = Random(seed)  # noqa: S311
        self.begin = timezone.now() - SPAN
        self.agents = [an_agent(number) for number in range(1, agents + 1)]
        self.people = [a_person(number) for number in range(1, PEOPLE + 1)]
        self.config = {agent.pk: agent.freeze() for agent in self.agents}
        # As in life: a few agents do most of the work.
        self.weights = [1 / (number + 2) for number in range(agents)]
        self.open: dict[int, Session] = {}

    def write(self) -> Iterator[int]:
        """Write everything; yields the number of runs that are done after each batch."""
        for first in range(0, self.runs, BATCH):
            last = min(first + BATCH, self.runs)
            with transaction.atomic(), own_times(Run, Session, Container):
                insert_events(self.events_of(self.batch(first, last)))
            yield last

    def batch(self, first: int, last: int) -> list[Run]:
        """Runs by their numbers, with their sessions and containers."""
        chosen = self.random.choices(self.agents, self.weights, k=last - first)
        moments = [self.begin + SPAN * (number / self.runs) for number in range(first, last)]
        sessions = [self.session(agent, moment) for agent, moment in zip(chosen, moments, strict=True)]
        Session.objects.bulk_create([session for session in unique(sessions) if session.pk is None])
        runs = [
            self.run(number, session, moment)
            for number, session, moment in zip(range(first, last), sessions, moments, strict=True)
        ]
        self.share(runs)
        Session.objects.bulk_update(unique(sessions), ["turns", "cost_usd", "last_used"], batch_size=200)
        containers = [self.container(run) for run in runs]
        Container.objects.bulk_create([container for container in containers if container])
        for run, container in zip(runs, containers, strict=True):
            run.container = container
        return Run.objects.bulk_create(runs)

    def session(self, agent: Agent, moment: datetime) -> Session:
        """The one that a run continues, or a new one."""
        found = self.open.get(agent.pk)
        if found and self.random.random() > NEW_SESSION:
            return found
        public_id = self.uuid()
        made = Session(
            public_id=public_id,
            agent=agent,
            runtime=agent.runtime,
            home=f"docker-sessions/{agent.name}/{public_id}",
            working_directory="/workspace",
            title=self.words(4, 12)[:200],
            created=moment,
            last_used=moment,
        )
        self.open[agent.pk] = made
        return made

    def run(self, number: int, session: Session, moment: datetime) -> Run:
        """One run: ended long ago, or for the newest live or not started yet."""
        left = self.runs - number
        if left <= min(PENDING, self.runs // 10):
            state = self.random.choice(Run.PENDING)
        elif left <= min(PENDING + LIVE, self.runs // 5):
            state = self.random.choice(Run.LIVE)
        else:
            state = self.random.choices(list(ENDS), [end[0] for end in ENDS.values()])[0]
        rare = f" {RARE} " if number % RARELY == RARELY // 100 else " "
        run = Run(
            public_id=self.uuid(),
            agent=session.agent,
            config=self.config[session.agent_id],
            prompt=self.words(10, 60) + rare + self.words(20, int(self.random.lognormvariate(5, 1))),
            trigger=self.random.choice(Run.Trigger.values),
            requested_by=self.random.choice([*self.people, None]),
            session=session,
            state=state,
            created=moment,
            rung_at=moment,
        )
        if state not in Run.PENDING:
            self.begun(run, moment)
        if state in Run.TERMINAL:
            self.ended(run)
        return run

    def begun(self, run: Run, moment: datetime) -> None:
        """What is known of a run that has started."""
        run.started_at = run.last_output_at = moment + timedelta(seconds=self.random.uniform(0.1, 5))
        run.deadline_at = run.started_at + timedelta(hours=1)
        run.runtime_version = "2.0.1"

    def ended(self, run: Run) -> None:
        """Its end, and what the agent claims of it."""
        assert run.started_at  # noqa: S101
        assert run.session  # noqa: S101
        _, run.reason, run.exit_code = ENDS[Run.State(run.state)]
        run.finished_at = run.started_at + timedelta(seconds=self.random.lognormvariate(4.5, 1.2))
        if run.state == Run.State.SUCCEEDED:
            run.result, run.result_seen_at = self.words(20, 200), run.finished_at
            run.turns, run.cost_usd = self.random.randint(1, 40), round(self.random.lognormvariate(-2, 1), 4)
            run.input_tokens, run.output_tokens = run.turns * 9000, run.turns * 700
            run.suspect = self.random.random() < 0.01
            run.session.turns += run.turns
            run.session.cost_usd += run.cost_usd
        run.session.last_used = max(run.session.last_used, run.finished_at)

    def container(self, run: Run) -> Container | None:
        """The container of a run that started, if it had one."""
        if run.started_at is None or self.random.random() > CONTAINED:
            return None
        return Container(
            engine_id=f"{self.random.getrandbits(256):064x}",
            name=f"herdweb-history-{run.public_id}-1",
            image="herdweb/agent" if self.random.random() < 0.9 else "python:3.13-slim",
            image_digest=f"sha256:{self.random.getrandbits(256):064x}",
            agent=run.agent,
            session=run.session,
            labels={"herdweb.run": str(run.public_id), "herdweb.agent": run.agent.name},
            limits={"memory": 2 * 1024**3, "cpus": 2.0, "pids_limit": 512, "network": "bridge"},
            created=run.created,
            started_at=run.started_at,
            finished_at=run.finished_at,
            removed_at=run.finished_at,
            exit_code=run.exit_code,
            memory_peak=self.random.randint(50, 900) * 1024**2 if run.finished_at else None,
        )

    def share(self, runs: Sequence[Run]) -> None:
        """Say how many events each has: some have many, most have few."""
        shares = [self.random.lognormvariate(0, 1) for _ in runs]
        each = len(runs) * self.events / self.runs / sum(shares)
        for run, share in zip(runs, shares, strict=True):
            run.event_count = round(share * each)
            run.output_bytes = run.event_count * LINE

    def events_of(self, runs: Sequence[Run]) -> Iterator[tuple[Any, ...]]:
        """The events of runs in the order of `COLUMNS`."""
        some = [self.event(kind) for kind, weight in KINDS for _ in range(weight)]
        step = timedelta(seconds=1)
        for run in runs:
            when = run.started_at or run.created
            for seq in range(1, run.event_count + 1):
                kind, text, payload = self.random.choice(some)
                yield run.pk, seq, kind, text, payload, seq * LINE, LINE, when + seq * step

    def event(self, kind: str) -> tuple[str, str, str | None]:
        """Kind, text and payload of an event."""
        if kind == Event.Kind.TOOL_USE:
            block = {"id": f"toolu_{self.random.getrandbits(64):x}", "name": "Bash"}
            given = {"command": self.words(3, 20), "description": self.words(3, 8)}
            return kind, "Bash", json.dumps({"block": {**block, "input": given}})
        text = self.words(5, 80 if kind == Event.Kind.TOOL_RESULT else 30)
        payload = json.dumps({"block": {"type": kind}}) if kind == Event.Kind.TOOL_RESULT else None
        return kind, text, payload

    def words(self, least: int, most: int) -> str:
        """So many words, at random."""
        return " ".join(self.random.choices(WORDS, k=self.random.randint(least, max(least, most))))

    def uuid(self) -> UUID:
        """An id that no other history with this seed lacks."""
        return UUID(int=self.random.getrandbits(128), version=4)


def an_agent(number: int) -> Agent:
    """An agent of the past; one that starts again does no harm."""
    agent, made = Agent.objects.get_or_create(
        name=f"history-{number:02}",
        defaults={"runtime": "echo", "description": "Made by make_history, for load tests."},
    )
    if made:
        DockerSettings.objects.create(agent=agent)
    return Agent.objects.select_related("docker").get(pk=agent.pk)


def a_person(number: int) -> User:
    """Somebody who asked for runs, and who cannot log in."""
    person, made = User.objects.get_or_create(username=f"person-{number:02}")
    if made:
        person.set_unusable_password()
        person.save()
    return person


def unique(sessions: Sequence[Session]) -> list[Session]:
    """Each of them once, also those that have no id yet."""
    return list({id(session): session for session in sessions}.values())


@contextmanager
def own_times(*rows: type[models.Model]) -> Iterator[None]:
    """Let rows be created in the past."""
    columns = [field for row in rows for field in row._meta.fields]
    fields = [field for field in columns if isinstance(field, models.DateTimeField) and field.auto_now_add]
    for field in fields:
        field.auto_now_add = False
    try:
        yield
    finally:
        for field in fields:
            field.auto_now_add = True


def insert_events(rows: Iterator[tuple[Any, ...]]) -> None:
    """Insert them by the database's quickest way."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            names = ", ".join(f'"{name}"' for name in COLUMNS)
            with cursor.copy(f"COPY {Event._meta.db_table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            return
        adapt = connection.ops.adapt_datetimefield_value
        cursor.executemany(INSERT, [(*row[:-1], adapt(row[-1])) for row in rows])
