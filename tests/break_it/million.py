"""A million events that anybody can count on paper, and a sender that does not give up: `python -m ... PORT SECRET N`.

The events follow from their number alone, so the test counts them with plain integers and never asks the house.
"""

from __future__ import annotations

import http.client
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

EVENTS = 1_000_000
SENDERS = 4
SUBJECTS = 40
REGIONS = ("eu", "us", "ap", "af")
START = datetime(2026, 10, 1, tzinfo=UTC)
STEP = timedelta(microseconds=2_678_400_000_000 // EVENTS)
"""The events are spread evenly over the 31 days of October."""

_BATCH = 2_000
_OTHER_BATCH = 1_370
_AGAIN = 0.25
"""This part of all events is sent a second time, by another sender and in batches that are cut elsewhere."""

_TYPES = {0: "node.seen", 1: "net.sent", 2: "disk.level"}
_encode = msgspec.json.Encoder().encode


def event(number: int) -> dict[str, object]:
    """Return the event of a number."""
    kind = _TYPES.get(_dice(number), "gpu.used")
    project, region = _place(number)
    data: dict[str, object] = {"region": region, "project": project}
    if kind == "node.seen":
        data["node"] = f"node-{number * 7919 % 5003}"
    elif kind == "net.sent":
        data["bytes"] = number % 65_537
    elif kind == "disk.level":
        data["gb"] = number % 1_009
    else:
        data["milliseconds"] = number % 3_600_000
    return {
        "id": f"m-{number}",
        "source": f"cluster/{number % 7}",
        "type": kind,
        "subject": project,
        "time": (START + number * STEP).isoformat(),
        "data": data,
    }


def _dice(number: int) -> int:
    return number * 13 % 997 % 20


def _place(number: int) -> tuple[str, str]:
    return f"subject-{number % SUBJECTS}", REGIONS[number // SUBJECTS % len(REGIONS)]


@dataclass
class Count:
    """What the events come to by subject and region; slots and readings by their time as well."""

    milliseconds: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    nodes: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    slots: Counter[tuple[str, str, datetime]] = field(default_factory=Counter)
    readings: dict[tuple[str, str, datetime], int] = field(default_factory=dict)


def counted_on_paper() -> Count:
    """Add the events up with integers."""
    count = Count()
    for number in range(EVENTS):
        subject, region = _place(number)
        moment = START + number * STEP
        kind = _dice(number)
        if kind == 0:
            count.nodes[subject, region].add(f"node-{number * 7919 % 5003}")
        elif kind == 1:
            slot = moment.replace(minute=moment.minute // 5 * 5, second=0, microsecond=0)
            count.slots[subject, region, slot] += number % 65_537
        elif kind == 2:
            count.readings[subject, region, moment] = number % 1_009
        else:
            count.milliseconds[subject, region] += number % 3_600_000
            count.calls[subject, region] += 1
    return count


def batches_of(sender: int) -> list[range]:
    """Return what one sender sends, in an order of its own."""
    chance = random.Random(sender)  # noqa: S311 -- any order will do
    mine = [range(start, min(start + _BATCH, EVENTS)) for start in range(0, EVENTS, _BATCH)][sender::SENDERS]
    others = [range(start, min(start + _OTHER_BATCH, EVENTS)) for start in range(0, EVENTS, _OTHER_BATCH)]
    mine += chance.sample(others, int(len(others) * _AGAIN / SENDERS))
    chance.shuffle(mine)
    return mine


def send(port: int, secret: str, sender: int) -> Counter[str]:
    """Send until each batch is acknowledged; whatever goes wrong, the same batch is sent again."""
    told: Counter[str] = Counter()
    chance = random.Random(sender)  # noqa: S311 -- any order will do
    for batch in batches_of(sender):
        numbers = list(batch)
        chance.shuffle(numbers)
        body = _encode([event(number) for number in numbers])
        while (status := _post(port, secret, body)) != http.HTTPStatus.OK:
            told[str(status)] += 1
            time.sleep(chance.uniform(0.05, 0.3))
        told["acknowledged"] += len(batch)
    return told


def _post(port: int, secret: str, body: bytes) -> int:
    """Return the status of the answer, 0 where none came."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        client.request(
            "POST",
            "/api/v1/events",
            body,
            {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
        )
        answer = client.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        client.close()
    if answer.status == http.HTTPStatus.OK:
        outcome = msgspec.json.decode(content)
        assert outcome["quarantined"] == 0, content
        assert outcome["rejected"] == [], content
    return answer.status


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(send(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))).decode())
