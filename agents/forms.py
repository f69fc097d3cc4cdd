"""What a person may type, in the admin, on the pages and in the commands alike."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import ProhibitNullCharactersValidator

from agents import attachments, budgets, jobs, sessions, space
from agents.attachments import Attachment
from agents.models import Agent, DockerSettings, Event, Fleet, Run, Session, Site, rules
from agents.models.fields import Between, ObjectFormField, shown, write_seconds
from agents.models.fleet import DEADLINES
from agents.queueing import Turn
from agents.runtimes import AgentConfig, RunError

TRUE, FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0", "")


class Switch(forms.CheckboxInput):
    """A check box that passes on what was typed instead of taking any word for yes."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        """The text; a box that was not ticked sends none."""
        return data.get(name, False)


class SwitchField(forms.BooleanField):
    """Yes or no, in the words that people use."""

    widget = Switch

    def to_python(self, value: Any) -> bool:
        """Refuse any other word."""
        word = str(value).strip().lower()
        if word not in TRUE + FALSE:
            raise ValidationError("Must be true or false (on, off, yes, no, 1 and 0 will do).")
        return word in TRUE

    def has_changed(self, initial: Any, data: Any) -> bool:
        """A word that means nothing is a change, which validation then refuses."""
        try:
            return self.to_python(initial or False) != self.to_python(data or False)
        except ValidationError:
            return True


class FleetField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A fleet by its name."""

    def __init__(self, queryset: Any, **options: Any) -> None:
        super().__init__(queryset, **{**options, "to_field_name": "name"})

    def to_python(self, value: Any) -> Any:
        """The fleet, or an error that names those there are."""
        try:
            return super().to_python(value)
        except ValidationError:
            known = ", ".join(Fleet.objects.values_list("name", flat=True)) or "there is none yet"
            raise ValidationError(f"{shown(str(value))} is no fleet. Choose: {known}.") from None

    def prepare_value(self, value: Any) -> Any:
        """The name, also where the row's key is known."""
        if isinstance(value, int):
            return Fleet.objects.filter(pk=value).values_list("name", flat=True).first() or ""
        return super().prepare_value(value)


class RowForm(forms.ModelForm):  # type: ignore[type-arg]
    """A row's form whose refusals say what is allowed, whatever was typed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, field in self.fields.items():
            teach(field, self._meta.model._meta.get_field(name).validators)

    def as_typed(self) -> dict[str, Any]:
        """The row's fields as a person would have typed them."""
        return {
            name: field.prepare_value(self.get_initial_for_field(field, name))
            for name, field in self.fields.items()
        }


def teach(field: forms.Field, rows: list[Any]) -> None:
    """Have a field refuse in our words: the range, the choices, where a bad character is.

    `rows` are the validators of the model's field, which judge after the form's own.
    """
    between = next((each for each in rows if isinstance(each, Between)), None)
    if between:
        field.validators = [between]
        field.error_messages |= {"invalid": str(between), "required": str(between)}
    elif isinstance(field, forms.IntegerField) or any(each.__module__ == rules.__name__ for each in rows):
        field.validators = []
    else:
        ours = [each for each in field.validators if not isinstance(each, ProhibitNullCharactersValidator)]
        field.validators = [*ours, rules.storable] if isinstance(field, forms.CharField) else ours
    if isinstance(field, forms.ChoiceField):
        allowed = ", ".join(str(value) for value, _ in list(field.widget.choices) if value)
        field.error_messages["invalid_choice"] = f"%(value)s is not allowed. Choose: {allowed}."


