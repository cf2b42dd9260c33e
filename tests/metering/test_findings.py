"""Usage that is unlike the usual week is found, acknowledged, and found again when it grows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import escape
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.access import Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry, Customer
from metering.completeness.control_totals import Statement, state_control_totals
from metering.completeness.findings import Finding, Kind, acknowledge, findings, settled_until
from metering.errors import FindingUnknown
from metering.models import Acknowledgement, Meter, UsageDelta, UsageReceipt, UsageSeries
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import GPU_USED, NOON, SYSTEM
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
PAGE = "/usage/completeness/"
START = datetime(2026, 10, 12, tzinfo=UTC)
END = datetime(2026, 10, 15, tzinfo=UTC)
LONG_BEFORE = START - timedelta(weeks=8)


@pytest.fixture
def acme() -> Customer:
    return make_accounts.customer()


@pytest.fixture
def meter() -> Meter:
    return make.meter(code="gpu-seconds")


def hours(since: datetime, until: datetime, *, every: int = 1) -> Iterator[datetime]:
    while since < until:
        yield since
        since += every * HOUR


def came_in(
    meter: Meter,
    customer: Customer,
    amounts: dict[datetime, int],
    *,
    events: int = 20,
    source: str = "cluster/1",
) -> None:
    """Write what batches would have left of these hours: receipts of the source and deltas of the customer."""
    series, _ = UsageSeries.objects.get_or_create(
        customer_id=customer.pk, meter_id=meter.pk, dimensions_key="00000000-0000-0000-0000-000000000000"
    )
    UsageReceipt.objects.bulk_create(
        UsageReceipt(
            source=source,
            type=GPU_USED,
            meter_id=meter.pk,
            hour=hour,
            count=events,
            sum=amount,
            waiting=0,
            discarded=0,
            batch_id=0,
        )
        for hour, amount in amounts.items()
    )
    UsageDelta.objects.bulk_create(
        UsageDelta(
            customer_id=customer.pk,
            series_id=series.pk,
            hour=hour,
            sum=amount,
            count=events,
            min=0,
            max=amount,
            last=0,
            last_at=hour,
            batch_id=0,
        )
        for hour, amount in amounts.items()
    )


def usual(meter: Meter, customer: Customer, *, but: dict[datetime, int] | None = None, **more: Any) -> None:
    """Write 100 for each hour of eight weeks and of the days looked at, but for some hours; zero is nothing at all."""
    amounts = dict.fromkeys(hours(LONG_BEFORE, END), 100) | (but or {})
    came_in(meter, customer, {hour: amount for hour, amount in amounts.items() if amount}, **more)


def shapes(found: list[Finding]) -> list[tuple[str, str, datetime, datetime, Decimal, Decimal]]:
    return [
        (each.kind.value, each.source or each.customer, each.start, each.end, each.actual, each.usual) for each in found
    ]


def test_usage_like_every_week_is_no_finding(meter: Meter, acme: Customer) -> None:
    usual(meter, acme)

    assert findings(START, END) == []


def test_missing_hours_falls_and_spikes_are_found_and_neighbours_are_one(meter: Meter, acme: Customer) -> None:
    odd = {
        START + 5 * HOUR: 0,
        START + 6 * HOUR: 0,
        START + 20 * HOUR: 49,
        START + 30 * HOUR: 50,
        START + 40 * HOUR: 301,
        START + 50 * HOUR: 300,
    }
    usual(meter, acme, but=odd)

    found = findings(START, END)

    assert shapes(found) == [
        ("spike", "cluster/1", START + 40 * HOUR, START + 41 * HOUR, Decimal(301), Decimal(100)),
        ("fall", "cluster/1", START + 20 * HOUR, START + 21 * HOUR, Decimal(49), Decimal(100)),
        ("gap", "cluster/1", START + 5 * HOUR, START + 7 * HOUR, Decimal(0), Decimal(200)),
    ]
    assert [each.hours for each in found] == [1, 1, 2]


def test_the_usual_hour_is_the_median_and_one_odd_week_changes_nothing(meter: Meter, acme: Customer) -> None:
    hour = START + 5 * HOUR
    before = {
        hour - timedelta(weeks=week): amount for week, amount in enumerate((9000, 80, 90, 0, 110, 120, 130, 0), 1)
    }
    usual(meter, acme, but={**before, hour: 44})

    (found,) = findings(START, END)

    assert (found.kind, found.actual, found.usual) == (Kind.FALL, Decimal(44), Decimal(90))


def test_a_source_that_sends_an_hour_later_since_clocks_changed_has_no_gap(meter: Meter, acme: Customer) -> None:
    times = list(hours(LONG_BEFORE, START, every=24)) + [hour + HOUR for hour in hours(START, END, every=24)]
    came_in(meter, acme, dict.fromkeys(times, 100))

    assert findings(START, END) == []


def test_a_source_that_is_young_is_not_compared_yet(meter: Meter, acme: Customer) -> None:
    came_in(meter, acme, dict.fromkeys(hours(START - timedelta(weeks=4) + HOUR, START, every=1), 100))

    assert [each.kind for each in findings(START, START + 24 * HOUR)] == []


def test_what_is_new_and_went_silent_is_found(meter: Meter, acme: Customer) -> None:
    since = START - timedelta(days=5)
    came_in(meter, acme, dict.fromkeys(hours(since, START, every=6), 100))

    found = findings(START, END)

    assert [(each.kind, each.source or each.customer, each.start) for each in found] == [
        (Kind.SILENT, "cluster/1", START - 5 * HOUR),
        (Kind.SILENT, acme.name, START - 5 * HOUR),
    ]


def test_a_few_events_more_or_less_are_chance_but_none_are_a_gap(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but={START: 1, START + 5 * HOUR: 900, START + 9 * HOUR: 0}, events=1)

    found = [each for each in findings(START, END) if each.source]

    assert [each.kind for each in found] == [Kind.GAP]


@pytest.mark.parametrize(
    ("percent", "kind"), [(0, Kind.GAP), (49, Kind.FALL), (50, None), (200, None), (201, Kind.SPIKE)]
)
def test_a_customers_whole_period_is_compared(meter: Meter, acme: Customer, percent: int, kind: Kind | None) -> None:
    other = make_accounts.customer()
    usual(meter, acme, but=dict.fromkeys(hours(START, END), percent))
    usual(meter, other, but=dict.fromkeys(hours(START, END), 250 - percent))

    found = {each.customer_id: each for each in findings(START, END) if each.customer_id == acme.pk}

    if kind is None:
        assert found == {}
    else:
        finding = found[acme.pk]
        assert (finding.kind, finding.actual, finding.usual) == (kind, Decimal(72 * percent), Decimal(7200))
        assert (finding.customer, finding.start, finding.end) == (acme.name, START, END)


def test_what_was_stated_and_did_not_come_is_found_with_its_hours_as_one(meter: Meter) -> None:
    statements = [
        Statement(source="cluster/1", type=GPU_USED, hour=START + hour * HOUR, count=7) for hour in (1, 2, 60)
    ]
    state_control_totals(statements=statements, actor=SYSTEM, at=NOON)
    make.subject("project-1")
    make.ingested(make.event(time=(START + 90 * timedelta(minutes=1)).isoformat()))

    found = findings(START, END)

    assert meter.pk
    assert shapes(found) == [
        ("missing", "cluster/1", START + 60 * HOUR, START + 61 * HOUR, Decimal(0), Decimal(7)),
        ("missing", "cluster/1", START + HOUR, START + 3 * HOUR, Decimal(1), Decimal(14)),
    ]


def test_with_customers_only_theirs_and_the_sources_of_their_meters(meter: Meter, acme: Customer) -> None:
    other_meter, other = make.meter(event_type="other"), make_accounts.customer()
    usual(meter, acme, but=dict.fromkeys(hours(START, END), 0))
    usual(other_meter, other, but=dict.fromkeys(hours(START, END), 0), source="cluster/2")

    found = findings(START, END, [acme.pk])

    assert [(each.source, each.customer_id) for each in found] == [("cluster/1", None), ("", acme.pk)]
    assert findings(START, END, []) == []


def test_a_period_that_has_not_begun_has_no_findings() -> None:
    assert findings(END, START) == []


def test_an_hour_is_looked_at_once_it_has_settled() -> None:
    assert settled_until(datetime(2026, 10, 15, 12, 59, tzinfo=UTC)) == datetime(2026, 10, 15, 10, tzinfo=UTC)


def test_how_many_queries_it_takes_does_not_depend_on_how_much_there_is(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but=dict.fromkeys(hours(START, END), 0))
    with CaptureQueriesContext(connection) as for_one:
        assert len(findings(START, END)) == 2

    for number in range(10):
        usual(meter, make_accounts.customer(), but=dict.fromkeys(hours(START, END), 0), source=f"cluster/{number + 2}")
    with CaptureQueriesContext(connection) as for_many:
        assert len(findings(START, END)) == 22

    assert len(for_many) == len(for_one)


def speak(finding: Finding, *, end: datetime = END, **changes: Any) -> Acknowledgement:
    return acknowledge(
        **{
            "key": finding.key,
            "start": START,
            "end": end,
            "reason": "A planned outage",
            "actor": SYSTEM,
            "at": NOON,
            **changes,
        }
    )


def test_a_finding_is_acknowledged_once_and_stays_so_until_it_has_doubled(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but=dict.fromkeys(hours(END - 9 * HOUR, END), 0))
    early = END - 6 * HOUR
    (finding,) = findings(START, early)

    first, second = speak(finding, end=early), speak(finding, end=early)

    (twice,), (thrice,) = findings(START, early + 3 * HOUR), findings(START, END)
    assert first == second
    assert AuditEntry.objects.get(verb="finding.acknowledged").reason == "A planned outage"
    assert (twice.hours, twice.acknowledgement) == (6, first)
    assert (thrice.hours, thrice.acknowledgement) == (9, None)


def test_acknowledging_needs_a_right_a_reason_and_a_finding(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but={START: 0})
    (finding,) = findings(START, END)

    with pytest.raises(PermissionMissing):
        speak(finding, actor=make_accounts.actor(Role.SUPPORT))
    with pytest.raises(ReasonMissing):
        speak(finding, reason=" ")
    with pytest.raises(FindingUnknown):
        speak(finding, key="[]")
    assert not Acknowledgement.objects.exists()


def test_the_page_lists_findings_and_takes_a_persons_word(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but={START: 0})
    client = signed_in(Role.FINANCE_ANALYST)
    asked = {"from": "2026-10-12", "to": "2026-10-14"}
    (finding,) = findings(START, END)

    before = words(client.get(reverse("metering:findings"), asked))
    answer = client.post(
        reverse("metering:acknowledge"),
        {
            "finding": finding.key,
            "start": START.isoformat(),
            "end": END.isoformat(),
            "reason": "A planned outage",
            "next": "/usage/completeness/?source=cluster/1",
        },
    )

    after = words(client.get(reverse("metering:findings"), asked))
    assert "1 finding open, 1 in all" in before
    assert f"cluster/1 {meter.name}" in before
    assert said(answer) == "Noted; it is asked of no more."
    assert answer["Location"] == "/usage/completeness/?source=cluster/1"
    assert "0 findings open, 1 in all" in after
    assert "“A planned outage”" in after
    assert words(client.get(reverse("metering:findings"), {**asked, "source": "cluster/2"})).startswith("Usage to")
    assert "Nothing out of the ordinary" in words(
        client.get(reverse("metering:findings"), {**asked, "source": "cluster/2"})
    )


@pytest.mark.usefixtures("meter")
def test_findings_are_paged_and_their_links_keep_the_rest_of_the_address() -> None:
    client = signed_in(Role.FINANCE_ANALYST)
    asked = "from=2026-10-12&to=2026-10-14&show=all&page=2"
    address = f"{PAGE}findings/?{asked}"
    stated_and_missing("cluster/01")
    for_one = queries(client, address)

    stated_and_missing(*(f"cluster/{number:02}" for number in range(2, 53)))

    first, last = client.get(address), client.get(f"{address}&findings=2")
    assert queries(client, address) == for_one
    assert "52 findings open, 52 in all" in words(first)
    assert "1–50 of 52 Page 1 of 2" in words(first)
    assert f'href="?{escape(asked)}&amp;findings=2#findings"' in first.content.decode()
    assert "51–52 of 52" in words(last)
    assert f'value="{PAGE}?{escape(asked)}&amp;findings=2"' in last.content.decode()


def stated_and_missing(*sources: str) -> None:
    """State seven events of one hour, of which none came in, for each source."""
    statements = [Statement(source=source, type=GPU_USED, hour=START + HOUR, count=7) for source in sources]
    state_control_totals(statements=statements, actor=SYSTEM, at=NOON)


def test_who_may_only_look_is_not_asked(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but={START: 0})
    client = signed_in(Role.SUPPORT)

    page = words(client.get(reverse("metering:findings"), {"from": "2026-10-12", "to": "2026-10-14"}))

    assert "It is right" not in page
    assert client.post(reverse("metering:acknowledge")).status_code == 403
    assert signed_in(Role.FINANCE_ANALYST).post(reverse("metering:acknowledge")).status_code == 404


def test_the_database_refuses_to_rewrite_an_acknowledgement_or_to_keep_a_bad_one(meter: Meter, acme: Customer) -> None:
    usual(meter, acme, but={START: 0})
    spoken = speak(findings(START, END)[0])
    execute("SET CONSTRAINTS ALL IMMEDIATE")

    def again(**changes: Any) -> None:
        fields = {field.attname: getattr(spoken, field.attname) for field in Acknowledgement._meta.concrete_fields}
        Acknowledgement.objects.create(**{**fields, "id": None, **changes})

    with refused("never changes"):
        Acknowledgement.objects.update(reason="other")
    with refused("never changes"):
        Acknowledgement.objects.all().delete()
    with refused("never changes"):
        execute("TRUNCATE metering_acknowledgement")
    with refused("finding_is_acknowledged_once"):
        again()
    with refused("acknowledgement_kind_is_known"):
        again(kind="other")
    with refused("acknowledgement_has_a_reason"):
        again(kind="fall", reason="")
    with refused("acknowledgement_lasts_some_time"):
        again(kind="fall", period="empty")
