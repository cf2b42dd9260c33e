"""manage.py retire_usage_topic: say that a group will not read a topic any more."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.sources.kafka_offsets import retire_topic


class Command(BaseCommand):
    """Retire a topic."""

    help = "Say that a topic is not read any more, so that its silence alarms nobody. A reader takes it back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the topic, the group and why."""
        parser.add_argument("--topic", required=True)
        parser.add_argument("--group", default=settings.KAFKA_GROUP)
        parser.add_argument("--reason", required=True, help="kept in the audit log")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Retire it and say how many partitions that were."""
        try:
            partitions = retire_topic(
                group=options["group"],
                topic=options["topic"],
                reason=options["reason"],
                actor=Actor.system("retire_usage_topic"),
                at=timezone.now(),
            )
        except CountinghouseError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{partitions:,} partitions retired.")