# For somebody who fills in the form for the first time; the models' own help is the short one.
AGENT_HELP = {
    "description": "What it is for. Only people read it.",
    "runtime": "What is executed. Claude Code: the coding agent. Command: any program of yours. Echo: answers"
    " with the prompt, to try herdweb out.",
    "command": "Program and arguments, one a line or a JSON list; one line alone is split like a shell does"
    " it. No shell reads it. The prompt comes on standard input.",
    "model": "An alias like sonnet, or a full name. Empty: Claude Code's own choice.",
    "system_prompt": "Standing orders, the same in each run. The prompt of a run says what to do now.",
    "system_prompt_mode": "Added is right nearly always: Claude Code's own orders explain its tools.",
    "default_prompt": "Used when a run is started without a prompt. Empty: each run needs one.",
    "permission_mode": "What it may do unasked. Nobody is there to be asked, so everything else is denied.",
    "allowed_tools": "May be used unasked, whatever the mode. One a line, like Read or Bash(git *).",
    "denied_tools": "May never be used; this wins over allowed. One a line, like WebFetch.",
    "max_turns": "One turn is one answer of the model. The run ends after so many. Empty: no limit.",
    "mcp_servers": 'Servers with more tools, these and no others, like {"name": {"command": "server", "args":'
    " []}}. Empty: none.",
    "workspace_scope": "Who works in the same workspace. With a clone for each run nothing of one run is in"
    " the way of the next.",
    "git_url": "A repository that is cloned into the workspace, and what a run changed in it is kept. Write"
    " https://host/path, or file:///path below the allowed roots. Needs Docker.",
    "git_branch": "The branch to work on. Empty: the repository's own choice.",
    "git_depth": "So many commits, of this branch alone, like 50. Empty: the whole history of all branches.",
    "git_credential": "The name of a variable that the workers have and HERDWEB_GIT_ENV lists; its value is"
    " token or user:token. Used to fetch and push. The agent never sees it.",
    "git_push": "A branch that changes are pushed to after a success, like herdweb/{agent}/{run}, with"
    " {agent}, {session}, {run} or {date} in its name. Empty: nothing is pushed.",
    "time_limit": "A run is stopped after this time, like 30m or 2h. Empty: the fleet's, or 1h.",
    "idle_limit": "A run is stopped when it printed nothing for this long, like 10m. Empty: the fleet's, or"
    " 10m.",
    "start_limit": "A run is given up when its agent has not been started this long after a worker took it,"
    " like 5m. Empty: the fleet's, or 10m.",
    "wait_limit": "A run is given up when it waited this long for a worker or a free slot, like 2h. Empty:"
    " the fleet's, or no limit.",
    "cancel_grace": "How long it may take to end by itself once it was asked to; then it is killed. Empty:"
    " the fleet's, or 10s.",
    "exit_grace": "How long it may go on after its result; then it is ended.",
    "output_limit": "A run that printed more is stopped. Write it like 100m or 1g.",
    "session_timeout": "How long a session may lie unused and still be continued, like 24h; later it can only"
    " be forked. Empty: for ever.",
    "shared_home": "Memory file (CLAUDE.md), skills, agents, commands and plugins that all its sessions find;"
    " everything else in a session's home is its own. ro needs a container.",
    "fleet": "A group of agents that share defaults, a number of live runs, and a purse for each month.",
    "max_concurrent": "How many runs of this agent may be live at once; others wait, and say for what.",
    "priority": "From -10 to 10. Of runs that wait those of higher numbers start first; with the same number"
    " agents take turns.",
    "max_tokens": "Tokens, in and out, that one run may use; then it is stopped. Counted from its messages."
    " Empty: no limit.",
    "max_cost": "Dollars that one run may cost, like 2.50; then it ends. Claude Code keeps this itself."
    " Empty: no limit.",
    "day_cost": "Dollars that its runs may report in a day of the site's zone; then nothing new starts until"
    " the next day. What is live goes on. Empty: no limit.",
    "day_tokens": "Tokens, in and out, likewise.",
    "retry_on": "After which failures a run is tried again, one a line: engine, start, rate_limit, lost,"
    " agent (the agent itself failed). Empty: after none.",
    "max_retries": "How often one run is tried again, 0 to 10.",
    "retry_delay": "How long to wait before the first retry, like 30s; twice as long before each further one,"
    " an hour at the most.",
    "continue_after_limit": "On: a run that met the usage limit of the provider waits until that is reset,"
    " and goes on in the same session. Off: it fails and that is it.",
    "keep_days": "Files of runs that ended longer ago are removed for good: raw output, and conversations"
    " with old runs only. Records and events stay. Empty: no limit.",
    "keep_runs": "Only the newest so many runs keep their files. Empty: all do.",
    "keep_bytes": "The newest runs keep files of so much in all; write it like 500m or 20g. Empty: no limit."
    " What would go is shown by the agent's page of retention, before anything is saved.",
}
DOCKER_HELP = {
    "enabled": "Each run gets a container of its own, unless ephemeral is off. Off: it runs on this machine"
    " with herdweb's own rights.",
    "image": "What it is made of. Must hold the agent's program and /bin/sh, and be on this host.",
    "network": "none is the only honest “no network”, but Claude Code must reach its API. On bridge the"
    " services of this host can be reached, too.",
    "memory": "It is killed when it needs more; there is no swap on top. Write it like 512m or 2g.",
    "cpus": "How many cores it may keep busy, like 1.5.",
    "pids_limit": "How many processes and threads it may have.",
    "user": "uid:gid inside the container, never root's. Empty: herdweb's own choice, which is right nearly"
    " always.",
    "workspace_mode": "Whether it may change /workspace, the directory that it works in.",
    "tmpfs": "Directories in memory, one a line, like /cache:size=64m. It has /tmp already.",
    "mounts": "Directories of this host that it sees, one a line: /host:/container. To read only, unless"
    " :rw is added.",
    "env": "NAME=value, one a line. Not for secrets: whoever may ask the engine can read them.",
    "labels": "name=value, one a line: for other programs that look at containers.",
    "ephemeral": "On: each run gets a new container, removed after it. Off: it is stopped after a run and"
    " started again for the next one, and keeps what was written into its own files; for that its root is not"
    " read-only. It uses no memory between runs.",
    "container_scope": "Whose a container is that is not ephemeral. With agent its runs go one at a time, and"
    " its sessions can read each other's files.",
    "max_containers": "How many containers that are not ephemeral are kept. Beyond that the one that was idle"
    " longest is removed, never one with a live run.",
    "keep_failed": "How long the ephemeral container of a failed run is kept for inspection, like 2h. 0s: it"
    " is removed at once.",
}


