"""The usage explorer: what it chooses, shows, compares, exports, and the events behind it."""

from __future__ import annotations

import csv
from decimal import Decimal
from http import HTTPStatus
from io import BytesIO, StringIO
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.access import Role
from accounts.models import Customer
from metering.models import Meter
from metering.reading import usage_explorer
from tests import make_accounts
from tests import make_metering as make
from tests.make_pages import words as words_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer(code="acme")
    make.meter(code="gpu", dimensions=["region"])
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def analyst(client: Client) -> Client:
    client.force_login(make_accounts.staff(Role.FINANCE_ANALYST))
    return client


def explore(client: Client, **words: Any) -> Any:
    return client.get(reverse("metering:explorer"), {"customer": "acme", **words})


def test_a_customer_is_enough_to_see_the_month_of_its_latest_usage(acme: Customer, analyst: Client) -> None:
    make.ingested(make.event(time="2026-08-15T10:00:00Z", seconds="1.50"))

    context = explore(analyst).context

    assert (context["form"].meter.code, context["form"].first_on, context["form"].last_on) == (
        "gpu",
        "2026-08-01",
        "2026-08-31",
    )
    (row,) = context["shown"].rows
    assert (row.quantity, row.event_count) == (Decimal("1.5"), 1)
    assert len(context["shown"].chart.rows) == 31


def test_a_month_is_taken_as_the_api_takes_it(acme: Customer, analyst: Client) -> None:
    make.ingested(
        make.event(time="2026-08-15T10:00:00Z", seconds="1"), make.event(time="2024-02-29T10:00:00Z", seconds="2")
    )

    context = explore(analyst, month="2024-02").context
    wrong = explore(analyst, month="February")

    assert (context["form"].first_on, context["form"].last_on) == ("2024-02-01", "2024-02-29")
    assert [row.quantity for row in context["shown"].rows] == [Decimal(2)]
    assert "Give a date" in words_of(wrong)


@pytest.mark.parametrize("format_", ["", "csv", "parquet"])
def test_what_is_not_known_in_an_address_is_said_and_no_other_figures_are_shown(
    acme: Customer, analyst: Client, format_: str
) -> None:
    make.ingested(make.event(time="2026-08-15T10:00:00Z", seconds="1"))

    answer = explore(analyst, period="2024-02", format=format_)

    assert answer.context["shown"] is None
    assert "period: There is no such parameter. Known are: customer, meter, month" in words_of(answer)


def test_groups_are_compared_with_the_period_before(acme: Customer, analyst: Client) -> None:
    make.ingested(
        make.event(time="2026-10-14T10:00:00Z", seconds="4", region="eu"),
        make.event(time="2026-10-15T10:00:00Z", seconds="6", region="eu"),
        make.event(time="2026-10-15T10:00:00Z", seconds="1"),
        at=make.NOON,
    )

    shown = explore(
        analyst, first="2026-10-15", last="2026-10-15", group_by="region", compare="1", time_zone="UTC"
    ).context["shown"]

    assert [(row.label, row.quantity, row.before, row.change) for row in shown.rows] == [
        ("eu", Decimal(6), Decimal(4), Decimal("50.0")),
        ("(none)", Decimal(1), Decimal(0), None),
    ]
    assert shown.is_stacked


def test_a_month_is_compared_with_the_month_before_however_long(acme: Customer, analyst: Client) -> None:
    make.ingested(make.event(time="2026-09-01T00:00:00Z", seconds="5"), make.event(time="2026-10-01T00:00:00Z"))

    october = explore(analyst, first="2026-10-01", last="2026-10-31", compare="1", time_zone="UTC").context["shown"]
    days = explore(analyst, first="2026-10-02", last="2026-10-31", compare="1", time_zone="UTC").context["shown"]

    assert (october.total.quantity, october.total.before) == (1, 5)
    assert (days.total.quantity, days.total.before) == (0, 1)


