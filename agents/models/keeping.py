"""What runs and sessions have in common: files that may go while the record stays, and a pin."""

from django.db import models
from django.utils import timezone


class Keeping(models.Model):
    """A record with files of its own on disk."""

    pinned = models.BooleanField(default=False, help_text="Kept by retention, and not deleted by hand.")
    files_bytes = models.BigIntegerField(
        null=True, help_text="What its files take up on disk, measured after its end; when they went, then."
    )
    files_removed_at = models.DateTimeField(null=True)
    files_removed_why = models.CharField(max_length=200, blank=True)

    class Meta:
        abstract = True

    @property
    def farewell(self) -> str:
        """That its files are gone, when and why; empty while they are kept."""
        if self.files_removed_at is None:
            return ""
        day = timezone.localtime(self.files_removed_at).date()
        return f"Its files were removed on {day} by the retention of the agent ({self.files_removed_why})."
