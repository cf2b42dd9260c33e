"""manage.py rebuild_usage --period 2026-10 --reason "...": make the totals of a month anew from its events."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering import verification
from metering.management import period
from metering.recount import Recounted


class Command(BaseCommand):
    """Rebuild usage."""

    help = "Make the totals of a month anew from its events. Safe to repeat, and to stop at any point."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the month, the customer, the reason and the form of the report."""
        period.add_arguments(parser, period_required=True)
        parser.add_argument("--reason", required=True, help="why, for the audit log")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Rebuild the month and print what was otherwise."""
        ((month, hours),) = period.months_of(options)
        order = verification.Rebuild(
            start=hours.start,
            end=hours.end,
            customer_id=period.customer_id_of(options),
            reason=options["reason"],
        )
        total = Recounted(0, 0, 0)
        try:
            chunks = verification.rebuild(order=order, actor=Actor.system("rebuild_usage"), at=timezone.now())
            for mended in tqdm(chunks, unit=" chunks", desc=month, disable=not sys.stderr.isatty()):
                total = Recounted(*map(sum, zip(total, mended, strict=True)))
        except CountinghouseError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps({"period": month, **total._asdict()}))
        else:
            self.stdout.write(
                f"{month}: {total.hours:,} hours and {total.parts:,} parts written, {total.deltas:,} deltas taken up"
            )
            left_out = verification.left_out(start=hours.start, end=hours.end, customer_id=order.customer_id)
            if left_out:
                self.stdout.write(f"Taken as they stand: hours with {' and '.join(left_out)}.")
