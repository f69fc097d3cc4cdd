"""What people did, were refused, and keep for themselves."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from agents.models.agent import Agent
from agents.models.rights import Guarded

TEXT_LIMIT = 500
# A page that asks again and again is refused every time, and noted once in so long.
REPEATED = timedelta(minutes=1)


class Audit(models.Model):
    """One deed or refusal: who, what, when, from where. Written once, never changed."""

    class Deed(models.TextChoices):
        """What was done, or was not."""

        ADDED = "added"
        CANCELLED = "cancelled"
        CHANGED = "changed"
        DELETED = "deleted"
        LOGGED_IN = "logged_in", "logged in"
        REFUSED = "refused"
        STARTED = "started"

    at = models.DateTimeField(auto_now_add=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    who = models.CharField(max_length=150, help_text="The user's name then, or what was typed as one.")
    deed = models.CharField(max_length=12, choices=Deed)
    what = models.CharField(max_length=200, help_text="The kind of thing and its name, like run 1a2b3c4d.")
    path = models.CharField(max_length=500, blank=True, help_text="Where it can be seen.")
    detail = models.TextField(blank=True)
    agent = models.ForeignKey(Agent, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    address = models.GenericIPAddressField(null=True, blank=True)

    objects = Guarded["Audit"].as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["at"], name="audit_by_time")]
        verbose_name_plural = "audit trail"

    def __str__(self) -> str:
        return f"{self.who} {self.get_deed_display()} {self.what}"

    @classmethod
    def note(cls, who: Any, deed: str, what: str, **facts: Any) -> None:
        """Write one line; `who` is a user, or the name of whatever else did it."""
        user = who if getattr(who, "pk", None) else None
        texts = {name: str(facts.pop(name, ""))[:TEXT_LIMIT] for name in ("path", "detail")}
        cls.objects.create(user=user, who=str(who)[:150], deed=deed, what=what[:200], **texts, **facts)

    @classmethod
    def refused(cls, who: Any, what: str, **facts: Any) -> None:
        """Write that somebody was refused, unless the same was written just now."""
        recent = cls.objects.filter(at__gt=timezone.now() - REPEATED, deed=cls.Deed.REFUSED)
        same = {"who": str(who)[:150], "what": what[:200], "address": facts.get("address")}
        if not recent.filter(**same).exists():
            cls.note(who, cls.Deed.REFUSED, what, **facts)


class SavedList(models.Model):
    """A list as somebody filtered and sorted it, kept as a link."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_lists")
    page = models.CharField(max_length=40, help_text="The name of the list's address.")
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=1000, help_text="What follows the question mark.")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "page", "name"],
                name="saved_list_once",
                violation_error_message="You have a link of this name already.",
            )
        ]

    def __str__(self) -> str:
        return self.name
