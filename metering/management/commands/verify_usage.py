"""manage.py verify_usage: count usage anew from its events and report where the totals that are kept differ."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from accounts.errors import CountinghouseError
from metering import verification
from metering.management import period


class Command(BaseCommand):
    """Verify usage."""

    help = "Compare the totals of usage with a count of its events; the exit code is 1 if any differs. Writes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the month, the customer and the form of the report."""
        period.add_arguments(parser, period_required=False)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Verify month by month and print what differs."""
        customer_id = period.customer_id_of(options)
        differences = 0
        try:
            for month, hours in period.months_of(options):
                chunks = verification.plan(start=hours.start, end=hours.end, customer_id=customer_id)
                report = verification.Verified(0, 0, [])
                with tqdm(
                    total=sum(chunk.events for chunk in chunks), unit=" events", desc=month, disable=not _is_seen()
                ) as bar:
                    for chunk in chunks:
                        part = verification.verify(chunk)
                        report = verification.Verified(
                            report.events + part.events,
                            report.differences + part.differences,
                            (report.shown + part.shown)[: verification.SHOWN],
                        )
                        bar.update(part.events)
                left_out = verification.left_out(start=hours.start, end=hours.end, customer_id=customer_id)
                self._print(month, report, left_out, as_json=options["json"])
                differences += report.differences
        except CountinghouseError as error:
            raise CommandError(str(error)) from error
        if differences:
            msg = f"{differences:,} totals are not those of their events; manage.py rebuild_usage mends them."
            raise CommandError(msg)

    def _print(self, month: str, report: verification.Verified, left_out: list[str], *, as_json: bool) -> None:
        if as_json:
            shown = msgspec.to_builtins(report.shown)
            figures = {"period": month, "events": report.events, "differences": report.differences}
            self.stdout.write(json.dumps({**figures, "left_out": left_out, "shown": shown}))
            return
        verdict = "all totals are those of the events" if not report.differences else f"{report.differences:,} differ"
        if left_out:
            verdict += f"; not compared: hours with {' and '.join(left_out)}"
        self.stdout.write(f"{month}  {report.events:>14,} events  {verdict}")
        series = verification.series_in_words(report.shown)
        for each in report.shown:
            of = series.get(each.series_id, f"customer {each.customer_id}")
            place = f"{each.kind} {each.hour:%Y-%m-%d %H:%M} UTC, {of} (series {each.series_id})"
            part = f" ({each.part})" if each.part else ""
            self.stdout.write(f"    {place}{part}: kept {each.kept or 'nothing'}; counted {each.counted or 'nothing'}")


def _is_seen() -> bool:
    return sys.stderr.isatty()
