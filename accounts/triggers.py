"""The triggers that every app declares alike: what is only ever added to, and what is frozen.

Each trigger refuses with a sentence of its own, so that whoever meets it in a log knows which rule it was.
"""

from __future__ import annotations

import pgtrigger


def refuse(
    name: str,
    *,
    operation: pgtrigger.Operation,
    sentence: str,
    condition: pgtrigger.Condition | None = None,
) -> pgtrigger.Trigger:
    """Return a row trigger that refuses the operation with the sentence (when the condition holds)."""
    return pgtrigger.Trigger(
        name=name,
        operation=operation,
        when=pgtrigger.Before,
        condition=condition,
        func=_raise(sentence),
    )


def refuse_truncate(name: str, *, sentence: str) -> pgtrigger.Trigger:
    """Return a trigger that refuses TRUNCATE, which row triggers never see."""
    return pgtrigger.Trigger(
        name=name,
        operation=pgtrigger.Truncate,
        when=pgtrigger.Before,
        level=pgtrigger.Statement,
        func=_raise(sentence),
    )


def append_only(prefix: str, *, sentence: str) -> tuple[pgtrigger.Trigger, ...]:
    """Return the triggers of a table that rows are only ever added to; `prefix` is at most 30 characters."""
    return (
        refuse(f"{prefix}_never_changes", operation=pgtrigger.Update | pgtrigger.Delete, sentence=sentence),
        refuse_truncate(f"{prefix}_is_never_emptied", sentence=sentence),
    )


def _raise(sentence: str) -> str:
    quoted = sentence.replace("'", "''").replace("%", "%%")
    return f"RAISE EXCEPTION '{quoted}';"
