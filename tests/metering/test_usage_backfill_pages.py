"""The pages of backfills, and the ways to fill them: a request, a file from the command line, a file in the browser."""

from __future__ import annotations

import gzip
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts.access import Role
from accounts.models import ApprovalRequest, Customer
from metering import tasks
from metering.files import file_preview, file_work
from metering.models import UsageBackfill, UsageBackfillItem, UsageEvent, UsageFile
from metering.usage_backfills import decisions
from tests import make_accounts, make_files, make_usage_backfills
from tests import make_metering as make
from tests.make_pages import queries, said, signed_in, words
from tests.make_usage_backfills import WITHIN, closed, opened, previewed, replacing, staged

pytestmark = pytest.mark.django_db

Status = UsageBackfill.Status


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer(name="Aurora Labs")
    make.meter()
    make.subject("project-1", customer=found)
    return found


def sent(client: Client, body: object, *, backfill: object, secret: str, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(
        f"/api/v1/events?backfill={backfill}",
        content,
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}", **headers},
    )


def test_events_are_filled_in_over_the_api_and_each_has_its_outcome(client: Client, customer: Customer) -> None:
    backfill, secret = opened(), make_accounts.api_key().secret
    events = [
        make.event("e1", time=WITHIN),
        make.event("e2", time=WITHIN, subject="nobody"),
        make.event("e3", time="2026-11-01T00:00:00Z"),
        {"id": "e4"},
    ]

    answer = sent(client, events, backfill=backfill.pk, secret=secret)
    again = sent(
        client,
        gzip.compress(json.dumps(events).encode()),
        backfill=backfill.pk,
        secret=secret,
        **{"Content-Encoding": "gzip"},
    )

    assert answer.status_code == 200
    said = answer.json()
    assert (said["backfill"], said["staged"], said["duplicates"]) == (backfill.pk, 2, 0)
    assert [(each["index"], each["id"], each["reason"]) for each in said["problems"]] == [(1, "e2", "unknown_subject")]
    assert [(each["index"], each["reason"]) for each in said["rejected"]] == [(2, "out_of_scope"), (3, "malformed")]
    assert (again.json()["staged"], again.json()["duplicates"]) == (0, 2)
    assert not UsageEvent.objects.exists()


def test_the_door_refuses_what_names_no_open_backfill(client: Client, customer: Customer) -> None:
    other = make_accounts.customer()
    backfill, secret = opened(customer_ids=[customer.pk]), make_accounts.api_key().secret
    event = [make.event("e1", time=WITHIN)]

    for name in ("0", "", "x", "999999999999999999999", "-1"):
        assert sent(client, event, backfill=name, secret=secret).status_code == 404, name
    foreign = make_accounts.api_key("events:write", customer=other).secret
    assert sent(client, event, backfill=backfill.pk, secret=foreign).status_code == 404
    reader = make_accounts.api_key("usage:read").secret
    assert sent(client, event, backfill=backfill.pk, secret=reader).status_code == 403
    assert sent(client, b"[", backfill=backfill.pk, secret=secret).status_code == 400
    decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong", actor=make.SYSTEM, at=make.NOON)
    answer = sent(client, event, backfill=backfill.pk, secret=secret)

    assert (answer.status_code, answer.json()["code"]) == (409, "usage_backfill_not_open")


def test_a_key_of_a_source_or_customer_fills_in_its_own_alone(client: Client, customer: Customer) -> None:
    make.subject("project-2")
    backfill = opened()
    secret = make_accounts.api_key("events:write", customer=customer, source="cluster/1").secret
    events = [
        make.event("a", time=WITHIN),
        make.event("b", time=WITHIN, source="cluster/2"),
        make.event("c", time=WITHIN, subject="project-2"),
    ]

    said = sent(client, events, backfill=backfill.pk, secret=secret).json()

    assert said["staged"] == 1
    assert [each["reason"] for each in said["rejected"]] == ["foreign_source", "foreign_subject"]


