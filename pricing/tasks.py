"""What the background jobs do for prices: take versions live when their moment has come."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from pricing import publication


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def activate_versions() -> None:
    """Take live every approved version that is due."""
    publication.activate_due_versions(at=timezone.now())
