"""manage.py consume_usage: read usage from Kafka as one of a consumer group, until told to stop."""

from __future__ import annotations

import signal
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.sources.kafka import DEFAULT_BATCH, UsageReader
from metering.sources.kafka_clients import KafkaAddress, read_settings


def add_address(parser: ArgumentParser) -> None:
    """Take what says where usage is read."""
    parser.add_argument("--bootstrap", default=settings.KAFKA_BOOTSTRAP_SERVERS, metavar="HOST:PORT,...")
    parser.add_argument("--topic", action="append", dest="topics", metavar="NAME", help="may be given several times")
    parser.add_argument("--group", default=settings.KAFKA_GROUP)
    parser.add_argument("--config", default=settings.KAFKA_CONFIG_FILE, metavar="FILE", help="librdkafka's name=value")


def address_of(options: dict[str, Any]) -> KafkaAddress:
    """Return where usage is read. Raises: KafkaSettingsInvalid."""
    return KafkaAddress(
        bootstrap=options["bootstrap"],
        topics=tuple(options["topics"] or settings.KAFKA_TOPICS),
        group=options["group"],
        settings=read_settings(Path(options["config"])) if options["config"] else {},
    )


class Command(BaseCommand):
    """Read usage from Kafka."""

    help = "Read usage from Kafka, each event counted once. Run as many as the topics have partitions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take where usage is read, how much at once, and whether to end at the end."""
        add_address(parser)
        parser.add_argument("--max-batch", type=int, default=DEFAULT_BATCH, metavar="EVENTS", help="in a transaction")
        parser.add_argument("--until-end", action="store_true", help="end once all that is there now is taken in")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Read until the end, or until SIGTERM or Ctrl-C."""
        try:
            reader = UsageReader(
                address_of(options),
                max_batch=options["max_batch"],
                until_end=options["until_end"],
                actor=Actor.system("consume_usage"),
            )
            for kind in (signal.SIGTERM, signal.SIGINT):
                signal.signal(kind, lambda *_: reader.stop())
            reader.run()
        except CountinghouseError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{reader.events_read:,} events read.")
