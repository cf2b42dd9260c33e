"""manage.py distribute_usage: spread the usage tables over several machines with Citus."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from metering import distribution
from metering.errors import CitusMissing, DistributionUnsafe


class Command(BaseCommand):
    """Spread the usage tables."""

    help = "Turn the usage tables into distributed tables of Citus; changes nothing where the extension is missing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take whether only to print."""
        parser.add_argument("--print", action="store_true", help="print the statements and run none")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run the statements, or print them."""
        try:
            if options["print"]:
                for statement in distribution.statements():
                    self.stdout.write(f"{statement};")
                return
            done = distribution.distribute(on_progress=self.stdout.write)
        except (CitusMissing, DistributionUnsafe) as error:
            raise CommandError(str(error)) from error
        self.stdout.write("The usage tables are spread." if done else "The usage tables were spread already.")
