"""The one app."""

from django.apps import AppConfig


class AgentsConfig(AppConfig):
    """Everything herdweb is."""

    name = "agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from agents import checks  # noqa: F401
