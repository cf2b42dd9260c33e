"""Every page and every form, with values that no person would type: an answer in words, and never a fault of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern, reverse

from accounts.access import Role
from accounts.models import ApprovalRequest
from billing.models import BillRun, Invoice, InvoiceLine
from metering.models import UsageBatch
from pricing.models import PriceBookVersion
from tests import make_accounts, make_pricing
from tests import make_billing as make

pytestmark = pytest.mark.django_db

APPS = ("accounts", "metering", "pricing", "billing")
NASTY = (  # each costs a visit to every page
    "a\0b",
    "x" * 5_000,
    "9" * 30,
    "-1",
    "9999-13-32T99:99",
    "' OR 1=1 --<script>%00",
)
# Every name under which a page reads something from the address or the form.
_READS = re.compile(r"(?:GET|POST)\.get(?:list)?\(\s*\"(\w+)\"")


def names_that_pages_read() -> list[str]:
    project = Path(__file__).resolve().parent.parent.parent
    sources = [path.read_text() for app in APPS for path in (project / app).rglob("*.py")]
    return sorted({name for source in sources for name in _READS.findall(source)} | {"unit_price", "amount", "model"})


def addresses(ids: dict[str, int]) -> Iterator[str]:
    for app in APPS:
        for pattern in import_module(f"{app}.urls").urlpatterns:
            if isinstance(pattern, URLPattern):
                wanted = pattern.pattern.converters
                for known in ({name: ids.get(name, 1) for name in wanted}, dict.fromkeys(wanted, 10**20)):
                    yield reverse(f"{app}:{pattern.name}", kwargs=known)


@pytest.fixture
def ids() -> dict[str, int]:
    """What the addresses can name: a submitted run with an invoice, a draft of prices, usage."""
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.submitted_run(shop)
    draft = make_pricing.draft()
    return {
        "customer_id": customer.pk,
        "run_id": BillRun.objects.get().pk,
        "invoice_id": Invoice.objects.get().pk,
        "line_id": InvoiceLine.objects.get().pk,
        "request_id": ApprovalRequest.objects.get(status="pending").pk,
        "version_id": draft.pk,
        "book_id": draft.book_id,
        "batch_id": UsageBatch.objects.latest("pk").pk,
    }


@pytest.mark.parametrize("value", NASTY, ids=[ascii(value)[:12] for value in NASTY])
def test_no_value_in_an_address_or_a_form_is_a_fault_of_ours(ids: dict[str, int], value: str) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(make_accounts.staff(*Role))
    values = dict.fromkeys(names_that_pages_read(), value)

    answers = [
        answer for address in addresses(ids) for answer in (client.get(address, values), client.post(address, values))
    ]

    faults = [
        (answer.request["REQUEST_METHOD"], answer.request["PATH_INFO"])
        for answer in answers
        if answer.status_code >= 500
    ]
    assert faults == []


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)),
        b"sku,model,unit_price\n\0,per_unit,1\n",
        b'sku,model,unit_price\n"' + b"x" * 200_000 + b'"\n',
        "sku,model,unit_price\n".encode("utf-16"),
        b"sku,model,unit_price\nNOPE,per_unit,1\n",
        b"sku,model,unit_price\nA,per_unit,-1\n",
        b"sku,model,unit_price\nA,per_unit,1e999999999\n",
        b"sku,model,unit_price\nA,per_unit,NaN\n",
        b"sku,model,unit_price,up_to\nA,graduated,1,10\nA,graduated,1,5\nA,graduated,1,\n",
        b"sku,model,unit_price\nA,per_unit,1\nA,per_unit,2\n",
        b'sku,model,unit_price\n"A,per_unit,1\n',
        b"\xff\xfe\x00sku",
    ],
    ids=lambda content: ascii(content[:40]),
)
def test_a_bad_price_file_changes_nothing_and_says_why(ids: dict[str, int], content: bytes) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(make_accounts.staff(Role.PRODUCT_MANAGER))
    before = list(PriceBookVersion.objects.get(pk=ids["version_id"]).prices.values_list("product_id", "spec"))

    checked = client.post(
        reverse("pricing:check-file", args=[ids["version_id"]]), {"file": SimpleUploadedFile("prices.csv", content)}
    )
    taken = client.post(
        reverse("pricing:take-file", args=[ids["version_id"]]),
        {"content": content.decode("utf-8-sig", errors="replace")},
        follow=True,
    )

    assert checked.status_code == 422
    # What no form can send at all is refused before the file is looked at.
    assert taken.status_code == 400 or [each.level_tag for each in taken.context["messages"]] == ["error"]
    after = list(PriceBookVersion.objects.get(pk=ids["version_id"]).prices.values_list("product_id", "spec"))
    assert after == before
