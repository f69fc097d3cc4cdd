"""A run's second witness: what its transcript says, beside what came on standard output."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO

from django.db import OperationalError

from agents import machine, sessions
from agents.models import Run, Session
from agents.runtimes import RunError, Runtime, human_size
from agents.runtimes.types import Entry, TranscriptFacts

# A larger transcript, or output, is not compared.
LARGEST = 256 * 1024**2
# So many lines are read in some milliseconds; then it is time to look after other things.
PACE = 1000
QUOTED, TITLE_LENGTH = 300, 200

Meanwhile = Callable[[], object]


@dataclass
class Account:
    """What a witness tells: the ids of messages of the agent and its tools, and its last words.

    `fresh` are those after this run's prompt; before it, the CLI may write what it makes up for a
    tool that an earlier run left without a result.
    """

    ids: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)
    prompted: bool = False
    words: str = ""
    facts: TranscriptFacts = field(default_factory=TranscriptFacts)

    def add(self, entry: Entry, since: datetime | None) -> None:
        """Take what the agent itself or a tool said; what a sub-agent says is told elsewhere."""
        if entry.aside or not entry.speaker or not entry.id:
            return
        recent = bool(since and entry.at and entry.at >= since)
        self.prompted = self.prompted or (recent and entry.speaker == "person")
        if entry.speaker == "person":
            return
        self.ids.add(entry.id)
        if recent and self.prompted:
            self.fresh.add(entry.id)
            self.words = last_text(entry) or self.words


def last_text(entry: Entry) -> str:
    """What the agent said on a line, if it was said in words."""
    texts = [message.text for message in entry.messages if message.kind == "text"]
    return texts[-1] if texts and entry.speaker == "agent" else ""


def hear(run: Run, runtime: Runtime, meanwhile: Meanwhile = lambda: None) -> None:
    """Ask the transcript of a run that is about to end: note where it differs, take its title.

    Nothing that is wrong with it ends the run otherwise; `meanwhile` is called now and then.
    """
    with suppress(OperationalError):
        try:
            transcript = told_by_transcript(run, runtime, meanwhile)
            printed = told_by_output(run, runtime, meanwhile)
        except (OSError, RunError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            note(run, f"Its transcript was not compared with its output: {reason}")
            return
        if printed is None:
            return
        note(run, difference(run, transcript, printed))
        if transcript and run.session:
            entitle(run.session, transcript.facts.title)


def told_by_transcript(run: Run, runtime: Runtime, meanwhile: Meanwhile) -> Account | None:
    """The transcript's account; None where none is, or none is kept."""
    if run.session is None:
        return None
    request = sessions.request_for(run.session, run.agent_config)
    home = sessions.beneath(request)
    for path in runtime.transcripts(request):
        with suppress(FileNotFoundError), home.open(path) as file:
            return account(file, runtime, meanwhile, run.started_at)
    return None


def told_by_output(run: Run, runtime: Runtime, meanwhile: Meanwhile) -> Account | None:
    """Standard output's account; None for a runtime whose conversations nobody can read."""
    if not run.session or not runtime.transcripts(sessions.request_for(run.session, run.agent_config)):
        return None
    try:
        with machine.state().output(str(run.public_id)).open("rb") as file:
            return account(file, runtime, meanwhile)
    except FileNotFoundError:
        return Account()


def account(
    file: BinaryIO, runtime: Runtime, meanwhile: Meanwhile, since: datetime | None = None
) -> Account | None:
    """Go through a file; None if the runtime reads none."""
    size = file.seek(0, 2)
    if size > LARGEST:
        raise RunError(f"{human_size(size)} are more than {human_size(LARGEST)}.")
    file.seek(0)
    transcript, found = runtime.read_transcript(file), Account()
    if transcript is None:
        return None
    for entry in transcript:
        found.add(entry, since)
        if entry.number % PACE == 0:
            meanwhile()
    found.facts = transcript.facts()
    return found


def difference(run: Run, transcript: Account | None, printed: Account) -> str:
    """In words, where the two contradict each other; empty if they do not."""
    if transcript is None:
        lost = f"Standard output brought {messages(len(printed.ids))}, but there is no transcript of them."
        return lost if printed.ids else ""
    return " ".join(differences(run, transcript, printed))


def differences(run: Run, transcript: Account, printed: Account) -> Iterator[str]:
    """Each as a sentence."""
    unheard, unwritten = transcript.fresh - printed.ids, printed.ids - transcript.ids
    if unheard:
        yield f"The transcript has {messages(len(unheard))} that standard output did not bring."
    # An agent that is made to stop does not always write down what it says at the very end.
    if unwritten and run.stop_cause in ("", Run.Cause.RESULT):
        yield f"Standard output brought {messages(len(unwritten))} that the transcript does not have."
    if transcript.words and run.result_seen_at is None and (unheard or not unfinished(transcript.facts)):
        yield f"No result message came; the last words in the transcript are: “{quoted(transcript.words)}”"
    elif transcript.words and misquoted(run, transcript.words):
        yield f"The last words in the transcript are not those of the result: “{quoted(transcript.words)}”"


def unfinished(facts: TranscriptFacts) -> bool:
    """Whether the transcript, too, ends before the agent had answered."""
    return facts.waiting or facts.interrupted or facts.error or bool(facts.pending)


def misquoted(run: Run, words: str) -> bool:
    """Whether a result that is no error says something else; secrets in it are masked."""
    if run.result_is_error or not run.result.strip() or "****" in run.result:
        return False
    result = run.result.strip()
    return not words.strip().startswith(result) and not result.startswith(words.strip())


def messages(count: int) -> str:
    """A number of messages."""
    return f"{count} message{'s' if count != 1 else ''}"


def quoted(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else f"{line[:QUOTED]}…"


def note(run: Run, text: str) -> None:
    """Write it into the run, once, for its page and among its events."""
    silent = Run.objects.filter(pk=run.pk, contradiction="")
    if text and silent.update(contradiction=text):
        run.contradiction = text
        run.note(text, contradiction=True)


def entitle(session: Session, title: str) -> None:
    """Give a session that nobody has named the title that its transcript has."""
    title = " ".join(title.split())[:TITLE_LENGTH]
    first = Run.objects.filter(session=session).order_by("id").values_list("prompt", flat=True).first()
    if title and first is not None:
        usual = sessions.usual_title(first)
        Session.objects.filter(pk=session.pk, title=usual).update(title=title)
