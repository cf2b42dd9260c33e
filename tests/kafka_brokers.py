"""Brokers of librdkafka's own mock cluster, in a process that lives as long as a test wants them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer

# The cluster lives inside of a client and ends with it. A topic is made, with four partitions, when it is first named.
_HOLD = """
import sys
from confluent_kafka import Producer
holder = Producer({"bootstrap.servers": "", "test.mock.num.brokers": int(sys.argv[1]), "log_level": 0})
brokers = holder.list_topics(timeout=20).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
"""
PARTITIONS = 4


@contextmanager
def running_brokers(count: int = 3) -> Iterator[str]:
    """Yield the addresses of brokers that other processes can reach."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdin
    try:
        yield holder.stdout.readline().strip()
    finally:
        holder.stdin.close()
        holder.wait(timeout=20)
        holder.stdout.close()


class Sender:
    """A producer that says when everything has arrived."""

    def __init__(self, brokers: str) -> None:
        self._producer = Producer({"bootstrap.servers": brokers, "log_level": 0, "linger.ms": 5})

    def send(
        self,
        topic: str,
        *values: bytes | None,
        partition: int = 0,
        headers: dict[str, str | bytes | None] | None = None,
    ) -> None:
        """Send messages to one partition."""
        for value in values:
            self._producer.produce(topic, value, partition=partition, headers=headers or {})
            self._producer.poll(0)

    def arrive(self) -> None:
        """Wait until the brokers have everything."""
        assert self._producer.flush(20) == 0
