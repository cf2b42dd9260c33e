"""What the demonstration says at its end: each figure, and what became of every record."""

from __future__ import annotations

from billing.demo.sample_month import CURRENCY, MONTH, RECORD_PLACES, SampleMonth
from billing.demo.synthetic_months import SyntheticMonths
from metering.models import QuarantinedEvent
from pricing import money


def as_text(sample: SampleMonth, synthetic: SyntheticMonths | None) -> str:
    """Return the summary for a person."""
    lines = [
        *_sample_lines(sample),
        *(["", *_synthetic_lines(synthetic)] if synthetic else []),
        "",
        _what_was_new(sample, synthetic),
    ]
    return "\n".join(lines)


def _sample_lines(sample: SampleMonth) -> list[str]:
    load = sample.load
    lines = [
        f"Real usage, {MONTH:%B %Y} (FOCUS sample data, FinOps Foundation, CC BY 4.0)",
        _row("records in the file", load.rows),
        _row("billable events", sample.billable_events),
        _row("customers", sample.customers),
        _row("quarantined, waiting on the quarantine page", sum(sample.quarantined.values())),
    ]
    for reason, count in sample.quarantined.items():
        lines.append(_row(f"  {QuarantinedEvent.Reason(reason).label}", count))
    lines.append(_row("refused, kept with their reason", sum(sample.refused.values())))
    for reason, count in sample.refused.items():
        lines.append(_row(f"  {reason}", count))
    return [
        *lines,
        "",
        _amount("exact rated total", f"{sample.rated_total:.11f}"),
        (
            f"    each record at its approved price, to the {RECORD_PLACES} places that its source keeps;"
            f" equals the record's list cost on {sample.records_at_list_cost} of {sample.billable_events}"
        ),
        _amount("invoiced total", money.plain_amount(sample.invoiced_total, CURRENCY)),
        (
            f"    {sample.lines} lines on {sample.invoices} invoices, each line rounded once, to cents;"
            f" before that rounding {money.plain(sample.unrounded_total)}"
        ),
        _amount("difference", f"{sample.invoiced_total - sample.rated_total:.11f}"),
        "",
        _row(f"bill run {sample.run.get_status_display().lower()}; PDFs stored", sample.documents),
        _row("mails sent", sample.mails),
    ]


def _synthetic_lines(synthetic: SyntheticMonths) -> list[str]:
    lines = [
        "Synthetic GPU cloud (invented usage, fixed seed; marked so on every page and document)",
        _row("customers", synthetic.customers),
        _row("events", synthetic.events),
        _row("lines of percentiles, levels and different users", synthetic.recounted.lines),
        _row("  that equal a plain recount of their raw events", synthetic.recounted.equal),
    ]
    lines += [
        _row(f"{month:%B %Y}: {run.get_status_display().lower()}, invoices", run.invoices.count())
        for month, run in zip(synthetic.months, synthetic.runs, strict=True)
    ]
    return lines


def _what_was_new(sample: SampleMonth, synthetic: SyntheticMonths | None) -> str:
    added = _new_events(sample, synthetic)
    if added:
        return f"Added {added:,} usage events."
    return "Nothing was added: everything was here already, and the file was recognised as one that was loaded before."


def _new_events(sample: SampleMonth, synthetic: SyntheticMonths | None) -> int:
    # A file that was loaded before answers with the report of that load.
    of_sample = 0 if sample.load.loaded_before else sample.load.accepted
    return of_sample + (synthetic.new_events if synthetic else 0)


def as_json(sample: SampleMonth, synthetic: SyntheticMonths | None) -> dict[str, object]:
    """Return the summary for a program; amounts are decimal strings."""
    summary: dict[str, object] = {
        "records": sample.load.rows,
        "billable_events": sample.billable_events,
        "customers": sample.customers,
        "quarantined": sample.quarantined,
        "refused": sample.refused,
        "currency": CURRENCY,
        "exact_rated_total": f"{sample.rated_total:.11f}",
        "unrounded_line_total": money.plain(sample.unrounded_total),
        "invoiced_total": money.plain_amount(sample.invoiced_total, CURRENCY),
        "difference": f"{sample.invoiced_total - sample.rated_total:.11f}",
        "invoices": sample.invoices,
        "lines": sample.lines,
        "documents": sample.documents,
        "mails": sample.mails,
        "new_events": _new_events(sample, synthetic),
    }
    if synthetic:
        summary["synthetic_customers"] = synthetic.customers
        summary["synthetic_events"] = synthetic.events
        summary["synthetic_lines_recounted"] = synthetic.recounted.lines
        summary["synthetic_lines_equal"] = synthetic.recounted.equal
    return summary


def _row(label: str, count: int) -> str:
    return f"  {label:<64}{count:>8,}"


def _amount(label: str, amount: str) -> str:
    return f"  {label:<44}{amount:>28} {CURRENCY}"