def test_a_bar_and_a_group_lead_to_their_events(acme: Customer, analyst: Client) -> None:
    make.ingested(
        make.event("in", time="2026-10-14T10:00:00Z", seconds="1", region="eu"),
        make.event("elsewhere", time="2026-10-14T10:00:00Z", seconds="1", region="us"),
        make.event("next-day", time="2026-10-15T00:00:00Z", seconds="1", region="eu"),
    )
    asked = {"first": "2026-10-14", "last": "2026-10-15", "group_by": "region", "time_zone": "UTC"}

    shown = explore(analyst, **asked).context["shown"]
    bar = analyst.get(shown.chart.data["links"][0])
    group = analyst.get(next(row.url for row in shown.rows if row.label == "eu"))

    assert sorted(event.id for event in bar.context["found"].events) == ["elsewhere", "in"]
    assert [event.id for event in group.context["found"].events] == ["in", "next-day"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_figures_are_exported_exactly(acme: Customer, analyst: Client, kind: str) -> None:
    make.ingested(make.event(time="2026-10-15T10:00:00Z", seconds="0.123456789012345678901", region="=1+1"))

    answer = explore(analyst, first="2026-10-15", last="2026-10-15", group_by="region", time_zone="UTC", format=kind)

    if kind == "csv":
        (row,) = csv.DictReader(StringIO(answer.content.decode()))
        assert (row["region"], row["quantity"]) == ("'=1+1", "0.123456789012345678901")
    else:
        (row,) = pq.read_table(BytesIO(answer.content)).to_pylist()
        assert (row["region"], row["quantity"]) == ("=1+1", Decimal("0.123456789012345678901"))
    assert (row["customer"], row["meter"], row["events"] in {1, "1"}) == ("acme", "gpu", True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"customer": ""}, "Choose a customer"),
        ({"customer": "nobody"}, "That cannot be shown"),
        ({"time_zone": "Asia/Kolkata"}, "whole hours from UTC"),
        ({"time_zone": "Nowhere"}, "not a time zone"),
        ({"first": "2026-10-15", "last": "2026-10-01"}, "ends after it starts"),
        ({"first": "x", "last": "y"}, "Give a date"),
        ({"first": "1980-10-15", "last": "2026-10-01", "window": "hour"}, "windows"),
        ({"first": "2020-10-15", "last": "2020-10-16"}, "No usage in this period"),
        (
            {"first": "1000-01-01", "last": "9998-12-31", "window": "none", "compare": "1", "time_zone": "UTC"},
            "no period before",
        ),
        ({"first": "9999-12-01", "last": "9999-12-30", "compare": "1"}, "No usage in this period"),
    ],
)
def test_what_cannot_be_shown_is_said_on_the_page(
    acme: Customer, analyst: Client, words: dict[str, str], text: str
) -> None:
    make.ingested(make.event(seconds="1"))

    answer = explore(analyst, **words)

    assert answer.status_code == HTTPStatus.OK
    assert text in answer.content.decode()


def test_htmx_is_given_the_part_that_changes_and_history_the_whole_page(acme: Customer, analyst: Client) -> None:
    address = reverse("metering:explorer")

    part = analyst.get(address, headers={"HX-Request": "true"}).content.decode()
    whole = analyst.get(address, headers={"HX-Request": "true", "HX-History-Restore-Request": "true"}).content.decode()

    assert "<html" not in part
    assert "<html" in whole


def test_the_explorer_takes_the_same_queries_for_one_group_and_for_fifty(acme: Customer, analyst: Client) -> None:
    counts = []
    for number in (1, 50):
        make.ingested(*[make.event(seconds="1", region=f"r{index}") for index in range(number)])
        explore(analyst)
        with CaptureQueriesContext(connection) as queries:
            shown = explore(analyst, group_by="region", first="2026-10-01", last="2026-10-31").context["shown"]
        counts.append(len(queries))
        assert len(shown.rows) == number

    assert counts[0] == counts[1]


