"""The doors for price files: download, check what an upload would change, and take it."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts.access import Permission
from accounts.errors import CountinghouseError
from accounts.pages import Crumb, StaffRequest, actor_of, attempt, page, staff_page
from pricing import file_preview, spreadsheet
from pricing.errors import PriceFileInvalid
from pricing.models import PriceBookVersion

LARGEST_FILE_BYTES = 2_000_000


@require_GET
@staff_page(Permission.VIEW_PRICES)
def download(request: StaffRequest, version_id: int) -> HttpResponseBase:  # noqa: ARG001 -- the decorator's signature
    """Answer with the prices of a version as a price file."""
    version = get_object_or_404(PriceBookVersion.objects.select_related("book"), pk=version_id)
    answer = HttpResponse(spreadsheet.export_prices(version.pk), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{version.book.code}-v{version.number}.csv"'
    return answer


@require_POST
@staff_page(Permission.EDIT_PRICES)
def check(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Show what an uploaded file would change, or everything that is wrong with it."""
    version = get_object_or_404(PriceBookVersion.objects.select_related("book"), pk=version_id)
    upload = request.FILES.get("file")
    if upload is None or not upload.size or upload.size > LARGEST_FILE_BYTES:
        messages.error(request, f"Choose a CSV file of at most {LARGEST_FILE_BYTES // 1_000_000} MB.")
        return redirect("pricing:version", version_id)
    content = upload.read()
    problems: list[str] = []
    preview = None
    try:
        preview = file_preview.preview_import(
            version_id=version_id,
            content=content,
            actor=actor_of(request),
            at=timezone.now(),
        )
    except PriceFileInvalid as refusal:
        problems = [str(problem) for problem in refusal.problems]
    except CountinghouseError as refusal:
        problems = [str(refusal)]
    return page(
        request,
        "pricing/file_check.html",
        title="Check of the file",
        crumbs=[
            Crumb("Price books", reverse("pricing:books")),
            Crumb(version.book.name, reverse("pricing:book", args=[version.book_id])),
            Crumb(f"Version {version.number}", reverse("pricing:version", args=[version.pk])),
        ],
        version=version,
        file_name=upload.name,
        problems=problems,
        preview=preview,
        changes=preview.changes if preview else None,
        content=content.decode("utf-8-sig", errors="replace"),
        http_status=422 if problems else 200,
    )


@require_POST
@staff_page(Permission.EDIT_PRICES)
def take(request: StaffRequest, version_id: int) -> HttpResponseBase:
    """Set the prices of a draft from a file that was checked."""
    attempt(
        request,
        lambda: spreadsheet.import_prices(
            version_id=version_id,
            content=request.POST.get("content", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        lambda report: f"{report.added:,} prices added, {report.changed:,} changed, {report.unchanged:,} as they were.",
    )
    return redirect("pricing:version", version_id)
