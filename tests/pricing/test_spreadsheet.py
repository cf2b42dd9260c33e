from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing
from pricing import price_books, spreadsheet
from pricing.csv_tables import Columns, read_table, write_table
from pricing.errors import FileProblem, PriceFileInvalid, VersionNotDraft
from pricing.models import PriceBookVersion, Product
from pricing.rating import parse_price, price_spec
from tests import make_accounts
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
HEADER = "sku,product,group,unit,model,unit_price,amount,up_to,flat_amount,options\r\n"
GRADUATED = {
    "model": "graduated",
    "tiers": [
        {"up_to": "100", "unit_price": "0.1", "flat_amount": "5"},
        {"up_to": "1000", "unit_price": "0.08"},
        {"up_to": None, "unit_price": "0.05"},
    ],
    "included_quantity": "10",
}


@pytest.fixture
def manager() -> Actor:
    return make_accounts.actor(Role.PRODUCT_MANAGER)


@pytest.fixture
def draft() -> PriceBookVersion:
    return make.draft(prices={})


def _import(draft: PriceBookVersion, content: str | bytes, actor: Actor) -> spreadsheet.ImportReport:
    return spreadsheet.import_prices(version_id=draft.pk, content=content, actor=actor, at=NOON)


def _problems(draft: PriceBookVersion, content: str | bytes, actor: Actor) -> list[FileProblem]:
    with pytest.raises(PriceFileInvalid) as refusal:
        _import(draft, content, actor)
    assert not draft.prices.exists()
    return list(refusal.value.problems)


def _specs(version: PriceBookVersion) -> dict[str, Any]:
    return dict(version.prices.values_list("product__code", "spec"))


def test_a_price_file_is_written_so_that_a_person_can_edit_it() -> None:
    gpu, disk, fee = make.metered_product("GPU"), make.metered_product("DISK"), make.product(code="FEE")
    version = make.draft(
        prices={
            gpu: GRADUATED,
            disk: {"model": "per_unit", "unit_price": "0.10"},
            fee: {"model": "flat", "amount": "9"},
        }
    )

    text = spreadsheet.export_prices(version.pk)

    assert text == HEADER + (
        "DISK,Product DISK,Compute,GPU-hour,per_unit,0.1,,,,\r\n"
        "FEE,Product FEE,Compute,GPU-hour,flat,,9,,,\r\n"
        'GPU,Product GPU,Compute,GPU-hour,graduated,0.1,,100,5,"{""included_quantity"": ""10""}"\r\n'
        "GPU,Product GPU,Compute,GPU-hour,graduated,0.08,,1000,,\r\n"
        "GPU,Product GPU,Compute,GPU-hour,graduated,0.05,,,,\r\n"
    )


def test_what_was_written_is_read_back_as_the_same_prices(draft: PriceBookVersion, manager: Actor) -> None:
    gpu, fee = make.metered_product("GPU"), make.product(code="FEE", name='=2+3, "so" called')
    version = make.draft(prices={gpu: GRADUATED, fee: {"model": "flat", "amount": "9"}})
    text = spreadsheet.export_prices(version.pk)

    report = _import(draft, text, manager)
    again = _import(draft, text, manager)

    assert _specs(draft) == _specs(version)
    assert (report.added, report.changed, report.unchanged, report.not_in_file) == (2, 0, 0, 0)
    assert (again.added, again.changed, again.unchanged) == (0, 0, 2)
    assert spreadsheet.export_prices(draft.pk) == text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode(),
        lambda text: text.replace("\r\n", "\n"),
        lambda text: "\ufeff" + text.replace("\r\n", "\n").rstrip("\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text + ",,,,,,,,,\r\n\r\n",
        lambda text: text.replace("sku,", " SKU ,"),
    ],
    ids=["BOM", "bytes", "LF", "BOM, LF, no end of line", "semicolons", "tabs", "blank rows", "header as typed"],
)
def test_a_price_file_is_read_as_spreadsheet_programs_write_it(
    draft: PriceBookVersion, manager: Actor, spoil: Any
) -> None:
    make.metered_product("GPU-ä")
    text = HEADER + "GPU-ä,,,,per_unit,0.0000004,,,,\r\n"

    _import(draft, spoil(text), manager)

    assert _specs(draft) == {"GPU-ä": {"model": "per_unit", "unit_price": "0.0000004"}}


