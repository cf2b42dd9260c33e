"""`manage.py rate`: the product manager's calculator, JSON lines in and out."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from typing import IO

from django.core.management.base import BaseCommand, CommandParser

from pricing.calculator import answers


class Command(BaseCommand):
    """Rates prices read from standard input; needs no database."""

    help = """Work out what quantities cost. Reads JSON lines from standard input such as

  {"price": {"model": "per_unit", "unit_price": "0.0042"}, "quantity": "1500", "currency": "EUR"}

with "events": ["12.50", ...] in place of the quantity, and "quantity_before" for what was rated before. Writes one
JSON line each: {"amount": ..., "exact": ..., "steps": [...]}, or {"error": ...} for a line that can not be rated."""
    requires_system_checks = ()
    stealth_options = ("stdin",)

    def add_arguments(self, parser: CommandParser) -> None:
        """Keep the help's example on its own lines."""
        parser.formatter_class = RawDescriptionHelpFormatter

    def handle(self, *args: object, stdin: IO[bytes] | None = None, **options: object) -> None:  # noqa: ARG002
        """Answer line by line, as they come."""
        for answer in answers(stdin or sys.stdin.buffer):
            self.stdout.write(answer)