class AgentForm(RowForm):
    """Every field of an agent; the name is fixed once it has one."""

    class Meta:
        model = Agent
        fields = [
            "name", "description", "enabled", "runtime", "command", "model", "system_prompt",
            "system_prompt_mode", "default_prompt", "permission_mode", "allowed_tools", "denied_tools",
            "max_turns", "mcp_servers", "setting_sources", "working_directory", "workspace_scope", "git_url",
            "git_branch", "git_depth", "git_credential", "git_push", "time_limit", "idle_limit",
            "start_limit", "wait_limit", "cancel_grace", "exit_grace", "output_limit", "fleet",
            "max_concurrent", "priority", "max_tokens", "max_cost", "day_cost", "day_tokens", "retry_on",
            "max_retries", "retry_delay", "continue_after_limit", "session_timeout", "shared_home",
            "keep_days", "keep_runs", "keep_bytes",
        ]  # fmt: skip
        field_classes = {
            "enabled": SwitchField,
            "mcp_servers": ObjectFormField,
            "fleet": FleetField,
            "continue_after_limit": SwitchField,
        }
        error_messages = {"name": {"required": "Name is required."}}
        help_texts = AGENT_HELP

    def clean_name(self) -> str:
        """Refuse to rename: directories, labels and containers carry the name."""
        name: str = self.cleaned_data["name"]
        if self.instance.pk and name != Agent.objects.values_list("name", flat=True).get(pk=self.instance.pk):
            raise ValidationError("The name of an agent cannot be changed.")
        return name

    def clean(self) -> dict[str, Any]:
        """Rules between fields; a limit below an untouched default is no contradiction."""
        data = super().clean() or {}
        grace, limit = data.get("cancel_grace"), data.get("time_limit")
        limit = DEADLINES["time_limit"] if limit is None else limit
        if "cancel_grace" in self.changed_data and grace is not None and limit and grace > limit:
            self.add_error("cancel_grace", f"Must not be longer than the time limit, {write_seconds(limit)}.")
        self._refuse_other_case()
        return data

    def _refuse_other_case(self) -> None:
        """Say that a name is taken, also when it could not be one for its capitals."""
        name = str(self.data.get(self.add_prefix("name"), "")).strip()
        other = name.lower() if name != name.lower() and rules.NAME.fullmatch(name.lower()) else None
        if other and Agent.objects.filter(name=other).exists():
            self.add_error("name", "This name is already used (names are compared without case).")


