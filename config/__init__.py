"""How the four apps are put together: settings, addresses, jobs and errors."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
