"""Long lists: paged as far as anybody pages, and counted no further."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import audit
from accounts.access import Actor, Role
from accounts.models import AuditEntry, Customer
from accounts.paging import PAGED_ROWS, BoundedPaginator
from tests.accounts.conftest import NOON
from tests.make_pages import signed_in, words


@pytest.mark.django_db
def test_a_log_of_more_than_ten_thousand_entries_is_counted_no_further(acme: Customer) -> None:
    subjects = [acme] * (PAGED_ROWS + 1)
    audit.record_many(actor=Actor.system("tests"), verb="customer.noted", subjects=subjects, at=NOON)
    auditor = signed_in(Role.AUDITOR)

    with CaptureQueriesContext(connection) as captured:
        page = words(auditor.get("/audit/?page=200"))

    assert "9,951–10,000 of 10,000 and more; narrow the search to see them" in page
    assert "Page 200 of 200" in page
    counting = [query["sql"] for query in captured if "COUNT(" in query["sql"] and "auditentry" in query["sql"]]
    assert all("LIMIT 10001" in sql for sql in counting)


@pytest.mark.django_db
def test_a_short_list_is_counted_as_it_is(acme: Customer) -> None:
    audit.record(actor=Actor.system("tests"), verb="customer.noted", subject=acme, at=NOON)

    pages = BoundedPaginator(AuditEntry.objects.filter(verb="customer.noted"), 50)

    assert (pages.count, pages.num_pages, pages.is_cut) == (1, 1, False)


def test_what_is_no_query_is_paged_too() -> None:
    pages = BoundedPaginator(range(PAGED_ROWS + 1), 50)

    assert (pages.count, pages.is_cut, list(pages.page(1))[:2]) == (PAGED_ROWS, True, [0, 1])
