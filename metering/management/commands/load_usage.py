"""manage.py load_usage FILE: ingest a file of usage and report what became of each row."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.models import UsageFileMapping
from metering.sources.layouts import HEAD_BYTES
from metering.sources.loading import FileFormat, LoadReport, detect_format, load_usage
from metering.sources.mapping import ColumnMapping, read_mapping

_ABOUT = """
Layouts: CloudEvents as JSON lines, FOCUS as CSV, any CSV or Parquet with a mapping; packed with gzip or not.

A mapping says which column becomes which part of an event. It is the name of a record (Usage > File mappings), or a
file of JSON:

  {"id": {"hash_of": ["device", "read_at"]}, "source": {"constant": "meters/berlin"},
   "type": {"constant": "power.read"}, "subject": {"column": "device"},
   "time": {"column": "read_at", "format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"},
   "data": [{"column": "kWh", "name": "kwh", "kind": "number"}],
   "delimiter": ";", "decimal_comma": true}

A load that was cut off goes on where it was: run the command again. A file that was loaded before, with the same
layout and mapping, is not read again; the report of the first load is printed.
"""


class Command(BaseCommand):
    """Load a usage file."""

    help = "Load usage from a file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the file, its layout, its mapping and the form of the report."""
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = _ABOUT
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--format", choices=[*FileFormat, "auto"], default="auto", help="told from the file's beginning if left out"
        )
        parser.add_argument("--mapping", help="a mapping's name, or a file of JSON; for CSV and Parquet")
        parser.add_argument("--backfill", type=int, metavar="ID", help="fill the rows into this open backfill")
        parser.add_argument("--json", action="store_true", help="print the report as one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Load the file and print the report."""
        path: Path = options["file"]
        try:
            mapping, mapping_id = _mapping(options["mapping"])
            with path.open("rb") as stream:
                chosen = options["format"]
                file_format = detect_format(stream.read(HEAD_BYTES)) if chosen == "auto" else FileFormat(chosen)
                if mapping is None and chosen == "auto" and file_format == FileFormat.CSV:
                    # Without a mapping only FOCUS can be meant, and its reader says what the file lacks.
                    file_format = FileFormat.FOCUS
                with tqdm(unit=" rows", desc=path.name, disable=not sys.stderr.isatty()) as bar:
                    report = load_usage(
                        stream=stream,
                        file_format=file_format,
                        origin=path.name,
                        mapping=mapping,
                        mapping_id=mapping_id,
                        backfill_id=options["backfill"],
                        on_progress=bar.update,
                        clock=timezone.now,
                        actor=Actor.system("load_usage"),
                        at=timezone.now(),
                    )
        except (OSError, CountinghouseError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            # Not asdict(), which counts the pairs of a Counter.
            self.stdout.write(json.dumps(vars(report)))
        else:
            self._print(report, is_filled_in=options["backfill"] is not None)

    def _print(self, report: LoadReport, *, is_filled_in: bool) -> None:
        if report.loaded_before:
            self.stdout.write(f"This very file was loaded before, as file {report.file_id}; this is its report.")
        for label, count in (
            ("rows", report.rows),
            ("filled in" if is_filled_in else "accepted", report.accepted),
            ("duplicates", report.duplicates),
            ("problems" if is_filled_in else "quarantined", report.quarantined),
            ("refused", report.refused),
        ):
            self.stdout.write(f"{label:<12}{count:>10,}")
        for reason, count in sorted(report.reasons.items()):
            self.stdout.write(f"  refused as {reason}: {count:,}")
        if report.state == "stopped":
            self.stdout.write("Somebody has stopped this load. Run the command again to go on.")


def _mapping(named: str | None) -> tuple[ColumnMapping | None, int | None]:
    """Return the mapping of a record's name or of a JSON file, and the record's id."""
    if not named:
        return None, None
    record = UsageFileMapping.objects.filter(name=named).first()
    if record is not None:
        return read_mapping(record.spec), record.pk
    path = Path(named)
    if not path.exists():
        msg = f"There is no mapping of the name {named!r}, and no such file."
        raise CommandError(msg)
    return read_mapping(path.read_bytes()), None