def test_a_file_may_leave_out_the_columns_that_it_does_not_need(draft: PriceBookVersion, manager: Actor) -> None:
    make.metered_product("GPU")

    report = _import(draft, "unit_price,model,sku\n0.10,per_unit,GPU\n", manager)

    assert report.added == 1


def test_prices_that_a_file_does_not_name_stay(manager: Actor) -> None:
    kept, changed = make.metered_product("KEPT"), make.metered_product("CHANGED")
    version = make.draft(prices={kept: make.TEN_CENTS, changed: make.TEN_CENTS})

    report = _import(version, "sku,model,unit_price\nCHANGED,per_unit,2\n", manager)

    assert (report.changed, report.not_in_file) == (1, 1)
    assert {code: spec["unit_price"] for code, spec in _specs(version).items()} == {"KEPT": "0.1", "CHANGED": "2"}


def test_every_mistake_is_named_by_its_line_and_column(draft: PriceBookVersion, manager: Actor) -> None:
    for sku in ("A", "B", "C", "D", "E"):
        make.metered_product(sku)
    make.product(code="FEE")
    content = HEADER + (
        "NONE,,,,per_unit,1,,,,\n"  # 2
        "A,,,,graduated,0.1,,100,,\n"  # 3
        "A,,,,graduated,-0.2,,50,,\n"  # 4
        "A,,,,graduated,0.3,,,,\n"  # 5
        "B,,,,per_unit,0.1,,,,\n"  # 6
        'C,,,,per_unit,"0,1",,,,\n'  # 7
        "B,,,,per_unit,0.2,,,,\n"  # 8
        "D,,,day,per_unit,1E-7,,,,\n"  # 9
        "FEE,,,,per_unit,1,,,,\n"  # 10
        "E,,,,volume,1,,,,\n"  # 11
        ",,,,per_unit,1,,,,\n"  # 12
        "E,,,,per_unit,1,,,,[1]\n"  # 13
        "D,per_unit\n"  # 14
    )

    problems = [(problem.line, problem.column) for problem in _problems(draft, content, manager)]

    assert problems == [
        (2, "sku"),
        (4, "unit_price"),
        (4, "up_to"),
        (7, "unit_price"),
        (8, "sku"),
        (9, "unit_price"),
        (10, "model"),
        (11, "model"),
        (12, "sku"),
        (13, "sku"),
        (14, ""),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", FileProblem(1, "model", "this column is missing")),
        ("sku,model\nA,per_unit\n", FileProblem(1, "unit_price", "this column is missing")),
        ("sku,model,unit_price,colour\n", FileProblem(1, "colour", "this column is not known")),
        ("sku,model,unit_price,\n", FileProblem(1, "column 4", "this column is not known")),
        ("sku,model,unit_price,sku\n", FileProblem(1, "sku", "this column is there twice")),
        ("sku,model,unit_price\n", FileProblem(1, "", "there are no prices in this file")),
        ("sku,model,unit_price\nA,per_unit\n", FileProblem(2, "", "this row has 2 cells and the header 3")),
        ("sku,model,unit_price\nA,per_unit,1,2\n", FileProblem(2, "", "this row has 4 cells and the header 3")),
        (
            b"sku,model,unit_price\nA,per_unit,1\n\xff",
            FileProblem(3, "", "this is not UTF-8 text; save the file as “CSV UTF-8”"),
        ),
        ("sku,model,unit_price\nA\0,per_unit,1\n", FileProblem(2, "", "this row holds a character that is not text")),
    ],
)
def test_a_file_that_is_no_price_file_is_refused(
    draft: PriceBookVersion, manager: Actor, content: str | bytes, problem: FileProblem
) -> None:
    make.metered_product("A")

    problems = _problems(draft, content, manager)

    assert problem in problems


