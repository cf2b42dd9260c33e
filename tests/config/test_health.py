from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.test import Client

from metering.rollups import fold
from tests import make_metering as make

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def test_a_site_whose_database_answers_is_well() -> None:
    answer = Client().get("/healthz")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "fold_lag_seconds": 0,
        "kafka_lag_messages": 0,
        "kafka_partitions_in_trouble": 0,
    }


def test_the_lag_of_the_fold_grows_with_the_oldest_usage_that_waits_and_ends_with_it() -> None:
    make.meter()
    make.subject()
    make.ingested(make.event(seconds=1), at=NOON)
    make.ingested(make.event(seconds=2), at=NOON + timedelta(seconds=30))

    with time_machine.travel(NOON + timedelta(seconds=90), tick=False):
        waiting = Client().get("/healthz").json()
        fold()
        folded = Client().get("/healthz").json()

    assert waiting["fold_lag_seconds"] == 90
    assert folded["fold_lag_seconds"] == 0