def test_a_file_is_filled_in_from_the_command_line_once(customer: Customer, tmp_path: Path) -> None:
    backfill = opened()
    path = tmp_path / "week.jsonl"
    lines = [make.event(f"e{number}", time=WITHIN) for number in range(3)] + [
        make.event("late", time="2026-11-01T00:00:00Z")
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))

    reports = []
    for _ in range(2):
        out = StringIO()
        call_command("load_usage", str(path), "--json", backfill=backfill.pk, stdout=out)
        reports.append(json.loads(out.getvalue()))
    done = closed(backfill)
    out = StringIO()
    call_command("load_usage", str(path), "--json", stdout=out)
    reports.append(json.loads(out.getvalue()))

    assert (reports[0]["accepted"], reports[0]["refused"], reports[0]["reasons"]) == (3, 1, {"out_of_scope": 1})
    assert reports[1]["loaded_before"]
    assert (reports[2]["accepted"], reports[2]["duplicates"]) == (1, 3)
    assert UsageFile.objects.filter(backfill=backfill).count() == UsageFile.objects.filter(backfill=None).count() == 1
    assert (done.staged, done.counted) == (3, 3)


def test_a_file_for_no_open_backfill_is_refused_and_one_that_ends_midway_fails(
    customer: Customer, tmp_path: Path
) -> None:
    path = tmp_path / "week.jsonl"
    path.write_text(json.dumps(make.event("e1", time=WITHIN)))
    with pytest.raises(CommandError, match="no such backfill"):
        call_command("load_usage", str(path), backfill=0)
    backfill = opened()
    file = make_files.sent(path.read_bytes(), name="week.jsonl")
    make_usage_backfills.into(backfill, file)
    decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong", actor=make.SYSTEM, at=make.NOON)

    file_work.load_waiting()

    file.refresh_from_db()
    assert (file.state, file.rows_done) == ("failed", 0)
    assert "not open" in file.error


def test_a_file_in_the_browser_is_filled_into_the_backfill_that_is_chosen(customer: Customer) -> None:
    anna, backfill = signed_in(Role.FINANCE_ANALYST), opened()
    content = "\n".join(
        json.dumps(make.event(name, time=time)) for name, time in (("e1", WITHIN), ("e2", "2026-11-01T00:00:00Z"))
    )
    file = make_files.sent(content.encode(), name="week.jsonl", actor=make.SYSTEM)
    address = f"/usage/files/{file.pk}/"
    assert "count at once" in words(anna.get(address))

    chosen = anna.post(f"{address}backfill/", {"backfill": backfill.pk}, follow=True)
    assert "1 filled in, 1 refused" in words(chosen)
    assert "Not of the backfill" in words(chosen)
    anna.post(f"{address}start/")
    file_work.load_waiting()

    shown = words(anna.get(address))
    assert f"backfill {backfill.pk}" in shown
    assert f"count once backfill {backfill.pk} is closed" in shown
    assert "counted once, for ever" not in shown
    assert "Not of the backfill" in shown
    file.refresh_from_db()
    assert (file.state, file.accepted, file.refused) == ("done", 1, 1)
    assert UsageBackfillItem.objects.get().event_id == "e1"


def test_the_first_rows_say_what_would_become_of_them(customer: Customer) -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    lines = [
        make.event("e1", time=WITHIN),
        make.event("e2", time=WITHIN),
        make.event("e3", time=WITHIN, subject="nobody"),
    ]
    file = make_files.sent("\n".join(map(json.dumps, lines)).encode(), name="week.jsonl")
    make_usage_backfills.into(backfill, file)
    file.refresh_from_db()

    found = file_preview.preview(file=file, actor=make.SYSTEM, at=make.NOON)

    assert [row.outcome for row in found.rows] == ["duplicate", "accepted", "quarantined"]
    assert UsageBackfillItem.objects.count() == 1
    decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong", actor=make.SYSTEM, at=make.NOON)
    assert "not open" in file_preview.preview(file=file, actor=make.SYSTEM, at=make.NOON).fault