def test_a_torn_last_line_is_refused_with_the_whole_file(draft: PriceBookVersion, manager: Actor) -> None:
    make.metered_product("A")

    problems = _problems(draft, 'sku,model,unit_price\nA,per_unit,1\nB,per_unit,"1', manager)

    assert any("can not be read from here on" in problem.reason and problem.line == 3 for problem in problems)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ('A,,,,per_unit,1,,,,"{""unit_price"": ""2""}"', (2, "options")),
        ('A,,,,per_unit,1,,,,"{""colour"": ""2""}"', (2, "options")),
        ('A,,,,per_unit,1,,,,"{""divide_by"": ""0""}"', (2, "options")),
        ('A,,,,per_unit,1,,,,"{""divide_by"": ""2"", ""divide_by"": ""3""}"', (2, "options")),
        ("A,,,,per_unit,1,,,,nonsense", (2, "options")),
        ("A,,,,per_unit,1,5,,,", (2, "amount")),
        ("A,,,,per_unit,1,,100,,", (2, "up_to")),
        ("A,,,,graduated,1,5,,,", (2, "amount")),
        ("A,,,,graduated,1,,9,,\nA,,,,per_unit,1,,,,", (3, "model")),
        ('A,,,,graduated,1,,9,,\nA,,,,,1,,,,"{""divide_by"": ""2""}"', (3, "options")),
        ("A,,,,graduated,1,,9,,\nA,,,,graduated,1,,10,,", (3, "up_to")),
        ("A,,,,per_unit,1,,,,\nA,,,,per_unit,1,,,,", (3, "sku")),
        ("A,Another name,,,per_unit,1,,,,", (2, "product")),
        ("A,,Another group,,per_unit,1,,,,", (2, "group")),
        ("A,,,day,per_unit,1,,,,", (2, "unit")),
        ("A,,,,,1,,,,", (2, "model")),
    ],
)
def test_a_row_that_contradicts_itself_or_its_product_is_refused(
    draft: PriceBookVersion, manager: Actor, rows: str, problem: tuple[int, str]
) -> None:
    make.metered_product("A")

    problems = _problems(draft, HEADER + rows + "\n", manager)

    assert problem in [(each.line, each.column) for each in problems]


def test_prices_are_imported_into_drafts_only_and_by_those_who_may(manager: Actor) -> None:
    product = make.metered_product("A")
    version = make.submitted_version(prices={product: make.TEN_CENTS})

    with pytest.raises(VersionNotDraft):
        _import(version, "sku,model,unit_price\nA,per_unit,1\n", manager)
    with pytest.raises(PermissionMissing):
        _import(version, "sku,model,unit_price\nA,per_unit,1\n", make_accounts.actor(Role.SUPPORT))


def test_a_file_of_fifty_prices_takes_as_many_queries_as_one_of_one(draft: PriceBookVersion, manager: Actor) -> None:
    meter = make.meter()
    for number in range(51):
        make.product(code=f"A{number}", meter=meter, dimension_filter={"sku": str(number)})
    rows = [f"A{number},per_unit,1\n" for number in range(51)]
    header = "sku,model,unit_price\n"

    with CaptureQueriesContext(connection) as for_one:
        _import(draft, header + rows[0], manager)
    with CaptureQueriesContext(connection) as for_fifty:
        _import(draft, header + "".join(rows[1:]), manager)

    assert len(for_one) == len(for_fifty)


_numbers = st.decimals(0, 10**9, places=6, allow_nan=False).map(lambda number: f"{number:f}")
_options = st.fixed_dictionaries(
    {},
    optional={
        "included_quantity": _numbers,
        "minimum_amount": _numbers,
        "divide_by": st.integers(1, 10**6).map(str),
        "round_quantity": st.fixed_dictionaries(
            {"mode": st.sampled_from(["up", "down", "half_up"]), "places": st.integers(0, 18)}
        ),
    },
)


@st.composite
def _specs_of_metered_prices(draw: st.DrawFn) -> Mapping[str, Any]:
    options = draw(_options)
    if draw(st.booleans()):
        return {"model": "per_unit", "unit_price": draw(_numbers), **options}
    ends = sorted(draw(st.sets(st.integers(1, 10**9), max_size=5)))
    tiers = [
        {"up_to": end and str(end), "unit_price": draw(_numbers), "flat_amount": draw(st.none() | _numbers)}
        for end in [*ends, None]
    ]
    return {"model": "graduated", "tiers": tiers, "flat_at_zero": draw(st.booleans()), **options}


