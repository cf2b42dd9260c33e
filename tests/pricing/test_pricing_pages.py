"""The price book pages: books, versions, prices in words, files, submitting and deciding."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from accounts.access import Actor, Role
from pricing import price_books
from pricing.models import Price, PriceBook, PriceBookVersion
from tests import make_accounts
from tests import make_pricing as make
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db

TEN_CENTS: Mapping[str, object] = {"model": "per_unit", "unit_price": "0.10"}
ELEVEN_CENTS: Mapping[str, object] = {"model": "per_unit", "unit_price": "0.11"}
HEADER = "sku,product,group,unit,model,unit_price,amount,up_to,flat_amount,options"


@pytest.fixture
def manager() -> Client:
    return signed_in(Role.PRODUCT_MANAGER)


def _upload(client: Client, version: PriceBookVersion, content: str) -> str:
    file = SimpleUploadedFile("prices.csv", content.encode(), content_type="text/csv")
    return words(client.post(reverse("pricing:check-file", args=[version.pk]), {"file": file}))


def test_the_list_shows_what_is_live_and_what_is_in_the_works(manager: Client) -> None:
    book = make.price_book(name="Winter prices")
    make.approved_version(book=book)
    make.draft(book=book, prices={})

    page = words(manager.get("/prices/"))

    assert "Winter prices" in page
    assert "Version 1" in page
    assert "Version 2 Draft" in page


def test_prices_are_for_whom_they_are_for() -> None:
    nobody = make_accounts.staff()
    client = Client()
    client.force_login(nobody)

    assert client.get("/prices/").status_code == 403


def test_opening_a_book_leads_to_it(manager: Client) -> None:
    answer = manager.post("/prices/open/", {"code": "spring", "name": "Spring prices", "currency": "eur"})

    book = PriceBook.objects.get(code="spring")
    assert book.currency == "EUR"
    assert answer["Location"] == reverse("pricing:book", args=[book.pk])


def test_opening_a_book_in_no_currency_is_refused_in_words(manager: Client) -> None:
    answer = manager.post("/prices/open/", {"code": "spring", "name": "Spring prices", "currency": "XXQ"})

    assert not PriceBook.objects.exists()
    assert "not a currency" in said(answer)


def test_the_book_page_tells_who_approved_each_version(manager: Client) -> None:
    version = make.approved_version()
    assert version.approval is not None
    approver = version.approval.decisions.get().decided_by

    page = words(manager.get(reverse("pricing:book", args=[version.book_id])))

    assert "Version 1" in page
    assert "Live" in page
    assert str(approver) in page


def test_a_version_says_its_prices_in_words_and_what_they_change(manager: Client) -> None:
    book = make.price_book()
    product = make.metered_product()
    make.approved_version(book=book, prices={product: TEN_CENTS})
    version = make.draft(book=book, prices={product: ELEVEN_CENTS})

    prices = words(manager.get(reverse("pricing:version", args=[version.pk])))
    changes = words(manager.get(reverse("pricing:version", args=[version.pk]), {"tab": "changes"}))

    assert "EUR 0.11 per" in prices
    assert "+10.0%" in prices
    assert "EUR 0.10 per" in changes
    assert "Changed" in changes


def test_a_search_that_finds_nothing_says_so(manager: Client) -> None:
    version = make.approved_version()

    page = words(manager.get(reverse("pricing:version", args=[version.pk]), {"q": "no such product"}))

    assert "No price fits" in page


def test_setting_a_graduated_price_through_the_form(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={})

    manager.post(
        reverse("pricing:set-price", args=[version.pk]),
        {
            "product": product.pk,
            "model": "graduated",
            "up_to": ["100", ""],
            "tier_price": ["0.10", "0.08"],
            "flat_amount": ["5", ""],
            "included_quantity": "10",
            "unit_price": "ignored",
        },
    )

    spec = Price.objects.get(version=version, product=product).spec
    assert spec["tiers"][0] == {"up_to": "100", "unit_price": "0.1", "flat_amount": "5"}
    assert spec["tiers"][1]["up_to"] is None
    assert spec["included_quantity"] == "10"


def test_a_bad_price_is_refused_in_words_and_changes_nothing(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: TEN_CENTS})

    answer = manager.post(
        reverse("pricing:set-price", args=[version.pk]),
        {"product": product.pk, "model": "per_unit", "unit_price": "-1"},
    )

    assert said(answer)
    assert Price.objects.get(version=version, product=product).spec["unit_price"] == "0.1"


def test_the_form_keeps_options_that_it_does_not_show(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: {**TEN_CENTS, "divide_by": "1000"}})

    manager.post(
        reverse("pricing:set-price", args=[version.pk]),
        {"product": product.pk, "model": "per_unit", "unit_price": "0.2"},
    )

    assert Price.objects.get(version=version, product=product).spec["divide_by"] == "1000"


def test_the_price_form_shows_the_price_as_it_is(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: TEN_CENTS})

    form = manager.get(reverse("pricing:price-form", args=[version.pk]), {"product": product.pk})
    choice = manager.get(reverse("pricing:price-form", args=[version.pk]))

    assert 'value="0.1"' in form.content.decode()
    assert product.name not in words(choice)


def test_removing_a_price(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: TEN_CENTS})

    manager.post(reverse("pricing:remove-price", args=[version.pk]), {"product": product.pk})

    assert not Price.objects.filter(version=version).exists()


def test_a_file_is_looked_at_before_it_is_taken(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: TEN_CENTS})
    content = f"{HEADER}\n{product.code},,,,per_unit,0.15,,,,\n"

    page = _upload(manager, version, content)
    untouched = Price.objects.get(version=version, product=product).spec["unit_price"]
    manager.post(reverse("pricing:take-file", args=[version.pk]), {"content": content})

    assert "Take 1 change" in page
    assert "EUR 0.15 per" in page
    assert untouched == "0.1"
    assert Price.objects.get(version=version, product=product).spec["unit_price"] == "0.15"


def test_everything_that_is_wrong_with_a_file_is_listed(manager: Client) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: TEN_CENTS})

    page = _upload(manager, version, f"{HEADER}\nunknown,,,,per_unit,0.15,,,,\n{product.code},,,,per_unit,-1,,,,\n")

    assert "2 problems" in page
    assert "line 2, sku" in page
    assert "line 3, unit_price" in page


def test_no_file_is_no_file(manager: Client) -> None:
    version = make.draft(prices={})

    answer = manager.post(reverse("pricing:check-file", args=[version.pk]))

    assert "Choose a CSV file" in said(answer)


def test_prices_are_downloaded_as_the_file_that_uploads_to_the_same(manager: Client) -> None:
    product = make.metered_product()
    version = make.approved_version(prices={product: TEN_CENTS})

    response = manager.get(reverse("pricing:download", args=[version.pk]))

    assert f"{product.code}," in response.content.decode()
    assert response["Content-Disposition"].endswith('-v1.csv"')


def test_submitting_asks_for_a_day(manager: Client) -> None:
    version = make.draft()

    answer = manager.post(reverse("pricing:submit", args=[version.pk]), {"reason": "New season"})

    version.refresh_from_db()
    assert version.status == PriceBookVersion.Status.DRAFT
    assert "from which day" in said(answer)


def test_submitting_and_approving_take_two_people() -> None:
    manager_actor = make_accounts.actor(Role.PRODUCT_MANAGER)
    version = make.draft()
    manager = signed_in(actor=manager_actor)

    manager.post(reverse("pricing:submit", args=[version.pk]), {"effective_on": "2026-12-01", "reason": "New season"})
    own_view = words(manager.get(reverse("pricing:version", args=[version.pk])))
    request = make.approval_of(version)
    approver = signed_in(Role.PRICING_APPROVER)
    approver_view = words(approver.get(reverse("pricing:version", args=[version.pk])))
    approver.post(reverse("accounts:decide", args=[request.pk]), {"outcome": "approve"})

    version.refresh_from_db()
    assert version.status in {PriceBookVersion.Status.APPROVED, PriceBookVersion.Status.LIVE}
    assert version.effective_from == datetime(2026, 12, 1, tzinfo=UTC)
    assert "somebody else decides it" in own_view
    assert "Withdraw the request" in own_view
    assert "Approve Reject" in approver_view


def test_a_draft_is_discarded_with_a_reason(manager: Client) -> None:
    version = make.draft()

    answer = manager.post(reverse("pricing:discard", args=[version.pk]), {"reason": "Not this year"})

    assert not PriceBookVersion.objects.filter(pk=version.pk).exists()
    assert answer["Location"] == reverse("pricing:book", args=[version.book_id])


def test_who_only_approves_sees_no_button_to_edit() -> None:
    version = make.draft()

    page = words(signed_in(Role.PRICING_APPROVER).get(reverse("pricing:version", args=[version.pk])))

    assert "Submit for approval" not in page
    assert "Upload CSV" not in page


def test_who_only_approves_cannot_edit() -> None:
    version = make.draft(prices={})
    product = make.metered_product()

    response = signed_in(Role.PRICING_APPROVER).post(
        reverse("pricing:set-price", args=[version.pk]),
        {"product": product.pk, "model": "per_unit", "unit_price": "1"},
    )

    assert response.status_code == 403
    assert not Price.objects.exists()


def test_pages_take_as_many_queries_for_fifty_rows_as_for_one(manager: Client) -> None:
    book = make.price_book()
    version = make.draft(book=book, prices={make.metered_product(): TEN_CENTS})
    make.contract(customer=make_accounts.customer(currency=book.currency), book=book)
    addresses = ["/prices/", reverse("pricing:book", args=[book.pk]), reverse("pricing:version", args=[version.pk])]
    for address in addresses:
        queries(manager, address)

    for_one = [queries(manager, address) for address in addresses]
    actor = Actor.system("tests")
    for _ in range(49):
        price_books.set_price(
            version_id=version.pk,
            product_id=make.metered_product().pk,
            spec=TEN_CENTS,
            actor=actor,
            at=datetime(2026, 10, 1, tzinfo=UTC),
        )
        make.contract(customer=make_accounts.customer(currency=book.currency), book=book)
        make.price_book()

    assert [queries(manager, address) for address in addresses] == for_one