def test_a_backfill_is_opened_filled_previewed_closed_and_reverted_on_its_pages(customer: Customer) -> None:
    anna = signed_in(Role.FINANCE_ANALYST)
    make.ingested(make.event("base", time=WITHIN, seconds="1000"))

    form = {
        "source": "cluster/1",
        "start": "2026-10-05T00:00",
        "end": "2026-10-12T00:00",
        "customers": customer.code,
        "types": f"{make.GPU_USED}\n",
        "mode": "add",
        "reason": "the exporter was down",
    }
    shown = words(anna.post("/usage/backfills/new/", form, follow=True))
    backfill = UsageBackfill.objects.get()
    assert "manage.py load_usage --backfill" in shown
    assert f"/api/v1/events?backfill={backfill.pk}" in shown
    assert "Aurora Labs" in shown
    staged(backfill, make.event("e1", time=WITHIN, seconds="5"), make.event("x", time=WITHIN, source="cluster/2"))
    address = f"/usage/backfills/{backfill.pk}/"

    shown = words(anna.post(f"{address}preview/", follow=True))
    assert "What would change, and for whom" in shown
    assert "1,000 1,005 +5" in shown
    assert "Refused on the way in" in shown
    assert "is not the backfill's" in anna.get(f"{address}?format=csv").content.decode()
    assert "It is being closed." in words(anna.post(f"{address}close/", follow=True))
    assert "hx-get" in anna.get(address, headers={"HX-Request": "true"}).content.decode()
    tasks.work_on_usage_backfills()
    assert anna.get(address, headers={"HX-Request": "true"})["HX-Refresh"] == "true"
    shown = words(anna.get(address))
    assert "New, counted 1 Closed" in shown
    anna.post(f"{address}preview/")
    assert "1,005 1,000 −5" in words(anna.get(address))
    assert "reason" in words(anna.post(f"{address}revert/", follow=True)).lower()
    anna.post(f"{address}revert/", {"reason": "wrong file"})
    tasks.work_on_usage_backfills()

    shown = words(anna.get(address))
    assert "It was reverted" in shown
    assert "wrong file" in shown
    assert "1: cluster/1" in words(anna.get("/usage/backfills/?status=reverted&source=CLUSTER")).replace(
        f"{backfill.pk}: ", "1: "
    )
    assert "None of these" in words(anna.get("/usage/backfills/?status=open"))


def test_the_form_offers_the_sources_that_sent_anything(customer: Customer) -> None:
    make.ingested(make.event("e1", source="cluster/2"))

    shown = signed_in(Role.FINANCE_ANALYST).get("/usage/backfills/new/").content.decode()

    assert 'list="b-sources"' in shown
    assert '<option value="cluster/2">' in shown


def test_what_is_typed_wrong_is_said_and_kept(customer: Customer) -> None:
    anna = signed_in(Role.FINANCE_ANALYST)
    form = {"source": "cluster/1", "start": "soon", "end": "2026-10-12T00:00", "reason": "the exporter", "mode": "add"}

    assert "is not a moment" in words(anna.post("/usage/backfills/new/", form))
    form["start"] = "2026-10-05T00:00"
    assert "No customer has the number nobody" in words(
        anna.post("/usage/backfills/new/", {**form, "customers": "nobody"})
    )
    answer = anna.post("/usage/backfills/new/", {**form, "end": "2026-10-05T00:00"})
    assert "end after it starts" in words(answer)
    assert 'value="cluster/1"' in answer.content.decode()
    assert not UsageBackfill.objects.exists()


def test_abandoning_takes_a_reason(customer: Customer) -> None:
    anna, backfill = signed_in(Role.FINANCE_ANALYST), opened()
    staged(backfill, make.event("e1", time=WITHIN))

    anna.post(f"/usage/backfills/{backfill.pk}/abandon/")
    backfill.refresh_from_db()
    assert backfill.status == Status.OPEN
    answer = anna.post(f"/usage/backfills/{backfill.pk}/abandon/", {"reason": "another source"})

    assert "Abandoned" in said(answer)
    assert "was abandoned" in words(anna.get(f"/usage/backfills/{backfill.pk}/"))


