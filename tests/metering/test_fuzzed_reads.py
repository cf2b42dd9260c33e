"""Whatever is asked of the doors for reading, the answer has a name: no 500, and no page beyond its limit."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlencode

import pytest
from django.test import Client
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from metering.models import Meter
from tests import make_accounts
from tests import make_metering as make

pytestmark = pytest.mark.django_db

USAGE, EVENTS = "/api/v1/usage", "/api/v1/events"
USUAL = {USAGE: [("customer", "acme"), ("meter", "gpu")], EVENTS: [("customer", "acme")]}
PERIODS = [
    ("2026-10-01", "2026-11-01"),
    ("0001-01-01", "0001-01-02"),
    ("0001-01-01T00:00:00+23:59", "9999-12-31T23:00:00-23:59"),
    ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"),
    ("9999-12-30", "9999-12-31"),
    ("2026-W40-4", "20261101"),
    ("2026-10-31T00:00:00Z", "٢٠٢٦-١٠-٠١"),
]
ZONES = [
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Monrovia",
    "Pacific/Apia",
    "../etc/passwd",
    "Europe",
    "localtime",
]
HARD = ["", " ", "\0", "\ud800", "é", "-1", "1e3", "٣", "0" * 9 + "1", "9" * 18, "9" * 5000, "(none)", "[", "OTIy"]
NAMES = ["window", "group_by", "filter[region]", "filter[", "data[a.b]", "data[]", "type", "id", "limit", "cursor", ""]
values = st.sampled_from(HARD) | st.text(max_size=12)
words = st.lists(st.tuples(st.sampled_from(NAMES), values | st.sampled_from(["hour", "region"])), max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    address=st.sampled_from([USAGE, EVENTS]),
    period=st.sampled_from(PERIODS) | st.tuples(values, values),
    zone=st.sampled_from(["UTC", "Europe/Berlin", *ZONES]) | values,
    asked=words,
)
@example(address=EVENTS, period=PERIODS[0], zone="UTC", asked=[("limit", "000000001" + "0" * 5000)])
def test_no_question_is_answered_with_a_500(
    client: Client, address: str, period: tuple[str, str], zone: str, asked: list[tuple[str, str]]
) -> None:
    if not Meter.objects.exists():
        make.meter(code="gpu", dimensions=["region"])
        make.subject("project-1", customer=make_accounts.customer(code="acme"))
        make.ingested(make.event(seconds="1", region="eu"))
    secret = make_accounts.api_key("usage:read").secret
    question = [*USUAL[address], ("start", period[0]), ("end", period[1]), ("time_zone", zone), *asked]

    answer = client.get(
        f"{address}?{urlencode(question, errors='surrogatepass')}", headers={"Authorization": f"Bearer {secret}"}
    )

    assert answer.status_code in {HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY}
    if answer.status_code != HTTPStatus.OK:
        assert (answer["Content-Type"], bool(answer.json()["detail"])) == ("application/problem+json", True)
