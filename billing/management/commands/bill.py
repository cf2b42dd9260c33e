"""Draft the invoices of a month, on the spot and without workers."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from tqdm import tqdm

from accounts.access import Actor
from accounts.errors import CountinghouseError
from accounts.models import LegalEntity
from accounts.periods import Month, parse_month
from billing import bill_runs
from billing.models import BillRun, BillRunItem
from pricing.money import plain_amount

_CONTRACTS_AT_ONCE = 200


class Command(BaseCommand):
    help = "Start the bill runs of a month and draft every invoice; run again, it goes on where it stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--period", required=True, metavar="YYYY-MM", help="the month in which the periods start")
        parser.add_argument("--entity", metavar="CODE", help="only this legal entity; without it, all of them")
        parser.add_argument("--json", action="store_true", help="print the result as one line of JSON an entity")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002 -- Django hands them over
        try:
            month = parse_month(options["period"])
            entities = _entities(options["entity"])
        except CountinghouseError as error:
            raise CommandError(str(error)) from error
        failed = 0
        for entity in entities:
            try:
                run = self._draft(entity, month, show_progress=not options["json"])
            except CountinghouseError as error:
                failed += 1
                self._print({"legal_entity": entity.code, "error": str(error), "code": error.code}, options)
            else:
                self._print(_result(entity, run), options)
        if failed == len(entities):
            raise CommandError("Nothing was billed.")

    def _draft(self, entity: LegalEntity, month: Month, *, show_progress: bool) -> BillRun:
        run = bill_runs.start_bill_run(
            legal_entity_id=entity.pk,
            month=date(month.year, month.month, 1),
            actor=Actor.system("bill"),
            at=timezone.now(),
        )
        waiting = run.items.filter(state=BillRunItem.State.PENDING).count()
        with tqdm(total=waiting, desc=entity.code, unit="contract", disable=None if show_progress else True) as bar:
            while settled := bill_runs.draft_chunk(run_id=run.pk, limit=_CONTRACTS_AT_ONCE, at=timezone.now()):
                bar.update(settled)
        return run

    def _print(self, result: dict[str, Any], options: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(result))
            return
        if "error" in result:
            self.stdout.write(self.style.ERROR(f"{result['legal_entity']}: {result['error']}"))
            return
        self.stdout.write(
            f"{result['legal_entity']} {result['month']}: run {result['run']} ({result['status']}),"
            f" {result['invoices']} invoices, {result['empty']} with nothing to bill, {result['parked']} parked"
        )
        for currency, total in result["totals"].items():
            self.stdout.write(f"  {total} {currency}")
        for parked in result["parked_contracts"]:
            self.stdout.write(self.style.WARNING(f"  parked: {parked['customer']}: {parked['reason']}"))


def _entities(code: str | None) -> list[LegalEntity]:
    entities = list(LegalEntity.objects.filter(code=code) if code else LegalEntity.objects.order_by("code"))
    if not entities:
        raise CommandError(f"There is no legal entity with the code {code!r}." if code else "There is no legal entity.")
    return entities


def _result(entity: LegalEntity, run: BillRun) -> dict[str, Any]:
    now = bill_runs.progress(run.pk)
    parked = run.items.filter(state=BillRunItem.State.PARKED).select_related("contract__customer")
    return {
        "legal_entity": entity.code,
        "month": f"{run.month:%Y-%m}",
        "run": run.pk,
        "status": run.status,
        "contracts": now.contracts,
        "invoices": sum(each.invoices for each in now.totals),
        "empty": now.empty,
        "parked": now.parked,
        "totals": {each.currency: plain_amount(each.total, each.currency) for each in now.totals},
        "parked_contracts": [{"customer": item.contract.customer.code, "reason": item.reason} for item in parked],
    }