class DockerSettingsForm(RowForm):
    """Every field of an agent's Docker settings."""

    class Meta:
        model = DockerSettings
        fields = [
            "enabled", "image", "network", "memory", "cpus", "pids_limit", "user", "workspace_mode", "tmpfs",
            "mounts", "env", "labels", "ephemeral", "container_scope", "max_containers", "keep_failed",
        ]  # fmt: skip
        field_classes = {"enabled": SwitchField, "ephemeral": SwitchField}
        error_messages = {
            "image": {"required": "An empty text is not a valid image reference. Write it like name:tag."}
        }
        help_texts = DOCKER_HELP

    def clean(self) -> dict[str, Any]:
        """Two things cannot be mounted in the same place."""
        data = super().clean() or {}
        taken = {entry.partition(":")[0] for entry in data.get("tmpfs") or []}
        doubles = sorted(taken & {entry.split(":")[1] for entry in data.get("mounts") or [] if ":" in entry})
        if doubles:
            self.add_error("mounts", f"{', '.join(doubles)} is used twice: here and in tmpfs.")
        return data


class FleetForm(RowForm):
    """Every field of a fleet."""

    class Meta:
        model = Fleet
        fields = [
            "name", "description", "max_concurrent", "month_cost", "month_tokens", "time_limit", "idle_limit",
            "start_limit", "wait_limit", "cancel_grace",
        ]  # fmt: skip
        error_messages = {"name": {"required": "Name is required."}}
        help_texts = {
            "month_cost": "Dollars that its agents may report in a calendar month; then nothing new of them"
            " starts until the next one. What is live goes on. Empty: no limit.",
            "month_tokens": "Tokens, in and out, likewise.",
            "time_limit": "Wall clock of a run, like 30m or 2h. Empty: 1h.",
            "idle_limit": "Longest silence of a run, like 10m. Empty: 10m.",
            "start_limit": "From being taken by a worker to the agent's start, like 5m. Empty: 10m.",
            "wait_limit": "Longest wait for a worker or a free slot, like 2h. Empty: no limit.",
            "cancel_grace": "From being asked to stop to being killed. Empty: 10s.",
        }


class SiteForm(RowForm):
    """The limits of all agents together."""

    class Meta:
        model = Site
        fields = ["max_runs", "max_per_host", "max_per_credential"]


class LimitsForm(RowForm):
    """What an agent keeps, to see what would go; nothing is saved."""

    class Meta:
        model = Agent
        fields = ["keep_days", "keep_runs", "keep_bytes"]


class PromptField(forms.CharField):
    """A prompt: any text that can be stored, up to a megabyte, kept as it was typed."""

    widget = forms.Textarea

    def __init__(self, **options: Any) -> None:
        super().__init__(strip=False, **options)
        # Django's own refusal of NUL does not say where it is; the rule does.
        self.validators = [rules.prompt]


class FilesInput(forms.FileInput):
    """Any number of files."""

    allow_multiple_selected = True

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        """All of them."""
        return files.getlist(name)


