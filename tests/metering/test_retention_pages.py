"""The pages of retention as people see them, and the command."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from pytest_django import Settings

from accounts.access import Role
from metering import rollups
from metering.models import ArchivedMonth, LegalHold, Meter, UsageErasure
from metering.retention import legal_holds, partitions, retention
from metering.retention.retention_jobs import work
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import SYSTEM
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db

PAGE = "/usage/retention/"
AUGUST = date(2024, 8, 1)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25


@pytest.fixture
def _august() -> None:
    make.meter()
    make.subject("project-1", customer=make_accounts.customer(code="anna"))
    make.ingested(
        make.event("a1", time="2024-08-01T00:00:00Z"),
        make.event("a2", time="2024-08-02T00:00:00Z"),
        at=datetime(2024, 9, 2, tzinfo=UTC),
    )
    rollups.fold()


def test_without_any_usage_the_page_says_what_will_be_there() -> None:
    page = words(signed_in(Role.SUPPORT).get(PAGE))

    assert "No legal holds" in page
    assert "Nothing was erased" in page
    assert "Set a legal hold" not in page


def test_tables_that_are_missing_are_named_here_and_on_the_health_page() -> None:
    now = datetime.now(tz=UTC)
    missing = partitions.missing_months(at=now)
    finance = signed_in(Role.FINANCE_ANALYST)

    before = words(finance.get(PAGE)), words(finance.get("/health/"))
    partitions.make_ahead(at=now)
    after = words(finance.get(PAGE)), words(finance.get("/health/"))

    assert missing
    assert all(f"{missing[-1]:%B %Y}" in page and "No table yet" in page for page in before)
    assert not any("No table yet" in page for page in after)


@pytest.mark.usefixtures("_august")
def test_a_month_is_archived_detached_dropped_and_brought_back_by_hand() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)
    offered = words(administrator.get(PAGE))

    def step(name: str) -> str:
        answer = said(administrator.post(f"{PAGE}months/2024-08/{name}/"))
        administrator.get(PAGE)
        work(at=LATER)
        return answer

    answers = [step(name) for name in ("archive", "detach", "drop", "check", "bring-back")]

    assert "Archive August 2024: 2 events" in offered
    assert answers == [
        "August 2024 is planned: its files are written and verified within minutes.",
        "The events of August 2024 are detached; totals stay as they are.",
        "The files of August 2024 are compared with its events once more; then these are dropped.",
        "The files of August 2024 are whole.",
        "The events of August 2024 are coming back; from files that takes minutes.",
    ]
    assert ArchivedMonth.objects.get().status == ArchivedMonth.Status.RESTORED


@pytest.mark.usefixtures("_august")
def test_each_state_offers_its_next_step_and_says_of_how_many_events() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)
    asked: dict[str, Any] = {"month": AUGUST, "actor": SYSTEM, "at": LATER}
    retention.plan_archive(**asked)
    planned = words(administrator.get(PAGE))
    work(at=LATER)
    verified = words(administrator.get(PAGE))
    retention.detach_month(**asked)
    detached = words(administrator.get(PAGE))
    retention.drop_month(**asked)
    dropped = words(administrator.get(PAGE))

    assert "within minutes" in planned
    assert "Detach August 2024: 2 events?" in verified
    assert "Drop the table of August 2024: 2 events?" in detached
    assert "Bring back August 2024: 2 events?" in dropped
    assert "In the archive only" in dropped


@pytest.mark.usefixtures("_august")
def test_whoever_asks_for_events_of_an_archived_month_is_told_where_they_are() -> None:
    make.ingested(make.event("september", time="2024-09-01T00:00:00Z"), at=datetime(2024, 9, 2, tzinfo=UTC))
    asked: dict[str, Any] = {"month": AUGUST, "actor": SYSTEM, "at": LATER}
    retention.plan_archive(**asked)
    work(at=LATER)
    client = signed_in(Role.SUPPORT)
    bearer = {"Authorization": f"Bearer {make_accounts.api_key('usage:read').secret}"}
    both = {"customer": "anna", "start": "2024-08-01", "end": "2024-10-01", "time_zone": "UTC"}

    def told(**words: str) -> tuple[list[str], list[dict[str, str]]]:
        body = client.get("/api/v1/events", {**both, **words}, headers=bearer).json()
        return [each["id"] for each in body["events"]], body["archived"]

    before = told()
    retention.detach_month(**asked)
    after = told()
    only_september = told(start="2024-09-01")
    page = words(client.get("/usage/explorer/events/", {**both, "end": "2024-09-01"}))
    usage = client.get("/api/v1/usage", {**both, "meter": Meter.objects.get().code}, headers=bearer).json()

    assert before == (["a1", "a2", "september"], [])
    assert after[0] == ["september"]
    assert after[1] == [
        {
            "month": "2024-08",
            "start": "2024-08-01T00:00:00Z",
            "end": "2024-09-01T00:00:00Z",
            "archived_at": "2026-11-20T09:00:00Z",
        }
    ]
    assert only_september == (["september"], [])
    assert "The events are in the archive" in page
    assert "bring them back" in page
    assert [row["quantity"] for row in usage["rows"]] == ["3"]


def test_a_step_that_is_refused_is_said() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)

    unknown = said(administrator.post(f"{PAGE}months/2024-08/detach/"))
    no_month = said(administrator.post(f"{PAGE}months/2024-13/detach/"))
    no_step = administrator.post(f"{PAGE}months/2024-08/burn/")

    assert "never on its way" in unknown
    assert "is no month" in no_month
    assert no_step.status_code == 404


@pytest.mark.parametrize("role", [Role.SUPPORT, Role.FINANCE_CONTROLLER, Role.AUDITOR])
def test_only_administrators_manage_retention(role: Role) -> None:
    client = signed_in(role)

    assert client.post(f"{PAGE}months/2024-08/archive/").status_code == 403
    assert client.post(f"{PAGE}holds/").status_code == 403
    assert client.post(f"{PAGE}erasures/").status_code == 403
    assert client.get(f"{PAGE}erasures/new/").status_code == 403


@pytest.mark.usefixtures("_august")
def test_a_hold_is_set_shown_and_lifted() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)

    set_words = said(administrator.post(f"{PAGE}holds/", {"customer": "anna", "reason": "Case 7"}))
    shown = words(administrator.get(PAGE))
    hold = LegalHold.objects.get()
    lifted = said(administrator.post(f"{PAGE}holds/{hold.pk}/lift/", {"reason": "Closed"}))

    assert "The hold is set" in set_words
    assert "On hold: Case 7" in shown
    assert "all months" in shown
    assert "lifted" in lifted
    assert "On hold" not in words(administrator.get(PAGE))


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        ({"reason": "Case 7"}, "Name a customer"),
        ({"customer": "nobody", "reason": "Case 7"}, "no customer with the code"),
        ({"first_month": "tomorrow", "reason": "Case 7"}, "is no month"),
        ({"first_month": "2024-08", "last_month": "2024-07", "reason": "Case 7"}, "before the first"),
        ({"first_month": "2024-08", "reason": " "}, "needs a reason"),
    ],
)
def test_a_hold_that_says_too_little_is_refused(form: dict[str, str], answer: str) -> None:
    response = signed_in(Role.ADMINISTRATOR).post(f"{PAGE}holds/", form)

    assert answer in said(response)
    assert not LegalHold.objects.exists()


@pytest.mark.usefixtures("_august")
def test_an_erasure_is_counted_asked_for_approved_and_shown() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)
    controller = signed_in(Role.FINANCE_CONTROLLER)
    form = {"customer": "anna", "before": "2024-08-02", "reason": "She asked", "legal_basis": "GDPR Art. 17"}

    counted = words(administrator.get(f"{PAGE}erasures/new/", {"customer": "anna", "before": "2024-08-02"}))
    asked = said(administrator.post(f"{PAGE}erasures/", form))
    request = words(controller.get(reverse("accounts:inbox")))
    shown = words(administrator.get(PAGE))

    assert "Erase 1 event of" in counted
    assert "second person" in asked
    assert "Erase the raw events of" in request
    assert "In review" in shown
    assert UsageErasure.objects.get().before == datetime(2024, 8, 2, tzinfo=UTC)


def test_an_erasure_of_nobody_is_refused() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)

    asked = administrator.post(f"{PAGE}erasures/", {"customer": "x", "reason": "r", "legal_basis": "b"})
    page = words(administrator.get(f"{PAGE}erasures/new/", {"customer": "x"}))

    assert "no customer with the code" in said(asked)
    assert "no customer with the code" in page


@pytest.mark.usefixtures("_august")
def test_the_page_takes_as_many_queries_for_many_months_as_for_one() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)
    legal_holds.set_hold(first_month=AUGUST, reason="Case 7", actor=SYSTEM, at=LATER)
    one = queries(administrator, PAGE)

    for year in range(2031, 2033):
        for month in range(1, 13):
            partitions.make_ahead(at=datetime(year, month, 1, tzinfo=UTC))
    for number in range(10):
        legal_holds.set_hold(first_month=AUGUST, reason=f"Case {number}", actor=SYSTEM, at=LATER)

    assert queries(administrator, PAGE) == one


def ran(*arguments: str) -> dict[str, object]:
    out = StringIO()
    call_command("archive_usage", "--month", "2024-08", "--json", *arguments, stdout=out)
    found: dict[str, object] = json.loads(out.getvalue())
    return found


@pytest.mark.usefixtures("_august")
def test_the_command_takes_every_step(tmp_path: Path) -> None:
    archived = ran("--to", str(tmp_path / "elsewhere"))
    states = [ran(f"--{step}")["status"] for step in ("detach", "drop", "check", "bring-back")]

    assert (archived["status"], archived["events"]) == ("verified", 2)
    assert archived["files"] == [str(tmp_path / "elsewhere" / "usage-2024-08.r1.parquet")]
    assert states == ["detached", "dropped", "dropped", "restored"]


@pytest.mark.usefixtures("_august")
def test_the_command_says_what_it_cannot_do(settings: Settings) -> None:
    settings.USAGE_ACCEPTANCE_MONTHS = 1200

    with pytest.raises(CommandError, match="only older months"):
        ran()
    with pytest.raises(CommandError, match="no month"):
        call_command("archive_usage", "--month", "August")


@pytest.mark.usefixtures("_august")
def test_a_drop_that_a_hold_keeps_up_says_so_and_offers_the_way_back() -> None:
    administrator = signed_in(Role.ADMINISTRATOR)
    asked: dict[str, Any] = {"month": AUGUST, "actor": SYSTEM, "at": LATER}
    retention.plan_archive(**asked)
    work(at=LATER)
    retention.detach_month(**asked)
    administrator.post(f"{PAGE}months/2024-08/drop/")
    at_work = administrator.get(PAGE).content.decode()
    legal_holds.set_hold(first_month=AUGUST, reason="Case 7", actor=SYSTEM, at=LATER)

    work(at=LATER)

    kept_up = administrator.get(PAGE).content.decode()
    assert 'data-opens="back-2024-08"' not in at_work
    assert 'data-opens="back-2024-08"' in kept_up
    assert "Case 7" in kept_up
    assert ArchivedMonth.objects.get().status == ArchivedMonth.Status.DETACHED
