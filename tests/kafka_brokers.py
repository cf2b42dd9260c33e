"""Brokers of librdkafka's own mock cluster, in a process that lives as long as a test wants them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer

from tests.patience import PATIENCE_SECONDS

# The cluster lives inside of a client and ends with it. A topic is made, with four partitions, when it is first named.
# Its brokers let a new group wait three seconds for more members, and only the library itself can tell them otherwise.
_HOLD = """
import ctypes, sys
from confluent_kafka import cimpl
library = ctypes.CDLL(cimpl.__file__)
for name in ("conf_new", "new", "handle_mock_cluster"):
    getattr(library, "rd_kafka_" + name).restype = ctypes.c_void_p
library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
pointer = ctypes.c_void_p
fault = ctypes.create_string_buffer(512)
settings = pointer(library.rd_kafka_conf_new())
for name, value in ((b"test.mock.num.brokers", sys.argv[1].encode()), (b"log_level", b"0")):
    assert library.rd_kafka_conf_set(settings, name, value, fault, ctypes.c_size_t(512)) == 0, fault.value
holder = pointer(library.rd_kafka_new(0, settings, fault, ctypes.c_size_t(512)))
cluster = pointer(library.rd_kafka_handle_mock_cluster(holder))
library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, ctypes.c_int32(200))
print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
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
        holder.wait(timeout=PATIENCE_SECONDS)
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
        assert self._producer.flush(60) == 0
