"""Reads what the price pages' forms send; whether it is a good price, pricing.rating says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import QueryDict

from accounts.periods import instant_of

EDITABLE_MODELS = (
    ("per_unit", "Per unit"),
    ("graduated", "Graduated tiers"),
    ("flat", "Flat fee"),
)
_EDITED_OPTIONS = ("included_quantity", "minimum_amount", "maximum_amount")
_KEPT_OPTIONS = ("divide_by", "round_quantity", "multipliers", "flat_at_zero")


def spec_of(form: QueryDict, *, before: Mapping[str, Any] | None) -> dict[str, object]:
    """Return the price that the form describes, as JSON; options that the form does not show are kept."""
    model = form.get("model", "")
    spec: dict[str, object] = {"model": model}
    if model == "flat":
        return {**spec, "amount": form.get("amount", "").strip()}
    if model == "graduated":
        spec["tiers"] = _tiers(form)
    else:
        spec["unit_price"] = form.get("unit_price", "").strip()
    options = {name: form.get(name, "").strip() for name in _EDITED_OPTIONS}
    kept = {name: value for name, value in (before or {}).items() if name in _KEPT_OPTIONS}
    if model != "graduated":
        kept.pop("flat_at_zero", None)
    return {**spec, **{name: text for name, text in options.items() if text}, **kept}


def _tiers(form: QueryDict) -> list[dict[str, str | None]]:
    columns = (form.getlist("up_to"), form.getlist("tier_price"), form.getlist("flat_amount"))
    tiers: list[dict[str, str | None]] = []
    for up_to, price, flat in zip(*columns, strict=False):
        if not (up_to.strip() or price.strip() or flat.strip()):
            continue
        tier: dict[str, str | None] = {"up_to": up_to.strip() or None, "unit_price": price.strip() or "0"}
        if flat.strip():
            tier["flat_amount"] = flat.strip()
        tiers.append(tier)
    return tiers


def moment(day: str, time: str, time_zone: str) -> datetime | None:
    """Read a date and a time of day of a time zone; without a time it is midnight. None where they are no moment."""
    try:
        local = datetime.fromisoformat(f"{day}T{time or '00:00'}")
    except ValueError:
        return None
    return None if local.tzinfo else instant_of(local, time_zone)