@pytest.fixture
def three(acme: Customer) -> list[Customer]:
    """Three customers who used 6, 4 and 1 seconds on one day, and 2 seconds of the first one the day before."""
    customers = [acme, *[make_accounts.customer(code=code, name=f"{code} Ltd") for code in ("bolt", "carbon")]]
    for customer, seconds in zip(customers, ("6", "4", "1"), strict=True):
        make.subject(f"of-{customer.code}", customer=customer)
        make.ingested(
            make.event(f"of-{customer.code}", subject=f"of-{customer.code}", time=DAY_15, seconds=seconds, region="eu")
        )
    make.ingested(make.event("before", subject="of-acme", time="2026-10-14T10:00:00Z", seconds="2", region="us"))
    return customers


DAY_15 = "2026-10-15T10:00:00Z"
ALL = {"customer": "(all)", "first": "2026-10-15", "last": "2026-10-15", "time_zone": "UTC"}


def test_all_customers_are_listed_by_what_they_used(three: list[Customer], analyst: Client) -> None:
    answer = explore(analyst, **ALL)

    shown, form = answer.context["shown"], answer.context["form"]
    assert (form.is_by_customer, form.meter.code) == (True, "gpu")
    assert [(row.customer.code, row.quantity) for row in shown.rows] == [("acme", 6), ("bolt", 4), ("carbon", 1)]
    assert (shown.all_of.quantity, shown.more_rows, shown.is_stacked) == (11, 0, True)
    assert shown.chart.names == ("acme Acme Robotics Ltd", "bolt bolt Ltd", "carbon carbon Ltd")
    assert "all customers" in answer.text


def test_without_any_choice_all_customers_see_the_month_of_the_latest_usage(
    three: list[Customer], analyst: Client
) -> None:
    form = explore(analyst, customer="(all)").context["form"]

    assert (form.first_on, form.last_on, form.is_by_customer) == ("2026-10-01", "2026-10-31", True)


def test_customers_are_compared_with_the_period_before(three: list[Customer], analyst: Client) -> None:
    shown = explore(analyst, **ALL, compare="1").context["shown"]

    assert [(row.before, row.change) for row in shown.rows] == [(2, Decimal("200.0")), (0, None), (0, None)]


def test_only_the_customers_with_the_most_are_listed_and_it_is_said(
    three: list[Customer], analyst: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_explorer, "GROUPS_LISTED", 2)
    monkeypatch.setattr(usage_explorer, "GROUPS_DRAWN", 1)

    answer = explore(analyst, **ALL)

    shown = answer.context["shown"]
    assert [row.customer.code for row in shown.rows] == ["acme", "bolt"]
    assert shown.all_of.quantity == 11
    assert len(shown.chart.names) == 1
    assert "there are more customers" in answer.text
    assert "1 largest customers are drawn" in answer.text


def test_from_all_customers_a_way_leads_down_to_events(three: list[Customer], analyst: Client) -> None:
    by_region = explore(analyst, **ALL, group_by="region").context["shown"]
    together = explore(analyst, **ALL, group_by="").context["shown"]

    by_customer = analyst.get(next(row.url for row in by_region.rows if row.label == "eu")).context["shown"]
    of_bolt = next(row for row in by_customer.rows if row.customer.code == "bolt")
    events = analyst.get(of_bolt.url).context["found"].events
    alone = analyst.get(of_bolt.customer_url).context["shown"]
    hours = analyst.get(by_customer.chart.data["links"][0]).context

    assert together.total.quantity == 11
    assert [event.id for event in events] == ["of-bolt"]
    assert (alone.question.customer.code, alone.total.quantity) == ("bolt", 4)
    assert (hours["form"].grain, hours["form"].first_on, hours["shown"].all_of.quantity) == ("hour", "2026-10-15", 11)


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("(customer)", [("acme", "6"), ("bolt", "4"), ("carbon", "1")]),
        ("region", [("(all)", "11")]),
        ("", [("(all)", "11")]),
    ],
)
def test_all_customers_are_exported(
    three: list[Customer], analyst: Client, group_by: str, expected: list[tuple[str, str]]
) -> None:
    file = explore(analyst, **ALL, group_by=group_by, format="csv")
    parquet = explore(analyst, **ALL, group_by=group_by, format="parquet")

    rows = list(csv.DictReader(StringIO(file.content.decode())))
    assert sorted((row["customer"], row["quantity"]) for row in rows) == expected
    assert "usage-all-gpu.csv" in file["Content-Disposition"]
    assert [str(row["quantity"]) for row in pq.read_table(BytesIO(parquet.content)).to_pylist()] == [
        row["quantity"] for row in rows
    ]


