"""The triggers that every app declares alike: what is refused, only ever added to, or never emptied.

Each raises `check_violation` under the name of the rule and with a sentence of its own, so that a breach reaches Python
as an IntegrityError like that of any other constraint (`accounts.constraints.named`), and whoever meets it in a log
knows which rule it was.
"""

from __future__ import annotations

import pgtrigger


def refusal(rule: str, sentence: str) -> str:
    """Return the statement by which a trigger refuses a write in the name of the rule."""
    quoted = sentence.replace("'", "''").replace("%", "%%")
    return f"RAISE EXCEPTION '{quoted}' USING ERRCODE = 'check_violation', CONSTRAINT = '{rule}';"


def refuse(
    rule: str,
    sentence: str,
    *,
    operation: pgtrigger.Operation,
    condition: pgtrigger.Condition | str | None = None,
) -> pgtrigger.Trigger:
    """Return a row trigger that refuses the operation (when the condition holds, which may be SQL on OLD and NEW)."""
    return pgtrigger.Trigger(
        name=rule,
        when=pgtrigger.Before,
        operation=operation,
        condition=pgtrigger.Condition(f"({condition})") if isinstance(condition, str) else condition,
        func=refusal(rule, sentence),
    )


def require_on_insert(rule: str, sentence: str, *, holds: str) -> pgtrigger.Trigger:
    """Return a row trigger that refuses a new row unless a condition holds: SQL on NEW, which may ask other tables."""
    return pgtrigger.Trigger(
        name=rule,
        when=pgtrigger.Before,
        operation=pgtrigger.Insert,
        func=f"IF ({holds}) THEN RETURN NEW; END IF; {refusal(rule, sentence)}",
    )


def refuse_truncate(rule: str, sentence: str = "This table is never emptied.") -> pgtrigger.Trigger:
    """Return a trigger that refuses TRUNCATE, which row triggers never see."""
    return pgtrigger.Trigger(
        name=rule,
        level=pgtrigger.Statement,
        when=pgtrigger.Before,
        operation=pgtrigger.Truncate,
        func=refusal(rule, sentence),
    )


def append_only(prefix: str, sentence: str) -> tuple[pgtrigger.Trigger, ...]:
    """Return the triggers of a table that rows are only ever added to; `prefix` is at most 30 characters."""
    return (
        refuse(f"{prefix}_never_changes", sentence, operation=pgtrigger.Update | pgtrigger.Delete),
        refuse_truncate(f"{prefix}_is_never_emptied", sentence),
    )
