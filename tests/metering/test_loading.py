"""Loading usage files: every row is accounted for, and loading again changes nothing."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, load_command_class

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing
from metering.attribution import assign_subject
from metering.meters.meters import define_meter
from metering.models import QuarantinedEvent, RefusedEvent, UsageDelta, UsageEvent, UsageFileRefusal
from metering.sources.focus import event_type
from metering.sources.loading import FileFormat, LoadReport, detect_format, load_usage
from metering.sources.mapping import read_mapping
from tests.make_accounts import actor, customer
from tests.metering.test_focus import USAGE, focus_file

AT = datetime(2024, 10, 1, 8, tzinfo=UTC)
HOUSE = Actor.system("tests")


def load(content: bytes, *, by: Actor = HOUSE) -> LoadReport:
    return load_usage(
        stream=io.BytesIO(content),
        file_format=detect_format(content[:64]),
        origin="usage",
        actor=by,
        at=AT,
    )


@pytest.fixture
def aws(db: None) -> None:
    define_meter(
        code="aws",
        name="AWS",
        event_type=event_type("AWS"),
        aggregation="sum",
        value_path="PricingQuantity",
        unit="units",
        dimensions=["SkuPriceId"],
        actor=HOUSE,
        at=AT,
    )
    assign_subject(
        name=USAGE["SubAccountId"],
        customer_id=customer().pk,
        starts_at=datetime(2024, 9, 1, tzinfo=UTC),
        actor=HOUSE,
        at=AT,
    )


@pytest.mark.usefixtures("aws")
def test_each_row_ends_in_exactly_one_of_four_places() -> None:
    content = focus_file(
        USAGE,
        {**USAGE, "Id": "2", "PricingQuantity": "0.5", "ListCost": "0.0000002"},
        {**USAGE, "Id": "3", "ChargeCategory": "Credit"},
        {**USAGE, "Id": "4", "SubAccountId": "nobody"},
        {**USAGE, "Id": "5", "ListCost": "7"},
        {**USAGE, "Id": "6", "ChargePeriodStart": "yesterday"},
        USAGE,
    )

    report = load(content)

    assert (report.rows, report.accepted, report.duplicates, report.quarantined, report.refused) == (7, 2, 1, 2, 2)
    assert sum(UsageDelta.objects.values_list("sum", flat=True)) == Decimal("2.5")
    assert dict(QuarantinedEvent.objects.values_list("event_id", "reason")) == {
        "4": "unknown_subject",
        "5": "inconsistent",
    }
    assert dict(RefusedEvent.objects.values_list("position", "reason")) == {4: "not_usage", 7: "malformed"}


@pytest.mark.usefixtures("aws")
def test_loading_a_file_again_adds_nothing_and_says_so() -> None:
    content = focus_file(USAGE, {**USAGE, "Id": "3", "ChargeCategory": "Credit"}, {**USAGE, "Id": "5", "ListCost": "7"})
    load(content)

    again = load(content)

    assert again.loaded_before
    assert (again.rows, again.accepted, again.quarantined, again.refused) == (3, 1, 1, 1)
    assert UsageEvent.objects.count() == 1
    assert QuarantinedEvent.objects.get().seen_count == 1
    assert RefusedEvent.objects.count() == 1


@pytest.mark.usefixtures("aws")
def test_the_same_rows_in_another_file_are_duplicates() -> None:
    rows = [USAGE, {**USAGE, "Id": "3", "ChargeCategory": "Credit"}, {**USAGE, "Id": "5", "ListCost": "7"}]
    load(focus_file(*rows))

    again = load(focus_file(*rows) + b"\r\n")

    assert (again.accepted, again.duplicates, again.quarantined, again.refused) == (0, 1, 1, 1)
    assert UsageEvent.objects.count() == 1
    assert QuarantinedEvent.objects.get().seen_count == 2
    assert RefusedEvent.objects.count() == 1
    assert UsageFileRefusal.objects.count() == 2


@pytest.mark.usefixtures("aws")
def test_a_record_that_says_something_else_now_is_refused_as_a_conflict() -> None:
    load(focus_file(USAGE))

    report = load(focus_file({**USAGE, "PricingQuantity": "200", "ListCost": "0.00008"}))

    assert (report.accepted, report.refused, report.reasons) == (0, 1, {"conflict": 1})
    assert UsageDelta.objects.get().sum == 2
    assert RefusedEvent.objects.get().position == 2


@pytest.mark.usefixtures("aws")
def test_a_torn_last_line_is_refused_and_the_whole_file_completes_it_later() -> None:
    whole = focus_file(USAGE, {**USAGE, "Id": "2"})

    torn = load(whole[:-30])
    later = load(whole)

    assert (torn.accepted, torn.refused) == (1, 1)
    assert (later.accepted, later.duplicates) == (1, 1)


@pytest.mark.django_db
def test_without_the_permission_nothing_is_loaded() -> None:
    with pytest.raises(PermissionMissing):
        load(focus_file(USAGE), by=actor(Role.AUDITOR))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(b'{"id": "1"}', FileFormat.CLOUDEVENTS, id="a brace"),
        pytest.param(
            b'\xef\xbb\xbf\n {"id"', FileFormat.CLOUDEVENTS, id="a brace after a byte-order mark and a blank line"
        ),
        pytest.param(b'"Id","BillingAccountId"', FileFormat.FOCUS, id="a header of FOCUS"),
        pytest.param(b"device;kWh", FileFormat.CSV, id="any other header"),
        pytest.param(b"PAR1\x15\x04", FileFormat.PARQUET, id="Parquet's mark"),
        pytest.param(gzip.compress(b'{"id": "1"}'), FileFormat.CLOUDEVENTS, id="a brace within gzip"),
        pytest.param(gzip.compress(b"device;kWh\n")[:14], FileFormat.CSV, id="gzip that is cut off"),
    ],
)
def test_the_layout_is_told_from_the_first_bytes(head: bytes, expected: FileFormat) -> None:
    assert detect_format(head) == expected


@pytest.mark.usefixtures("aws")
def test_the_command_reports_as_json(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_bytes(focus_file(USAGE))
    out = io.StringIO()

    call_command("load_usage", str(file), "--json", stdout=out)

    assert json.loads(out.getvalue())["accepted"] == 1


def test_the_commands_help_shows_a_mapping_that_can_be_used_as_it_stands() -> None:
    text = load_command_class("metering", "load_usage").create_parser("manage.py", "load_usage").format_help()

    mapping = read_mapping(json.loads(text[text.index("  {") : text.index("A load that was cut off")]))

    assert mapping.time.format == "%d.%m.%Y %H:%M"


@pytest.mark.django_db
def test_the_command_names_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text("Id,Something\n1,2\n")

    with pytest.raises(CommandError, match="lacks the columns BillingAccountId"):
        call_command("load_usage", str(file))
