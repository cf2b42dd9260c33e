"""manage.py load_usage FILE: ingest CloudEvents (JSON lines) or a FOCUS CSV and report what became of each row."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.sources.loading import FileFormat, LoadReport, detect_format, load_usage


class Command(BaseCommand):
    """Load a usage file."""

    help = "Load usage from a file: CloudEvents as JSON lines, or a FOCUS CSV. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the file, its layout and the form of the report."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--format", choices=[*FileFormat, "auto"], default="auto")
        parser.add_argument("--json", action="store_true", help="print the report as one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Load the file and print the report."""
        path: Path = options["file"]
        try:
            with path.open("rb") as stream:
                chosen = options["format"]
                file_format = detect_format(stream.peek(64)[:64]) if chosen == "auto" else FileFormat(chosen)
                with tqdm(unit=" rows", desc=path.name, disable=not sys.stderr.isatty()) as bar:
                    report = load_usage(
                        stream=stream,
                        file_format=file_format,
                        origin=path.name,
                        on_progress=bar.update,
                        actor=Actor.system("load_usage"),
                        at=timezone.now(),
                    )
        except (OSError, CountinghouseError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            # Not asdict(), which counts the pairs of a Counter.
            self.stdout.write(json.dumps(vars(report)))
        else:
            self._print(report)

    def _print(self, report: LoadReport) -> None:
        for label, count in (
            ("rows", report.rows),
            ("accepted", report.accepted),
            ("duplicates", report.duplicates),
            ("quarantined", report.quarantined),
            ("refused", report.refused),
        ):
            self.stdout.write(f"{label:<12}{count:>10,}")
        for reason, count in sorted(report.reasons.items()):
            self.stdout.write(f"  refused as {reason}: {count:,}")
