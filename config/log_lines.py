"""Log lines that name their request: one search finds what a request did in the log, the audit log and the history."""

import logging
from typing import Any, Final, Literal

from accounts.request_context import current_request_id

_LINE: Final = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


class RequestIdFilter(logging.Filter):
    """Gives each record the id of the request at work; a dash outside of any."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        record.request_id = current_request_id() or getattr(request, "request_id", "") or "-"
        return True


def logging_settings(*, level: str, stream: Literal["stdout", "stderr"]) -> dict[str, Any]:
    """Return Django's LOGGING: everything from this level on as plain lines on the stream."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request id": {"()": RequestIdFilter}},
        "formatters": {"line": {"format": _LINE}},
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "stream": f"ext://sys.{stream}",
                # Here and not only at the root: some libraries set a lower level on loggers of their own.
                "level": level,
                "filters": ["request id"],
                "formatter": "line",
            }
        },
        "root": {"handlers": ["console"], "level": level},
        # Django's own handlers would tell everything twice, or, with DEBUG off, keep a traceback to themselves.
        "loggers": {
            "django": {"handlers": [], "propagate": True},
            # Every step of every document.
            "weasyprint.progress": {"level": "WARNING"},
            "fontTools": {"level": "WARNING"},
        },
    }