class AttachmentsField(forms.Field):
    """Files that were uploaded, empty ones as well."""

    widget = FilesInput(attrs={"multiple": True})

    def to_python(self, value: Any) -> list[Attachment]:
        """As they can be attached."""
        return [Attachment(str(file.name), file.size, file.chunks) for file in value or []]


class TitleForm(RowForm):
    """What a session is called; without a title it goes by its id."""

    class Meta:
        model = Session
        fields = ["title"]

    def clean_title(self) -> str:
        """In one line."""
        return " ".join(self.cleaned_data["title"].split())


class KeepForm(forms.Form):
    """For how long a container is kept for inspection."""

    HOURS = Between(1, 720)

    hours = forms.IntegerField(validators=[HOURS])

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        teach(self.fields["hours"], [self.HOURS])


PRIORITIES = Between(-10, 10)


class RunForm(forms.Form):
    """One run: a prompt, and the session to continue or fork instead of a new one."""

    NEW, CONTINUE, FORK = "new", "continue", "fork"
    # In place of an id: the agent's session that was used last.
    LAST = "last"

    prompt = PromptField(required=False, help_text="Empty: the agent's default prompt.")
    mode = forms.ChoiceField(
        choices=[(NEW, "a new session"), (CONTINUE, "continue"), (FORK, "fork")], required=False, initial=NEW
    )
    session = forms.CharField(required=False)
    attachments = AttachmentsField(required=False)
    # The same one again is the same request: a form that was sent twice starts one run.
    key = forms.CharField(required=False, max_length=100)
    priority = forms.IntegerField(required=False, validators=[PRIORITIES])

    # What may differ for one run; empty: as the agent has it.
    OVERRIDES = ("model", "max_turns", "time_limit", "idle_limit")

    model = forms.CharField(required=False)
    max_turns = forms.CharField(required=False)
    time_limit = forms.CharField(required=False)
    idle_limit = forms.CharField(required=False)

    def __init__(self, agent: Agent, *arguments: Any, may_override: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        teach(self.fields["priority"], [PRIORITIES])
        self.agent = agent
        self.may_override = may_override
        self.config: dict[str, Any] | None = None

    @property
    def overridable(self) -> list[tuple[forms.BoundField, str]]:
        """The fields of what may differ, and what the agent has, as it is written."""
        own = AgentForm(instance=self.agent)
        resolved = {name: self.agent.deadline(name) for name in self.OVERRIDES if name in DEADLINES}
        written = {name: write_seconds(value) for name, value in resolved.items()}
        return [(self[name], written.get(name) or str(own[name].value() or "")) for name in self.OVERRIDES]

    @property
    def differs(self) -> bool:
        """Whether something is filled in there already."""
        return any(self[name].value() for name in (*self.OVERRIDES, "priority"))

    def _override(self, data: dict[str, Any]) -> None:
        """Judge what is to differ by the rules of the agent's own form, and freeze the result."""
        typed = {name: data[name].strip() for name in self.OVERRIDES if data.get(name, "").strip()}
        if not typed and data.get("priority") is None:
            return
        if not self.may_override:
            raise ValidationError("Only those who may change agents choose other settings for a run.")
        if not typed:
            return
        changed = Agent.objects.select_related("docker").get(pk=self.agent.pk)
        form = AgentForm(AgentForm(instance=changed).as_typed() | typed, instance=changed)
        for name, errors in form.errors.items():
            self.add_error(name if name in typed else None, list(errors))
        self.config = changed.freeze()

    def clean_prompt(self) -> str:
        """The prompt, or the agent's own."""
        # Browsers send every line end as two characters; nobody typed the first of them.
        prompt: str = self.cleaned_data["prompt"].replace("\r\n", "\n")
        if prompt.strip():
            return prompt
        if not self.agent.default_prompt.strip():
            raise ValidationError("Prompt is required: this agent has no default prompt.")
        return self.agent.default_prompt

    def clean_key(self) -> str:
        """Any word that can be stored and shown."""
        key: str = self.cleaned_data["key"]
        if not key.isprintable():
            raise ValidationError("A key has printable characters only, 100 at the most.")
        rules.storable(key)
        return key

    def clean_attachments(self) -> list[Attachment]:
        """Files that the agent will find."""
        given: list[Attachment] = self.cleaned_data["attachments"]
        attachments.check(given, AgentConfig.from_json(self.agent.freeze()))
        return given

    def clean_session(self) -> Session | None:
        """This agent's session of that id; another's is not found, like one that does not exist."""
        text = self.cleaned_data["session"].strip()
        if not text or self.cleaned_data.get("mode") == self.NEW:
            return None
        if text == self.LAST:
            return self._last()
        try:
            return Session.objects.get(public_id=text, agent=self.agent)
        except (Session.DoesNotExist, ValidationError):
            raise ValidationError("Not found: this agent has no such session.") from None

    def _last(self) -> Session:
        found = self.agent.sessions.first()
        if found is None:
            raise ValidationError("Not found: this agent has no session yet.")
        return found

    def clean(self) -> dict[str, Any]:
        """Whether the agent may start, and the session go on."""
        data = super().clean() or {}
        if not self.agent.enabled:
            raise ValidationError(
                f"The agent {self.agent} is switched off. Switch it on in its configuration."
            )
        shortage = space.shortage()
        if shortage:
            raise ValidationError(f"{shortage} Nothing new starts until there is room again.")
        spent = budgets.exhausted(self.agent)
        if spent:
            raise ValidationError(spent)
        mode, session = data.get("mode") or self.NEW, data.get("session")
        if session and not data.get("mode"):
            # Nothing silently starts afresh.
            self.add_error("mode", "Choose whether to continue the session or to fork it.")
        if mode != self.NEW and not session and "session" not in self.errors:
            self.add_error("session", "Choose the session.")
        if mode != self.NEW and session:
            reason = sessions.why_not(session, self.agent, fork=mode == self.FORK)
            if reason:
                verb = "forked" if mode == self.FORK else "continued"
                self.add_error("session", f"This session cannot be {verb}: {reason}")
        self._override(data)
        self._refuse_open_home()
        return data

    def _refuse_open_home(self) -> None:
        """Say before the start what would be said at it."""
        try:
            sessions.check_shared_home(AgentConfig.from_json(self.config or self.agent.freeze()))
        except RunError as error:
            self.add_error(None, str(error))

    @property
    def submission(self) -> dict[str, Any]:
        """What `jobs.submit` takes, of a valid form."""
        data = self.cleaned_data
        session = data.get("session")
        return {
            "prompt": data["prompt"],
            "continues": session if data["mode"] == self.CONTINUE else None,
            "forks": session if data["mode"] == self.FORK else None,
            "config": self.config,
            "attached": data["attachments"],
            "turn": Turn(key=data["key"].strip(), priority=data["priority"]),
        }


def as_asked(run: Run) -> dict[str, str]:
    """What is typed into the form to ask for the same again: prompt, session, and in what it differed."""
    source = run.continues or run.forks
    going_on = RunForm.CONTINUE if run.continues else RunForm.FORK
    fork = run.trigger == Run.Trigger.FORK
    return {
        "prompt": run.prompt,
        "mode": going_on if source or fork else RunForm.NEW,
        "session": str(source.public_id) if source else "",
        **differences(run),
    }


def differences(run: Run) -> dict[str, str]:
    """In what a run differed from its agent, as people write it."""
    said = run.events.filter(kind=Event.Kind.STATUS, text__startswith=jobs.DIFFERS).first()
    values = (said.payload or {}).get("differs", {}) if said else {}
    fields = {name: AgentForm.base_fields[name] for name in RunForm.OVERRIDES if name in values}
    return {name: str(field.prepare_value(values[name])) for name, field in fields.items()}
