"""manage.py archive_usage --month 2025-01: take a month of events into a file, step by step, and back."""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentParser
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.models import ArchivedMonth
from metering.retention import retention, retention_jobs

_STEPS: dict[str, tuple[Callable[..., ArchivedMonth], str]] = {
    "detach": (retention.detach_month, "take a verified month out of the tables; undone in a moment"),
    "drop": (retention.drop_month, "compare once more, then delete its table: the files are the only copy"),
    "bring_back": (retention.bring_back, "put the month back, from its table or from its files"),
    "check": (retention.check_archive, "are the files of a month that is away still whole?"),
}


class Command(BaseCommand):
    """Archive a month of usage, or bring one back."""

    help = (
        "Write the events of a month into Parquet files with manifests and verify them. Then --detach takes the month "
        "out of the tables, --drop deletes its table after verifying once more, --bring-back undoes either, --check "
        "verifies the files of a month that is away. Every step is safe to cut off and to repeat."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the month, the folder and the step."""
        parser.add_argument("--month", required=True, type=_month, help="such as 2025-01")
        parser.add_argument("--to", type=Path, help="folder of the file (ARCHIVE_DIR unless given)")
        steps = parser.add_mutually_exclusive_group()
        for step, (_, words) in _STEPS.items():
            steps.add_argument(f"--{step.replace('_', '-')}", dest="step", action="store_const", const=step, help=words)
        parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Take the step and print how the month stands."""
        asked = {"month": options["month"], "actor": Actor.system("archive_usage"), "at": timezone.now()}
        try:
            if options["step"]:
                take_step, _ = _STEPS[options["step"]]
                archived = take_step(**asked)
            else:
                retention.plan_archive(folder=options["to"], **asked)
                archived = retention_jobs.archive(**asked)
        except (CountinghouseError, OSError) as error:
            raise CommandError(str(error)) from error
        outcome = {
            "month": f"{archived.month:%Y-%m}",
            "status": archived.status,
            "events": archived.rows,
            "bytes": archived.file_bytes,
            "files": [str(path) for path in retention.files_of(archived)],
            "sha256": archived.file_sha256,
        }
        if options["json"]:
            self.stdout.write(json.dumps(outcome))
        else:
            for name, value in outcome.items():
                words = f"{value:,}" if isinstance(value, int) else value
                self.stdout.write(f"{name:<8}{', '.join(words) if isinstance(words, list) else words}")


def _month(text: str) -> date:
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        msg = f"{text!r} is no month such as 2025-01"
        raise argparse.ArgumentTypeError(msg) from None