def test_every_aggregation_compares_customers_and_joins_them(acme: Customer, analyst: Client) -> None:
    for aggregation in Meter.Aggregation.values:
        make.meter(code=aggregation, aggregation=aggregation, dimensions=["region"])
    make.subject("of-bolt", customer=make_accounts.customer(code="bolt"))
    make.ingested(*[make.event(seconds="3", region=region) for region in ("eu", "us")])
    make.ingested(make.event(seconds="3", region="eu", subject="of-bolt"))

    found = {}
    for aggregation in Meter.Aggregation.values:
        shown = explore(analyst, **ALL, meter=aggregation).context["shown"]
        found[aggregation] = (*[row.quantity for row in shown.rows], shown.all_of.quantity)

    # Of acme, of bolt, and of both: a value that both saw is one, and the percentile is that of what both added up to.
    assert found == {
        "sum": (6, 3, 9),
        "count": (2, 1, 3),
        "min": (3, 3, 3),
        "max": (3, 3, 3),
        "latest": (3, 3, 3),
        "unique": (1, 1, 1),
        "gauge": (81, Decimal("40.5"), Decimal("121.5")),
        "p95": (0, 0, 0),
    }


def test_fifty_customers_take_the_queries_of_three(three: list[Customer], analyst: Client) -> None:
    counts = []
    for number in (0, 50):
        for index in range(number):
            make.subject(f"s{index}", customer=make_accounts.customer(code=f"c{index:03}"))
        make.ingested(*[make.event(f"e{index}", subject=f"s{index}", time=DAY_15) for index in range(number)])
        explore(analyst, **ALL)
        with CaptureQueriesContext(connection) as queries:
            shown = explore(analyst, **ALL, compare="1").context["shown"]
        counts.append(len(queries))
        assert len(shown.rows) == 3 + number

    assert counts[0] == counts[1]


def test_the_api_knows_no_question_about_all_customers(three: list[Customer], client: Client) -> None:
    key = make_accounts.api_key("usage:read").secret
    bearer = {"Authorization": f"Bearer {key}"}
    asked = {"meter": "gpu", "start": "2026-10-15", "end": "2026-10-16"}

    of_all = client.get("/api/v1/usage", {**asked, "customer": "(all)"}, headers=bearer)
    by_customer = client.get("/api/v1/usage", {**asked, "customer": "acme", "group_by": "(customer)"}, headers=bearer)

    assert of_all.status_code == HTTPStatus.NOT_FOUND
    assert by_customer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY


def test_every_aggregation_can_be_looked_at(acme: Customer, analyst: Client) -> None:
    for aggregation in Meter.Aggregation.values:
        make.meter(code=aggregation, aggregation=aggregation, dimensions=["region"])
    make.ingested(make.event(seconds="3", region="eu"), make.event(seconds="3", region="us"))

    found = {}
    for aggregation in Meter.Aggregation.values:
        answer = explore(analyst, meter=aggregation, first="2026-10-15", last="2026-10-15", time_zone="UTC")
        found[aggregation] = answer.context["shown"].total.quantity

    # Levels of 3 in two regions, from half past ten until midnight.
    assert found == {"sum": 6, "count": 2, "min": 3, "max": 3, "latest": 3, "unique": 1, "gauge": 81, "p95": 0}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"meter": "no"}, "There is no such meter."),
        ({"cursor": "no"}, "The cursor is none"),
        ({"filter[region]": "eu"}, "Name the meter"),
    ],
)
def test_events_that_cannot_be_listed_are_not_other_events(
    acme: Customer, analyst: Client, words: dict[str, str], text: str
) -> None:
    make.ingested(make.event("the only one", seconds="1"))

    answer = analyst.get(reverse("metering:explorer-events"), {"customer": "acme", "month": "2026-10", **words})

    assert answer.status_code == HTTPStatus.OK
    assert "the only one" not in words_of(answer)
    assert text in words_of(answer)