@given(specs=st.lists(_specs_of_metered_prices(), min_size=1, max_size=8), line_end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_prices_come_back_from_a_file_as_they_were(specs: list[Mapping[str, Any]], line_end: str) -> None:
    canonical = [price_spec(parse_price(spec)) for spec in specs]
    listed = [Product(code=f"SKU {number}", name="a, b", group="=g", unit="'u") for number in range(len(specs))]
    rows = [
        row for product, spec in zip(listed, canonical, strict=True) for row in spreadsheet._price_rows(product, spec)
    ]
    text = write_table(spreadsheet.PRICE_COLUMNS, rows).replace("\r\n", line_end)

    read = spreadsheet.read_price_file(text.encode("utf-8-sig"))

    assert [each.spec for each in read] == canonical
    assert [each.sku for each in read] == [product.code for product in listed]
    assert {(each.row["group"], each.row["unit"]) for each in read} == {("=g", "'u")}


@given(
    cells=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=2, max_size=2)
)
def test_any_text_comes_back_from_a_table_trimmed(cells: list[str]) -> None:
    columns = Columns(("a", "b"), frozenset({"a", "b"}))
    trimmed = [cell.strip() for cell in cells]

    table = read_table(write_table(columns, [dict(zip("ab", trimmed, strict=True))]), columns)

    assert table.problems == []
    assert [[row["a"], row["b"]] for row in table.rows] == ([trimmed] if any(trimmed) else [])


def test_a_product_file_adds_products_once_and_comes_back_as_it_was(manager: Actor) -> None:
    make.meter(code="gpu-hours", dimensions=["gpu"])
    content = (
        "sku,name,group,unit,meter,filter\n"
        'H100,H100 hour,Compute,h,gpu-hours,"{""gpu"": ""h100""}"\n'
        "SUPPORT,Support,Fees,month,,\n"
    )

    first = spreadsheet.import_products(content=content, actor=manager, at=NOON)
    second = spreadsheet.import_products(content=content.encode("utf-8-sig"), actor=manager, at=NOON)

    assert (first.added, first.unchanged) == (2, 0)
    assert (second.added, second.unchanged) == (0, 2)
    assert Product.objects.get(code="H100").dimension_filter == {"gpu": "h100"}
    assert spreadsheet.export_products() == content.replace("\n", "\r\n")


def test_a_product_file_names_every_mistake(manager: Actor) -> None:
    make.meter(code="gpu-hours", dimensions=["gpu"])
    make.product(code="TAKEN")
    content = (
        "sku,name,group,unit,meter,filter\n"
        "A,A,G,h,nothing,\n"
        "B,B,G,h,gpu-hours,[]\n"
        "C,,G,h,,\n"
        "D,D,G,h,,\n"
        "D,D,G,h,,\n"
        'E,E,G,h,gpu-hours,"{""region"": ""eu""}"\n'
    )

    with pytest.raises(PriceFileInvalid) as refusal:
        spreadsheet.import_products(content=content, actor=manager, at=NOON)
    with pytest.raises(PriceFileInvalid, match="not the same"):
        spreadsheet.import_products(content="sku,name,group,unit\nTAKEN,Other,G,h\n", actor=manager, at=NOON)

    assert [(each.line, each.column) for each in refusal.value.problems] == [
        (2, "meter"),
        (3, "filter"),
        (4, ""),
        (6, "sku"),
        (7, "filter"),
    ]
    assert Product.objects.count() == 1


def test_products_are_imported_by_those_who_may() -> None:
    with pytest.raises(PermissionMissing):
        spreadsheet.import_products(content="", actor=make_accounts.actor(Role.SUPPORT), at=NOON)


def test_an_import_is_told_in_the_audit_log_with_old_and_new(manager: Actor, draft: PriceBookVersion) -> None:
    make.metered_product("A")

    _import(draft, "sku,model,unit_price\nA,per_unit,1\n", manager)
    price_books.set_prices(version_id=draft.pk, specs={}, actor=manager, at=NOON)

    assert _specs(draft) == {"A": {"model": "per_unit", "unit_price": "1"}}
