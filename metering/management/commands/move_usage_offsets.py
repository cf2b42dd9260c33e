"""manage.py move_usage_offsets: let a group go on reading usage from elsewhere in a topic, for a reason."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.management.commands.consume_usage import add_address, address_of
from metering.sources.kafka_moves import move_offsets


class Command(BaseCommand):
    """Move where a group goes on."""

    help = "Read usage again from an earlier offset (safe: each event counts once), or leave some out for good."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take which partitions, where to, and why."""
        add_address(parser)
        parser.add_argument("--partition", type=int, help="only this one of each topic; without it, all")
        parser.add_argument("--to", required=True, metavar="OFFSET|earliest|latest|MOMENT")
        parser.add_argument("--reason", required=True, help="kept in the audit log")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Move the offsets and say from where to where."""
        try:
            moves = move_offsets(
                address=address_of(options),
                partition=options["partition"],
                to=options["to"],
                reason=options["reason"],
                actor=Actor.system("move_usage_offsets"),
                at=timezone.now(),
            )
        except CountinghouseError as error:
            raise CommandError(str(error)) from error
        for move in moves:
            self.stdout.write(f"{move.place}  {move.before:,} -> {move.after:,}")
