"""Figures for a chart on a page, with the same figures as rows of a table for those who cannot see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of the table below a chart."""

    label: str
    values: tuple[str, ...]
    url: str = ""


@dataclass(frozen=True, slots=True)
class Marker:
    """A sign above some bars: its name, its shape (as Chart.js calls it), and what it says of each bar, by position."""

    label: str
    shape: str
    texts: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Chart:
    """What a page hands to its chart: labels along the bottom and one series or more above them."""

    data: Mapping[str, object]
    names: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.rows or not self.names


def chart(
    *,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Decimal]],
    write: Callable[[str, Decimal], str],
    unit: str = "",
    links: Sequence[str] = (),
    markers: Sequence[Marker] = (),
) -> Chart:
    """Lay figures out; `write` turns a value of a series into the text of the table.

    `links` are addresses, one for each label: a click on its bar, or on its row of the table, leads there. `markers`
    are drawn above the bars and have columns of their own in the table.

    The browser draws with its own numbers, so a bar may be off by less than a pixel; the table is exact.
    """
    drawn = [{"label": name, "values": [f"{value:f}" for value in values]} for name, values in series.items()]
    rows = tuple(
        TableRow(
            label,
            (
                *(write(name, values[index]) for name, values in series.items()),
                *(marker.texts.get(index, "–") for marker in markers),
            ),
            links[index] if links else "",
        )
        for index, label in enumerate(labels)
    )
    signs = [
        {
            "label": marker.label,
            "shape": marker.shape,
            "texts": [marker.texts.get(index) for index in range(len(labels))],
        }
        for marker in markers
    ]
    data = {"labels": list(labels), "series": drawn, "unit": unit, "links": list(links), "markers": signs}
    return Chart(data=data, names=(*series, *(marker.label for marker in markers)) if series else (), rows=rows)
