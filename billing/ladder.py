"""Writes the steps of a line as the rungs of a ladder: from the quantity, through prices and limits, to the amount."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from accounts.charts import Chart, chart
from accounts.periods import Grain, Period, edges, local_date
from billing.explanations import SeriesPart
from billing.models import InvoiceLine
from metering.aggregations import Aggregation, slots_in
from metering.meters.meter_words import EXPLAINED
from metering.reading.quantities import QuantityAsk, quantities
from pricing.price_texts import amount_text, exact_amount_text, quantity_text

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung: what happens and, where it adds to the exact amount, by how much."""

    kind: str
    words: str
    value: str


def rungs(line: InvoiceLine) -> list[Rung]:
    """Return the ladder of a line; every word comes from the steps that the rating itself recorded."""
    ladder = []
    if line.kind != InvoiceLine.Kind.FEE:
        ladder.append(Rung("start", "Quantity", f"{quantity_text(line.quantity)} {line.unit}"))
        if line.quantity_before:
            ladder.append(
                Rung("step", "Billed before in this period", f"{quantity_text(line.quantity_before)} {line.unit}"),
            )
    ladder += [_rung(step, line) for step in line.steps]
    ladder.append(Rung("sum", "Exact amount", exact_amount_text(line.exact_amount, line.currency)))
    ladder.append(Rung("sum", "Rounded once, half up", amount_text(line.amount, line.currency)))
    return ladder


def _rung(step: Facts, line: InvoiceLine) -> Rung:
    writer = _WRITERS.get(str(step["kind"]))
    words = writer(step, line) if writer else str(step["kind"]).replace("_", " ").capitalize()
    return Rung("step", words, exact_amount_text(Decimal(step["amount"]), line.currency))


def _per_unit(step: Facts, line: InvoiceLine) -> str:
    return f"{_quantity(step)} {line.unit} at {_price(step, line)}"


def _tier(step: Facts, line: InvoiceLine) -> str:
    start, end = quantity_text(Decimal(step["from"])), step["up_to"]
    span = f"above {start}" if end is None else f"{start} to {quantity_text(Decimal(end))}"
    fee = Decimal(step.get("flat_amount") or 0)
    once = f", plus {amount_text(fee, line.currency)} once" if fee else ""
    return f"Tier {step['tier']}, {span}: {_quantity(step)} {line.unit} at {_price(step, line)}{once}"


def _flat(_step: Facts, _line: InvoiceLine) -> str:
    return "Fee for the period"


def _conversion(step: Facts, line: InvoiceLine) -> str:
    divisor = Decimal(step["divide_by"])
    divided = f", divided by {quantity_text(divisor)}" if divisor != 1 else ""
    rounded = f", rounded {step['mode'].replace('_', ' ')} to {step['places']} places" if "mode" in step else ""
    return f"{_quantity(step)} {line.unit}{divided}{rounded}: {quantity_text(Decimal(step['converted']))}"


def _allowance(step: Facts, line: InvoiceLine) -> str:
    included = quantity_text(Decimal(step["included_quantity"]))
    return f"{_quantity(step)} {line.unit} of the {included} included cost nothing"


def _minimum(step: Facts, line: InvoiceLine) -> str:
    return f"Lifted to the minimum of {amount_text(Decimal(step['minimum_amount']), line.currency)}"


def _maximum(step: Facts, line: InvoiceLine) -> str:
    return f"Capped at the maximum of {amount_text(Decimal(step['maximum_amount']), line.currency)}"


def _proration(step: Facts, _line: InvoiceLine) -> str:
    return f"{step['days']} of {step['of_days']} days"


def _billed_before(step: Facts, line: InvoiceLine) -> str:
    billed = amount_text(Decimal(step["billed_amount"]), line.currency)
    return f"Less what earlier invoices billed: {_quantity(step)} {line.unit}, {billed}"


def _quantity(step: Facts) -> str:
    return quantity_text(Decimal(step["quantity"]))


def _price(step: Facts, line: InvoiceLine) -> str:
    return exact_amount_text(Decimal(step["unit_price"]), line.currency)


_WRITERS: Final[Mapping[str, Callable[[Facts, InvoiceLine], str]]] = {
    "per_unit": _per_unit,
    "tier": _tier,
    "flat": _flat,
    "conversion": _conversion,
    "allowance": _allowance,
    "minimum": _minimum,
    "maximum": _maximum,
    "proration": _proration,
    "billed_before": _billed_before,
}


def how_measured(line: InvoiceLine, series: Sequence[SeriesPart]) -> str:
    """Say how the quantity comes from events where it is not simply their sum or number; empty where it is."""
    if not series:
        return ""
    meter = series[0].meter
    divided = (
        "" if meter.divisor == 1 else f"What the values come to is divided by {quantity_text(meter.divisor)}, once."
    )
    return " ".join(filter(None, (_how_aggregated(line, series, meter.aggregation), divided)))


def _how_aggregated(line: InvoiceLine, series: Sequence[SeriesPart], aggregation: str) -> str:
    if aggregation in {Aggregation.SUM, Aggregation.COUNT}:
        return ""
    if aggregation == Aggregation.P95:
        slots = slots_in(line.service_period.lower, line.service_period.upper)
        return (
            f"This period has {slots:,} times five minutes, each added up by itself; without usage it is zero. The"
            f" {slots // 20:,} highest (5 %) are left out, and the highest of the others is billed."
        )
    words = EXPLAINED[aggregation].says
    carried = sum(1 for part in series if not part.event_count)
    if aggregation == Aggregation.GAUGE and carried:
        words += f" In {carried} of {len(series)} series nothing was read in this period: what was read before held on."
    return words


def usage_by_day(line: InvoiceLine, series: Sequence[SeriesPart]) -> Chart:
    """Chart what a line's series saw, day by day of the invoice's time zone: each day by the meter's aggregation."""
    if not series:
        return chart(labels=[], series={}, write=lambda _name, _value: "", unit=line.unit)
    zone, meter = line.invoice.time_zone, series[0].meter
    cut = edges(Period(line.service_period.lower, line.service_period.upper), Grain.DAY, zone)
    found = quantities(
        [
            QuantityAsk(
                customer_id=line.invoice.customer_id,
                meter_id=meter.pk,
                aggregation=meter.aggregation,
                divisor=meter.divisor,
                edges=cut,
                series_ids=[part.series_id for part in series],
            )
        ]
    )
    return chart(
        labels=[f"{local_date(cut[each.window], zone):%-d %b}" for each in found],
        series={line.description: [each.quantity for each in found]} if found else {},
        write=lambda _name, value: f"{quantity_text(value)} {line.unit}",
        unit=line.unit,
    )
