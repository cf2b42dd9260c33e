"""Every trigger of every app refuses under its own name, by which Python tells the rules apart."""

from __future__ import annotations

import pgtrigger
import pytest

TRIGGERS = [trigger for _, trigger in pgtrigger.registered()]
# Whoever writes to the quarantine writes its tally, too; they refuse nothing.
WRITING = {"quarantined_event_is_tallied", "quarantined_event_is_tallied_anew"}


@pytest.mark.parametrize("trigger", [pytest.param(each, id=each.name) for each in TRIGGERS if each.name not in WRITING])
def test_a_trigger_refuses_as_a_check_under_its_own_name(trigger: pgtrigger.Trigger) -> None:
    assert f"ERRCODE = 'check_violation', CONSTRAINT = '{trigger.name}'" in str(trigger.func)


def test_what_a_trigger_writes_needs_no_name() -> None:
    raising = {each.name for each in TRIGGERS if "RAISE" in str(each.func)}

    assert {each.name for each in TRIGGERS} - raising == WRITING