def test_a_large_one_is_previewed_by_a_worker(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "EVENTS_PREVIEWED_AT_ONCE", 2)
    anna, backfill = signed_in(Role.FINANCE_ANALYST), replacing()
    make.ingested(*[make.event(f"e{number}", time=WITHIN) for number in range(3)])
    staged(backfill, make.event("new", time=WITHIN))
    address = f"/usage/backfills/{backfill.pk}/"

    for _ in range(2):
        anna.post(f"{address}preview/")
    assert "The preview is being worked out" in words(anna.get(address))
    assert "being worked out" in words(anna.get(address, headers={"HX-Request": "true"}))
    tasks.preview_usage_backfills()

    assert "What would change, and for whom" in words(anna.get(address))
    backfill.refresh_from_db()
    assert (backfill.preview_asked_at, backfill.preview is not None) == (None, True)


def test_why_a_worker_could_not_preview_is_shown(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "EVENTS_PREVIEWED_AT_ONCE", 0)
    monkeypatch.setattr("metering.usage_backfills.plan.MOST_EVENTS", 0)
    anna, backfill = signed_in(Role.FINANCE_ANALYST), replacing()
    make.ingested(make.event("e1", time=WITHIN))
    anna.post(f"/usage/backfills/{backfill.pk}/preview/")

    tasks.preview_usage_backfills()

    assert "at most 2,000,000 events" in words(anna.get(f"/usage/backfills/{backfill.pk}/"))


def test_a_second_person_finds_it_in_the_inbox(customer: Customer) -> None:
    backfill = opened()
    staged(backfill, *[make.event(f"e{number}", time=WITHIN) for number in range(11)])
    anna, carl = signed_in(Role.FINANCE_ANALYST), signed_in(Role.FINANCE_CONTROLLER)
    anna.post(f"/usage/backfills/{backfill.pk}/preview/")
    assert "Submitted for approval" in words(anna.post(f"/usage/backfills/{backfill.pk}/close/", follow=True))

    assert "Close the backfill of cluster/1" in words(carl.get("/approvals/"))
    request = ApprovalRequest.objects.get()
    assert "events that will count otherwise" in words(carl.get(f"/approvals/{request.pk}/")).lower()
    assert "It waits for a second person" in words(anna.get(f"/usage/backfills/{backfill.pk}/"))


def test_who_only_sees_usage_sees_and_does_nothing(customer: Customer) -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    support = signed_in(Role.SUPPORT)
    address = f"/usage/backfills/{backfill.pk}/"

    assert "Backfills" in words(support.get("/usage/backfills/"))
    assert "Abandon" not in words(support.get(address))
    assert support.get("/usage/backfills/new/").status_code == 403
    for step in ("preview", "close", "abandon", "revert"):
        assert support.post(f"{address}{step}/", {"reason": "x"}).status_code == 403
    assert support.get("/usage/backfills/0/").status_code == 404


def test_the_pages_take_as_many_queries_for_50_as_for_1(customer: Customer) -> None:
    anna, backfill = signed_in(Role.FINANCE_ANALYST), opened()
    staged(backfill, make.event("e1", time=WITHIN, subject="nobody"), make.event("x", source="cluster/2"))
    previewed(backfill)
    addresses = ["/usage/backfills/", f"/usage/backfills/{backfill.pk}/"]
    before = [queries(anna, address) for address in addresses]

    staged(
        backfill,
        *[make.event(f"n{number}", time=WITHIN, subject="nobody") for number in range(49)],
        *[make.event(f"y{number}", source="cluster/2") for number in range(49)],
    )
    previewed(backfill)
    for number in range(49):
        opened(source=f"cluster/{number + 3}")

    assert [queries(anna, address) for address in addresses] == before
