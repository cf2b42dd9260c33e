"""Makes clients of Kafka: where the brokers are, and what of librdkafka's settings is ours to decide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException

from metering.errors import KafkaNotConfigured, KafkaSettingsInvalid

_log = logging.getLogger("metering.kafka")

# What counts once rests on these: offsets are in our database, and where there is none an error says so.
_OURS: Mapping[str, str | int | bool] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "partition.assignment.strategy": "roundrobin",
    "group.protocol": "classic",
    "isolation.level": "read_committed",
}
# What a settings file may change. The queue bounds the memory of a reader that is slower than its brokers.
_DEFAULTS: Mapping[str, str | int | bool] = {
    "client.id": "countinghouse",
    "queued.max.messages.kbytes": 32_768,
    "queued.min.messages": 20_000,
    "fetch.max.bytes": 16_777_216,
    "fetch.wait.max.ms": 200,
    "topic.metadata.refresh.interval.ms": 60_000,
    # What it has to say comes as errors too, which the reader tells at its own pace.
    "log_level": 2,
}
_SAID_ON_THE_COMMAND_LINE = frozenset({"group.id", "bootstrap.servers", "metadata.broker.list"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaAddress:
    """Where usage is read: brokers as `host:port` with commas, topics, the consumer group, settings of the client."""

    bootstrap: str
    topics: tuple[str, ...]
    group: str
    settings: Mapping[str, str] = field(default_factory=dict)


def read_settings(path: Path) -> dict[str, str]:
    """Read a file of librdkafka's settings: a `name=value` a line, `#` before a remark.

    Raises: KafkaSettingsInvalid where a line is none, or sets what is not for a file to set.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The settings of the Kafka client cannot be read: {error}"
        raise KafkaSettingsInvalid(msg) from error
    settings = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals):
            # Not the line itself, which may hold a password.
            msg = f"{path.name}, line {number}: not a setting such as security.protocol=SASL_SSL."
            raise KafkaSettingsInvalid(msg)
        if name in _OURS or name in _SAID_ON_THE_COMMAND_LINE:
            msg = f"{path.name}, line {number}: {name} is not set in a file, for counting once rests on it."
            raise KafkaSettingsInvalid(msg)
        settings[name] = value
    return settings


def open_consumer(address: KafkaAddress, *, on_error: Callable[[KafkaError], None]) -> Consumer:
    """Open a client in the group; nothing is said to a broker yet.

    Raises: KafkaNotConfigured, KafkaSettingsInvalid.
    """
    if not address.bootstrap:
        raise KafkaNotConfigured("Say where the brokers are: --bootstrap HOST:PORT, or KAFKA_BOOTSTRAP_SERVERS.")
    if not address.topics:
        raise KafkaNotConfigured("Say which topics hold usage: --topic NAME, or KAFKA_TOPICS.")
    settings = {
        **_DEFAULTS,
        **address.settings,
        **_OURS,
        "bootstrap.servers": address.bootstrap,
        "group.id": address.group,
        "error_cb": on_error,
    }
    try:
        return Consumer(settings, logger=_log)
    except (KafkaException, TypeError, ValueError) as error:
        msg = f"The Kafka client does not take these settings: {_words(error)}"
        raise KafkaSettingsInvalid(msg) from error


def _words(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)
