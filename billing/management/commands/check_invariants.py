"""Ask the database every rule that must hold at every moment."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from accounts.invariants import RULES as ACCOUNTS_RULES
from accounts.invariants import Rule
from billing.invariants import RULES as BILLING_RULES
from metering.invariants import RULES as METERING_RULES
from pricing.invariants import RULES as PRICING_RULES

RULES: Final[tuple[Rule, ...]] = (*ACCOUNTS_RULES, *METERING_RULES, *PRICING_RULES, *BILLING_RULES)
_ROWS_SHOWN: Final = 10


class Command(BaseCommand):
    help = "Check every rule that must hold at every moment; the exit code is 1 if one is broken."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one line of JSON a rule")
        parser.add_argument("--only", metavar="NAME", help="only the rules whose name begins so, such as billing.")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002 -- Django hands them over
        rules = [rule for rule in RULES if rule.name.startswith(options["only"] or "")]
        if not rules:
            raise CommandError(f"No rule's name begins with {options['only']!r}.")
        broken = 0
        for rule in rules:
            began = time.perf_counter()
            rows = breaches(rule)
            broken += bool(rows)
            result = {
                "rule": rule.name,
                "statement": rule.statement,
                "ok": not rows,
                "breaches": len(rows),
                "rows": [[str(value) for value in row] for row in rows[:_ROWS_SHOWN]],
                "seconds": round(time.perf_counter() - began, 3),
            }
            self._print(result, as_json=options["json"])
        if broken:
            raise CommandError(f"{broken} of {len(rules)} rules are broken.")
        if not options["json"]:
            self.stdout.write(self.style.SUCCESS(f"All {len(rules)} rules hold."))

    def _print(self, result: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(result))
            return
        verdict = self.style.SUCCESS("ok    ") if result["ok"] else self.style.ERROR("breach")
        self.stdout.write(f"{verdict} {result['rule']}: {result['statement']}")
        for row in result["rows"]:
            self.stdout.write(f"         {', '.join(row)}")


def breaches(rule: Rule) -> list[tuple[Any, ...]]:
    """The rows that break a rule; none: it holds."""
    with connection.cursor() as cursor:
        cursor.execute(rule.sql)
        return list(cursor.fetchall())
