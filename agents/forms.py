"""What a person may type, in the admin, on the pages and in the commands alike."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from agents import sessions
from agents.models import Agent, DockerSettings, Session, rules


class AgentForm(forms.ModelForm[Agent]):
    """Every field of an agent; the name is fixed once it has one."""

    class Meta:
        model = Agent
        fields = [
            "name", "description", "enabled", "runtime", "command", "model", "system_prompt",
            "system_prompt_mode", "default_prompt", "permission_mode", "allowed_tools", "denied_tools",
            "max_turns", "mcp_servers", "setting_sources", "working_directory", "time_limit", "idle_limit",
            "cancel_grace", "exit_grace", "output_limit", "max_concurrent",
        ]  # fmt: skip

    def clean_name(self) -> str:
        """Refuse to rename: directories, labels and containers carry the name."""
        name: str = self.cleaned_data["name"]
        if self.instance.pk and name != Agent.objects.values_list("name", flat=True).get(pk=self.instance.pk):
            raise ValidationError("The name of an agent cannot be changed.")
        return name


class DockerSettingsForm(forms.ModelForm[DockerSettings]):
    """Every field of an agent's Docker settings."""

    class Meta:
        model = DockerSettings
        fields = [
            "enabled", "image", "network", "memory", "cpus", "pids_limit", "user", "workspace_mode", "tmpfs",
            "mounts", "env", "labels",
        ]  # fmt: skip


class PromptField(forms.CharField):
    """A prompt: any text that can be stored, up to a megabyte, kept as it was typed."""

    widget = forms.Textarea

    def __init__(self, **options: Any) -> None:
        super().__init__(strip=False, **options)
        # Django's own refusal of NUL does not say where it is; the rule does.
        self.validators = [rules.prompt]


class RunForm(forms.Form):
    """One run: a prompt, and the session to continue or fork instead of a new one."""

    NEW, CONTINUE, FORK = "new", "continue", "fork"

    prompt = PromptField(required=False, help_text="Empty: the agent's default prompt.")
    mode = forms.ChoiceField(
        choices=[(NEW, "a new session"), (CONTINUE, "continue"), (FORK, "fork")], required=False, initial=NEW
    )
    session = forms.CharField(required=False)

    def __init__(self, agent: Agent, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.agent = agent

    def clean_prompt(self) -> str:
        """The prompt, or the agent's own."""
        prompt: str = self.cleaned_data["prompt"]
        if prompt.strip():
            return prompt
        if not self.agent.default_prompt.strip():
            raise ValidationError("Prompt is required: this agent has no default prompt.")
        return self.agent.default_prompt

    def clean_session(self) -> Session | None:
        """This agent's session of that id; another's is not found, like one that does not exist."""
        text = self.cleaned_data["session"].strip()
        if not text or self.data.get("mode") == self.NEW:
            return None
        try:
            return Session.objects.get(public_id=text, agent=self.agent)
        except (Session.DoesNotExist, ValidationError):
            raise ValidationError("There is no such session of this agent.") from None

    def clean(self) -> dict[str, Any]:
        """Whether the agent may start, and the session go on."""
        data = super().clean() or {}
        if not self.agent.enabled:
            raise ValidationError(f"The agent {self.agent} is switched off. Switch it on in its configuration.")
        mode, session = data.get("mode") or self.NEW, data.get("session")
        if mode != self.NEW and not session and "session" not in self.errors:
            self.add_error("session", "Choose the session.")
        if mode != self.NEW and session:
            reason = sessions.why_not(session, self.agent, fork=mode == self.FORK)
            if reason:
                verb = "forked" if mode == self.FORK else "continued"
                self.add_error("session", f"This session cannot be {verb}: {reason}")
        return data

    @property
    def submission(self) -> dict[str, Any]:
        """What `jobs.submit` takes, of a valid form."""
        data = self.cleaned_data
        session = data.get("session")
        return {
            "prompt": data["prompt"],
            "continues": session if data["mode"] == self.CONTINUE else None,
            "forks": session if data["mode"] == self.FORK else None,
        }
