"""Every trigger of every app refuses under its own name, by which Python tells the rules apart."""

from __future__ import annotations

import pgtrigger
import pytest


@pytest.mark.parametrize("trigger", [pytest.param(each, id=each.name) for _, each in pgtrigger.registered()])
def test_a_trigger_refuses_as_a_check_under_its_own_name(trigger: pgtrigger.Trigger) -> None:
    assert f"ERRCODE = 'check_violation', CONSTRAINT = '{trigger.name}'" in str(trigger.func)
