"""Price files and product files: CSV that a product manager edits in a spreadsheet program (see docs/price-files.md).

A file is taken as a whole or not at all; a refusal lists everything that is wrong with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final, NamedTuple

from django.db import transaction

from accounts.access import Actor, Permission
from metering.meters.meters import dimensions_of
from metering.models import Meter
from pricing import price_books, products
from pricing.csv_tables import Columns, Row, read_table, write_table
from pricing.errors import FileProblem, PriceFileInvalid, ProductInvalid
from pricing.models import Price, Product
from pricing.products import ProductTerms
from pricing.rating import PriceInvalid, parse_price, price_spec
from pricing.rating.price import unique_fields

PRICE_COLUMNS: Final = Columns(
    ("sku", "product", "group", "unit", "model", "unit_price", "amount", "up_to", "flat_amount", "options"),
    frozenset({"sku", "model", "unit_price"}),
)
PRODUCT_COLUMNS: Final = Columns(
    ("sku", "name", "group", "unit", "meter", "filter"), frozenset({"sku", "name", "group", "unit"})
)
# Models whose price takes several rows, one for each tier.
_TIERED: Final = frozenset({"graduated"})
_TIER_CELLS: Final = ("up_to", "unit_price", "flat_amount")
_OTHER_CELLS: Final = ("unit_price", "amount", "up_to", "flat_amount")
_TIER_PATH: Final = re.compile(r"tiers\[([0-9]+)\](?:\.(.+))?")


class FilePrice(NamedTuple):
    """One product's price in a file: the canonical price JSON, and the row on which it begins."""

    sku: str
    row: Row
    spec: dict[str, object]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What a price file did to a draft, in prices; `not_in_file` counts those that it does not name."""

    added: int
    changed: int
    unchanged: int
    not_in_file: int


@dataclass(frozen=True, slots=True)
class ProductImportReport:
    """How many products of a file are new, and how many were there already."""

    added: int
    unchanged: int


def read_price_file(content: str | bytes) -> list[FilePrice]:
    """Read a price file without a look at the database.

    Raises: PriceFileInvalid.
    """
    prices, problems = _read_prices(content)
    if problems:
        raise PriceFileInvalid(sorted(problems))
    return prices


@transaction.atomic
def import_prices(*, version_id: int, content: str | bytes, actor: Actor, at: datetime) -> ImportReport:
    """Set the prices of a draft from a price file, all or none; prices that the file does not name stay as they are.

    Raises: PermissionMissing, VersionNotDraft, PriceFileInvalid.
    """
    actor.require(Permission.EDIT_PRICES)
    prices, problems = _read_prices(content)
    known = {product.code: product for product in Product.objects.filter(code__in=[each.sku for each in prices])}
    for each in prices:
        problems += _product_problems(each, known.get(each.sku))
    if problems:
        raise PriceFileInvalid(sorted(problems))

    specs = {known[each.sku].pk: each.spec for each in prices}
    result = price_books.set_prices(version_id=version_id, specs=specs, actor=actor, at=at)
    others = Price.objects.filter(version_id=version_id).exclude(product_id__in=specs)
    return ImportReport(result.added, result.changed, result.unchanged, others.count())


def _product_problems(price: FilePrice, product: Product | None) -> Iterator[FileProblem]:
    """The product has to exist, and what the row says of it has to be true: else columns were sorted apart."""
    if product is None:
        yield FileProblem(price.row.line, "sku", f"there is no product {price.sku!r}")
        return
    for column, name in (("product", product.name), ("group", product.group), ("unit", product.unit)):
        if price.row[column] not in ("", name.strip()):
            yield FileProblem(price.row.line, column, f"{price.sku!r} has {name!r} here, not {price.row[column]!r}")
    if product.meter_id is None and "amount" not in price.spec:
        yield FileProblem(price.row.line, "model", price_books.NEEDS_A_METER)


def _read_prices(content: str | bytes) -> tuple[list[FilePrice], list[FileProblem]]:
    table = read_table(content, PRICE_COLUMNS)
    prices: list[FilePrice] = []
    problems = table.problems
    first_line: dict[str, int] = {}
    if not table.rows and not problems:
        problems.append(FileProblem(1, "", "there are no prices in this file"))
    for sku, group in groupby(table.rows, lambda row: row["sku"]):
        rows = list(group)
        if sku and sku not in first_line:
            first_line[sku] = rows[0].line
            problems += _read_price(sku, rows, prices)
        else:
            reason = f"{sku!r} has a price in line {first_line[sku]} already" if sku else "is missing"
            problems += [FileProblem(row.line, "sku", reason) for row in rows]
    return prices, problems


def _read_price(sku: str, rows: Sequence[Row], prices: list[FilePrice]) -> list[FileProblem]:
    """Read the rows of one product; what is wrong with them is returned, what is right is added to the prices."""
    first = rows[0]
    is_tiered = first["model"] in _TIERED
    problems = list(_repeated(sku, rows) if is_tiered else _duplicates(sku, rows))
    spec: dict[str, Any] = {"model": first["model"] or None}
    if is_tiered:
        spec["tiers"] = [{name: row[name] or None for name in _TIER_CELLS} for row in rows]
        problems += [FileProblem(row.line, "amount", "has no meaning for a tier") for row in rows if row["amount"]]
    else:
        spec |= {name: first[name] for name in _OTHER_CELLS if first[name]}
    problems += _read_options(first, spec)
    try:
        prices.append(FilePrice(sku, first, price_spec(parse_price(spec))))
    except PriceInvalid as error:
        problems += [_placed(problem.path, problem.reason, rows) for problem in error.problems]
    return problems


def _repeated(sku: str, rows: Sequence[Row]) -> Iterator[FileProblem]:
    for row in rows[1:]:
        if row["model"] not in ("", rows[0]["model"]):
            yield FileProblem(row.line, "model", f"{sku!r} is {rows[0]['model']} in line {rows[0].line}")
        if row["options"]:
            yield FileProblem(row.line, "options", "options stand on the first row of a price")


def _duplicates(sku: str, rows: Sequence[Row]) -> Iterator[FileProblem]:
    for row in rows[1:]:
        yield FileProblem(row.line, "sku", f"{sku!r} has a price in line {rows[0].line} already")


def _read_options(row: Row, spec: dict[str, Any]) -> list[FileProblem]:
    """Add what stands in the column `options`, a JSON object, to the spec."""
    if not row["options"]:
        return []
    try:
        options = json.loads(row["options"], object_pairs_hook=unique_fields)
    except (ValueError, RecursionError, PriceInvalid) as error:
        return [FileProblem(row.line, "options", f"is not a JSON object: {error}"[:200])]
    if not isinstance(options, Mapping):
        return [FileProblem(row.line, "options", "is not a JSON object")]
    given_twice = sorted(options.keys() & spec.keys())
    spec |= {name: value for name, value in options.items() if name not in spec}
    return [FileProblem(row.line, "options", f"{name!r} has a column of its own") for name in given_twice]


def _placed(path: str, reason: str, rows: Sequence[Row]) -> FileProblem:
    """Say a problem of a price by the line and column that it stands in."""
    tier = _TIER_PATH.fullmatch(path)
    if tier is not None:
        return FileProblem(rows[int(tier[1])].line, tier[2] or "", reason)
    if path in PRICE_COLUMNS.every or not path:
        return FileProblem(rows[0].line, path, reason)
    return FileProblem(rows[0].line, "options", f"{path} {reason}")


def export_prices(version_id: int) -> str:
    """Write the prices of a version as a price file that imports to the same prices, in the order of the catalogue."""
    prices = Price.objects.filter(version_id=version_id).select_related("product")
    ordered = prices.order_by("product__group", "product__name", "product__code")
    return write_table(PRICE_COLUMNS, (row for price in ordered for row in _price_rows(price.product, price.spec)))


def _price_rows(product: Product, spec: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    about = {
        "sku": product.code,
        "product": product.name,
        "group": product.group,
        "unit": product.unit,
        "model": spec["model"],
    }
    rest = {name: value for name, value in spec.items() if name != "model"}
    options = {name: value for name, value in rest.items() if name not in ("unit_price", "amount", "tiers")}
    first = {
        **about,
        "unit_price": rest.get("unit_price", ""),
        "amount": rest.get("amount", ""),
        "options": json.dumps(options, sort_keys=True) if options else "",
    }
    tiers = rest.get("tiers") or [{}]
    for number, tier in enumerate(tiers):
        cells = {name: value for name, value in tier.items() if value is not None}
        yield {**(about if number else first), **cells}


def read_product_file(content: str | bytes) -> list[tuple[Row, ProductTerms]]:
    """Read a product file; meters are named by their code.

    Raises: PriceFileInvalid.
    """
    table = read_table(content, PRODUCT_COLUMNS)
    problems = table.problems
    meters = {meter.code: meter for meter in Meter.objects.all()}
    dimensions = dimensions_of([meter.pk for meter in meters.values()])
    found: dict[str, tuple[Row, ProductTerms]] = {}
    if not table.rows and not problems:
        problems.append(FileProblem(1, "", "there are no products in this file"))
    for row in table.rows:
        if row["sku"] in found:
            line = found[row["sku"]][0].line
            problems.append(FileProblem(row.line, "sku", f"{row['sku']!r} stands in line {line} already"))
            continue
        try:
            found[row["sku"]] = (row, _product_terms(row, meters, dimensions))
        except _CellInvalid as error:
            problems.append(FileProblem(row.line, error.column, error.reason))
        except ProductInvalid as error:
            problems.append(FileProblem(row.line, "", str(error)))
    if problems:
        raise PriceFileInvalid(sorted(problems))
    return list(found.values())


class _CellInvalid(Exception):
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def _product_terms(row: Row, meters: Mapping[str, Meter], dimensions: Mapping[int, Collection[str]]) -> ProductTerms:
    meter = meters.get(row["meter"])
    if row["meter"] and meter is None:
        raise _CellInvalid("meter", f"there is no meter {row['meter']!r}")
    try:
        dimension_filter = json.loads(row["filter"] or "{}")
    except (ValueError, RecursionError) as error:
        raise _CellInvalid("filter", f"is not a JSON object: {error}"[:200]) from None
    if not isinstance(dimension_filter, dict):
        raise _CellInvalid("filter", "is not a JSON object")
    unknown = sorted(dimension_filter.keys() - set(dimensions[meter.pk] if meter else ()))
    if unknown:
        raise _CellInvalid("filter", f"the meter {row['meter']!r} has no dimension {unknown[0]!r}")
    terms = ProductTerms(
        code=row["sku"],
        name=row["name"],
        group=row["group"],
        unit=row["unit"],
        meter_id=meter.pk if meter else None,
        dimension_filter=dimension_filter,
    )
    terms.as_product()
    return terms


@transaction.atomic
def import_products(*, content: str | bytes, actor: Actor, at: datetime) -> ProductImportReport:
    """Add the products of a file, all or none; one that is there already has to be the same in everything.

    Raises: PermissionMissing, PriceFileInvalid.
    """
    actor.require(Permission.EDIT_PRICES)
    wanted = read_product_file(content)
    known = {product.code: product for product in Product.objects.filter(code__in=[terms.code for _, terms in wanted])}
    problems = [
        FileProblem(row.line, "", f"there is a product {terms.code!r} already, and it is not the same")
        for row, terms in wanted
        if terms.code in known and not terms.describes(known[terms.code])
    ]
    if problems:
        raise PriceFileInvalid(problems)
    new = [terms for _, terms in wanted if terms.code not in known]
    products.add_products(products=new, actor=actor, at=at)
    return ProductImportReport(added=len(new), unchanged=len(wanted) - len(new))


def export_products(listed: Iterable[Product] | None = None) -> str:
    """Write products, all by default, as a product file that imports to the same products."""
    found = Product.objects.select_related("meter").order_by("group", "name", "code") if listed is None else listed
    return write_table(
        PRODUCT_COLUMNS,
        (
            {
                "sku": product.code,
                "name": product.name,
                "group": product.group,
                "unit": product.unit,
                "meter": product.meter.code if product.meter else "",
                "filter": json.dumps(product.dimension_filter, sort_keys=True) if product.dimension_filter else "",
            }
            for product in found
        ),
    )
