"""The pages of meters: what they say, and what their forms do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.access import Role
from accounts.models import Customer
from metering.errors import MeterInvalid
from metering.meters import meter_backfill, meter_forms, meter_words
from metering.meters.meters import MeterReading, add_version
from metering.models import Meter, MeterBackfill, MeterVersion, UsageSeries
from tests import make_accounts, make_pages
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db

NEW = {
    "name": "Bandwidth",
    "code": "bandwidth",
    "event_type": "net.sent",
    "aggregation": "p95",
    "value_path": "bytes",
    "unit": "Mbit/s",
    "conversion": "0.000008",
    "divisor": "300",
    "event_filter": "direction = out\npaid = true\nport = 443",
    "dimensions": "region, port",
}


@pytest.fixture
def manager() -> Client:
    return make_pages.signed_in(Role.PRODUCT_MANAGER)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


def text_of(client: Client, path: str, **form: str) -> str:
    answer = client.post(path, form) if form else client.get(path)
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


def test_the_list_says_in_words_what_each_meter_counts(manager: Client, shop: Customer) -> None:
    meter = make.meter(event_filter={"spot": True}, dimensions=["region"])
    make.ingested(make.event(seconds=1, spot=True, region="eu"), make.event(seconds=1, spot=True, region="us"))

    shown = text_of(manager, "/usage/meters/")

    assert meter.name in shown
    assert "Adds up “seconds” of gpu.used events where “spot” is true, split by “region”." in shown


def test_the_list_is_filtered(manager: Client) -> None:
    first, second = make.meter(), make.meter(aggregation="count")

    assert second.name not in text_of(manager, "/usage/meters/?aggregation=sum")
    assert first.name not in text_of(manager, f"/usage/meters/?q={second.code}")
    assert "No meter like that" in text_of(manager, "/usage/meters/?state=resting")


def test_the_list_takes_as_many_queries_for_fifty_meters_as_for_one(manager: Client, shop: Customer) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            manager.get("/usage/meters/")
        return len(captured)

    make.meter()
    make.ingested(make.event())
    of_one = queries()
    for _ in range(49):
        make.meter()
    make.ingested(make.event())

    assert queries() == of_one


def test_a_meters_page_shows_versions_examples_and_series(manager: Client, shop: Customer) -> None:
    meter = make.meter(dimensions=["region"])
    make.ingested(make.event(seconds="12345.0000000001", region="eu-7"), make.event(region="eu-7"))
    add_version(
        meter_id=meter.pk,
        reading=MeterReading(value_path="minutes", dimensions=["region"]),
        valid_from=datetime(2027, 1, 1, tzinfo=UTC),
        reason="minutes from new year on",
        actor=SYSTEM,
        at=NOON,
    )

    shown = text_of(manager, f"/usage/meters/{meter.pk}/")

    for words in ("minutes from new year on", "1 Jan 2027", "12345.0000000001", "eu-7", shop.name, "under 1 %"):
        assert words in shown


def test_a_preview_shows_figures_and_stores_nothing(manager: Client, shop: Customer) -> None:
    day = timezone.now() - timedelta(days=1)
    make.ingested(make.event(event_type="net.sent", time=day.isoformat(), sent=3_000), at=timezone.now())
    draft = {
        **NEW,
        "aggregation": "sum",
        "value_path": "sent",
        "conversion": "0.5",
        "event_filter": "",
        "dimensions": "",
    }

    shown = text_of(manager, "/usage/meters/try/", **draft)

    assert "5 Mbit/s" in shown
    assert "divided by 300 in the end" in shown
    assert shop.name in shown
    assert not Meter.objects.exists()


def test_a_preview_of_half_a_form_says_what_is_missing(manager: Client) -> None:
    assert "reads no value" in text_of(manager, "/usage/meters/try/", **{**NEW, "value_path": ""})
    assert "is not a number" in text_of(manager, "/usage/meters/try/", **{**NEW, "conversion": "much"})
    assert "name = value" in text_of(manager, "/usage/meters/try/", **{**NEW, "event_filter": "running"})
    assert "Name an event type" in text_of(manager, "/usage/meters/try/", **{**NEW, "event_type": ""})


def test_the_form_defines_a_meter(manager: Client) -> None:
    answer = manager.post("/usage/meters/new/", NEW)

    meter = Meter.objects.get()
    version = meter.versions.get()
    assert answer["Location"] == f"/usage/meters/{meter.pk}/"
    assert (meter.name, meter.aggregation, meter.unit) == ("Bandwidth", "p95", "Mbit/s")
    assert str(meter.divisor) == "300"
    assert version.event_filter == {"direction": "out", "paid": True, "port": 443}
    assert (version.value_path, str(version.conversion), version.dimensions) == (
        "bytes",
        "0.000008",
        ["region", "port"],
    )


def test_a_meters_page_says_by_what_its_result_is_divided(manager: Client) -> None:
    manager.post("/usage/meters/new/", NEW)

    meter = Meter.objects.get()
    assert "Result divided by 300 Unit Mbit/s" in make_pages.words(manager.get(f"/usage/meters/{meter.pk}/"))
    assert "; the result is divided by 300." in text_of(manager, "/usage/meters/")
    assert "the result divided by 300, in Mbit/s" in text_of(manager, f"/usage/meters/{meter.pk}/version/")


def test_a_refused_form_keeps_what_was_typed(manager: Client) -> None:
    shown = text_of(manager, "/usage/meters/new/", **{**NEW, "code": "no spaces", "dimensions": "a, a"})

    assert "A dimension is named twice." in shown
    assert "no spaces" in shown
    assert 'value="p95" checked' in shown


def test_the_form_adds_a_version(manager: Client) -> None:
    meter = make.meter(event_filter={"paid": "true"})
    day = timezone.now() + timedelta(days=2)
    typed = meter_forms.typed_of(meter.versions.get())

    shown = text_of(manager, f"/usage/meters/{meter.pk}/version/")
    manager.post(
        f"/usage/meters/{meter.pk}/version/",
        {**typed, "value_path": "minutes", "valid_day": f"{day:%Y-%m-%d}", "valid_hour": "06:00", "reason": "new data"},
    )

    assert "paid = &quot;true&quot;" in shown
    version = MeterVersion.objects.get(meter=meter, number=2)
    assert (version.value_path, version.event_filter) == ("minutes", {"paid": "true"})
    assert (version.valid_from.date(), version.valid_from.hour) == (day.date(), 6)


def test_a_version_without_a_moment_is_refused(manager: Client) -> None:
    meter = make.meter()

    shown = text_of(manager, f"/usage/meters/{meter.pk}/version/", value_path="minutes", reason="x", valid_day="soon")

    assert "from which day and hour" in shown
    assert meter.versions.count() == 1


def test_a_meter_takes_another_name_and_limit(manager: Client) -> None:
    meter = make.meter()

    manager.post(f"/usage/meters/{meter.pk}/change/", {"name": "GPU", "series_limit": "7", "reason": "as agreed"})

    meter.refresh_from_db()
    assert (meter.name, meter.series_limit, meter.is_active) == ("GPU", 7, False)


def test_a_back_fill_is_previewed_asked_for_and_watched(manager: Client, shop: Customer) -> None:
    make.meter(aggregation="count")
    make.ingested(make.event(time="2026-10-10T01:00:00Z", gb=5), make.event(time="2026-10-11T01:00:00Z", gb=6))
    meter = make.meter(value_path="gb")
    path = f"/usage/meters/{meter.pk}/back-fill/"

    preview = text_of(manager, f"{path}?first_day=2026-10-10&last_day=2026-10-11")
    manager.post(path, {"first_day": "2026-10-10", "last_day": "2026-10-11", "reason": "sold since"})
    backfill = MeterBackfill.objects.get()
    watched = text_of(manager, f"/usage/back-fills/{backfill.pk}/")
    meter_backfill.count_chunk(backfill_id=backfill.pk, at=NOON)
    part = manager.get(f"/usage/back-fills/{backfill.pk}/", headers={"HX-Request": "true"}).content.decode()

    assert "Read 2 stored events" in preview
    assert "11 s" in preview
    assert (backfill.starts_at, backfill.ends_at) == (
        datetime(2026, 10, 10, tzinfo=UTC),
        datetime(2026, 10, 12, tzinfo=UTC),
    )
    assert 'hx-trigger="every 2s"' in watched
    assert "hx-trigger" not in part
    assert "2 events" in part
    assert UsageSeries.objects.filter(meter_id=meter.pk).count() == 1


def test_a_large_back_fill_waits_in_the_inbox(manager: Client, shop: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_backfill, "EVENTS_WITHOUT_APPROVAL", 0)
    make.meter(aggregation="count")
    make.ingested(make.event(time="2026-10-10T01:00:00Z", gb=5))
    meter = make.meter(value_path="gb")

    manager.post(
        f"/usage/meters/{meter.pk}/back-fill/",
        {"first_day": "2026-10-10", "last_day": "2026-10-10", "reason": "sold since"},
    )

    backfill = MeterBackfill.objects.get()
    assert f"Back-fill {meter.name}" in text_of(make_pages.signed_in(Role.PRICING_APPROVER), "/approvals/")
    assert "waits for a second person" in text_of(manager, f"/usage/back-fills/{backfill.pk}/")


@pytest.mark.parametrize(
    "path",
    ["/usage/meters/new/", "/usage/meters/{}/version/", "/usage/meters/{}/back-fill/", "/usage/meters/{}/change/"],
)
def test_only_who_edits_meters_may(path: str) -> None:
    client = make_pages.signed_in(Role.AUDITOR)
    path = path.format(make.meter().pk)

    answer = client.post(path, {}) if "change" in path else client.get(path)

    assert answer.status_code == 403


@pytest.mark.parametrize(
    "days", ["first_day=2026-10-02&last_day=2026-10-01", "first_day=2020-01-01", "last_day=9999-12-31"]
)
def test_days_that_cannot_be_previewed_are_said_to_be_so(manager: Client, days: str) -> None:
    meter = make.meter()

    answer = manager.get(f"/usage/meters/{meter.pk}/back-fill/?first_day=2026-10-01&{days}")

    assert answer.status_code == 200


def test_every_aggregation_is_explained() -> None:
    assert set(meter_words.EXPLAINED) == set(Meter.Aggregation.values)
    assert all(meter_words.sentence(Meter(aggregation=each), MeterVersion()) for each in Meter.Aggregation.values)


@pytest.mark.parametrize(
    ("line", "value"),
    [("a = true", True), ("a = 7", 7), ("a=-7", -7), ('a = "7"', "7"), ("a = on", "on"), ("a = b = c", "b = c")],
)
def test_a_line_of_the_filter_is_read_and_written_back(line: str, value: object) -> None:
    reading = meter_forms.reading_of({"event_filter": line})

    assert reading.event_filter == {"a": value}
    assert type(reading.event_filter["a"]) is type(value)
    typed = meter_forms.typed_of(MeterVersion(event_filter=reading.event_filter, conversion=1))
    assert meter_forms.reading_of(typed).event_filter == {"a": value}


@pytest.mark.parametrize("typed", ["NaN", "sNaN", "-Infinity", "1e999999999", "0", "1,5"])
def test_a_conversion_that_is_no_number_is_said_to_be_so(manager: Client, typed: str) -> None:
    assert "ch-note-wait" in text_of(manager, "/usage/meters/try/", **{**NEW, "conversion": typed})
    assert "Define the meter" in text_of(manager, "/usage/meters/new/", **{**NEW, "conversion": typed})
    assert not Meter.objects.exists()


@pytest.mark.parametrize("typed", ["0", "-1", "many", "9" * 12])
def test_a_limit_that_cannot_be_is_refused(manager: Client, typed: str) -> None:
    meter = make.meter()

    manager.post(
        f"/usage/meters/{meter.pk}/change/",
        {"name": "GPU", "series_limit": typed, "is_active": "on", "reason": "as agreed"},
    )

    meter.refresh_from_db()
    assert meter.series_limit == 10_000


def test_a_very_long_number_in_a_filter_is_a_text() -> None:
    reading = meter_forms.reading_of({"event_filter": "a = " + "9" * 5_000})

    assert reading.event_filter == {"a": "9" * 5_000}


@pytest.mark.parametrize("lines", ["a", "= 1", "a =", "a = 1\na = 2"])
def test_a_filter_that_cannot_be_read_is_refused(lines: str) -> None:
    with pytest.raises(MeterInvalid):
        meter_forms.reading_of({"event_filter": lines})
