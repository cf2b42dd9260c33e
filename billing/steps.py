"""The steps of a life that goes from draft to issued, as the pages of runs and invoices show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Step:
    """A step: done, now or still to come (`next`), and the instant at which it was reached."""

    label: str
    state: str
    at: datetime | None


def steps_to(
    order: Sequence[str], *, now: str, labels: Mapping[str, str], at: Mapping[str, datetime | None]
) -> list[Step]:
    """Lay the steps out in their order; what has reached the last one is done with it too."""
    position = order.index(now)
    steps = []
    for place, name in enumerate(order):
        is_done = place < position or name == now == order[-1]
        state = "done" if is_done else "now" if name == now else "next"
        steps.append(Step(labels[name], state, at.get(name)))
    return steps
