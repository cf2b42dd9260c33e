"""What a price file would do to a draft: the real import, looked at and rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from accounts.access import Actor
from pricing.models import PriceBookVersion, Product
from pricing.overviews import ChangeRow, Changes, change_row
from pricing.price_lists import price_change, specs_of
from pricing.spreadsheet import ImportReport, import_prices


@dataclass(frozen=True, slots=True)
class FilePreview:
    """The report that the import would give, and each price that it would add or change, in words."""

    report: ImportReport
    changes: Changes


def preview_import(*, version_id: int, content: str | bytes, actor: Actor, at: datetime) -> FilePreview:
    """Import a price file into a draft, compare, and take it back; nothing is changed.

    Raises: PermissionMissing, VersionNotDraft, PriceFileInvalid.
    """
    version = PriceBookVersion.objects.select_related("book").get(pk=version_id)
    with transaction.atomic():
        before = specs_of(version_id)
        report = import_prices(version_id=version_id, content=content, actor=actor, at=at)
        after = specs_of(version_id)
        transaction.set_rollback(True)
    differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    products = Product.objects.filter(pk__in=differing).order_by("group", "name", "code")
    rows: list[ChangeRow] = [
        change_row(price_change(product, before.get(product.pk), after.get(product.pk)), version.book.currency)
        for product in products
    ]
    changes = Changes(before=version, rows=tuple(rows), added=report.added, changed=report.changed, removed=0)
    return FilePreview(report, changes)
