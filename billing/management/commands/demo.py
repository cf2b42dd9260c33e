"""manage.py demo: load and bill the demonstration data, say what came of it, and end."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any, Self

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from billing.demo import people, report
from billing.demo.sample_month import bill_sample_month
from billing.demo.synthetic_months import bill_synthetic_months
from billing.models import BillRun


class Command(BaseCommand):
    """Make the demonstration data."""

    help = "Load and bill the demonstration data: a month of real usage, and a synthetic GPU cloud. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what to make and how to report."""
        parser.add_argument("--sign-ins", action="store_true", help="only print who can sign in, and how")
        parser.add_argument("--if-empty", action="store_true", help="do nothing if the database holds a bill run")
        parser.add_argument("--sample-only", action="store_true", help="leave out the synthetic months")
        parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Make the data, step by step, and print the summary."""
        if not settings.DEMONSTRATION_ALLOWED:
            msg = "The demonstration signs people in with a published password; it does not run in production."
            raise CommandError(msg)
        if options["sign_ins"]:
            self.stdout.write(people.sign_ins())
            return
        if options["if_empty"] and BillRun.objects.exists():
            return
        at = timezone.now()
        with ProgressBars() as bars:
            staff = people.hire_staff(at=at)
            sample = bill_sample_month(staff, at=at, progress=bars.show)
            synthetic = None if options["sample_only"] else bill_synthetic_months(staff, at=at, progress=bars.show)
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json(sample, synthetic)))
        else:
            self.stdout.write(report.as_text(sample, synthetic))


class ProgressBars:
    """Progress bars on a terminal, one after the other; nothing where the output is not a terminal."""

    def __init__(self) -> None:
        self._label = ""
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, label: str, done: int, total: int) -> None:
        """Show how far the labelled work is."""
        if self._bar is None or label != self._label or total != self._bar.total:
            self.__exit__()
            self._bar = tqdm(desc=label, total=total, disable=not sys.stderr.isatty())
            self._label = label
        self._bar.update(done - self._bar.n)
