"""The pages of usage files: sending one, saying how it is read, watching it load, and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts.access import Permission
from accounts.errors import CountinghouseError
from accounts.pages import (
    Crumb,
    StaffRequest,
    actor_of,
    attempt,
    csv_answer,
    fragment,
    page,
    page_of,
    staff_page,
    whole_number,
)
from metering.files import file_overview, mapping_form, usage_files
from metering.files.file_overview import CSV_HEADER
from metering.files.mapping_form import Column
from metering.files.mappings import define_mapping
from metering.models import UsageFile
from metering.models.files import LARGEST_PART
from metering.sources.layouts import FileFormat
from metering.sources.mapping import ENCODINGS

State = UsageFile.State


@require_GET
@staff_page(Permission.VIEW_USAGE)
def file_list(request: StaffRequest) -> HttpResponseBase:
    """Show every file that was sent, and take another one."""
    return page(
        request,
        "metering/files.html",
        title="Load usage",
        rows=page_of(request, file_overview.files()),
        limit_bytes=settings.USAGE_FILE_LIMIT_BYTES,
        part_bytes=LARGEST_PART,
    )


def _answered(verb: Callable[[], dict[str, object]]) -> JsonResponse:
    """Answer the page's script; what is refused is said in a sentence for people."""
    try:
        return JsonResponse(verb())
    except CountinghouseError as refusal:
        return JsonResponse({"error": str(refusal)}, status=422)


@require_POST
@staff_page(Permission.LOAD_USAGE)
def receive_file(request: StaffRequest) -> HttpResponseBase:
    """Open the record of a file that the page is about to send."""

    def receive() -> dict[str, object]:
        file = usage_files.receive_file(
            name=request.POST.get("name", ""),
            size=whole_number(request.POST.get("size")) or 0,
            actor=actor_of(request),
            at=timezone.now(),
        )
        return {
            "parts": reverse("metering:file-part", args=[file.pk, 0]),
            "arrived": reverse("metering:file-arrived", args=[file.pk]),
        }

    return _answered(receive)


@require_POST
@staff_page(Permission.LOAD_USAGE)
def receive_part(request: StaffRequest, file_id: int, number: int) -> HttpResponseBase:
    """Keep one part of a file."""
    content = request.read(LARGEST_PART + 1)

    def receive() -> dict[str, object]:
        usage_files.receive_part(file_id=file_id, number=number, content=content, actor=actor_of(request))
        return {}

    return _answered(receive)


@require_POST
@staff_page(Permission.LOAD_USAGE)
def file_arrived(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Close a file that has been sent to its end, and say where its page is."""

    def finish() -> dict[str, object]:
        file = usage_files.finish_receiving(file_id=file_id, actor=actor_of(request), at=timezone.now())
        return {"page": reverse("metering:file", args=[file.pk])}

    return _answered(finish)


@require_GET
@staff_page(Permission.VIEW_USAGE)
def file_page(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Show one file: how it is read and what would become of it, how far it is, or what became of every row."""
    file = get_object_or_404(UsageFile.objects.select_related("mapping", "sent_by"), pk=file_id)
    if file.state == State.WAITING and actor_of(request).may(Permission.LOAD_USAGE):
        return _waiting_page(request, file)
    if request.GET.get("format") == "csv":
        return csv_answer(f"refused-{file.pk}.csv", CSV_HEADER, file_overview.refused_cells(file))
    return page(
        request,
        "metering/file.html",
        title=file.name,
        crumbs=[Crumb("Load usage", reverse("metering:files"))],
        file=file,
        work=file_overview.work_of(file),
        rows=page_of(request, file_overview.refusals_of(file, reason=request.GET.get("reason", ""))),
        reasons=file_overview.reasons_of(file),
        reason=request.GET.get("reason", ""),
        lines=file_overview.mapping_lines(file),
        span=file_overview.batches_of(file),
        lies_here=file.parts.exists(),
        listed=file_overview.listed_of(file),
    )


def _waiting_page(
    request: StaffRequest, file: UsageFile, *, columns: Sequence[Column] = (), typed: Mapping[str, str] | None = None
) -> HttpResponseBase:
    """Show how a file would be read; `columns` and `typed` are what was filled in and refused."""
    return page(
        request,
        "metering/file_waiting.html",
        title=file.name,
        crumbs=[Crumb("Load usage", reverse("metering:files"))],
        file=file,
        layout=file_overview.layout_of(file, columns=columns, header=_header(request)),
        typed=typed or {},
        outlook=file_overview.outlook_of(file, actor=actor_of(request), at=timezone.now()),
        roles=mapping_form.ROLES,
        delimiters=mapping_form.DELIMITER_NAMES,
        encodings=ENCODINGS,
    )


def _header(request: StaffRequest) -> bool | None:
    """Return what was said of the first line of a CSV: that it names the columns, that it does not, or nothing."""
    said = request.POST.get("header") or request.GET.get("header")
    return {"first": True, "none": False}.get(said or "")


@require_GET
@staff_page(Permission.VIEW_USAGE)
def file_progress(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Show how far a load is; once it is over, have the whole page loaded anew."""
    file = get_object_or_404(UsageFile, pk=file_id)
    work = file_overview.work_of(file)
    answer: HttpResponse = fragment(request, "metering/file_progress.html", file=file, work=work)
    if not work.is_going_on:
        answer["HX-Refresh"] = "true"
    return answer


@require_POST
@staff_page(Permission.LOAD_USAGE)
def choose_layout(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Say how a file is to be read."""
    layout = request.POST.get("layout", "")
    if layout not in UsageFile.Format.values:
        messages.error(request, "Choose how the file is to be read.")
    else:
        attempt(
            request,
            lambda: usage_files.choose_layout(
                file_id=file_id,
                file_format=FileFormat(layout),
                mapping_id=whole_number(request.POST.get("mapping")),
                actor=actor_of(request),
            ),
            "This is how the first rows would be taken.",
        )
    return redirect("metering:file", file_id)


@require_POST
@staff_page(Permission.LOAD_USAGE)
def choose_backfill(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Say whether a file's rows count at once, or into which backfill they are filled."""
    attempt(
        request,
        lambda: usage_files.choose_backfill(
            file_id=file_id, backfill_id=whole_number(request.POST.get("backfill")), actor=actor_of(request)
        ),
        "This is how the first rows would be taken.",
    )
    return redirect("metering:file", file_id)


@require_POST
@staff_page(Permission.LOAD_USAGE)
def keep_mapping(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Keep what was said of each column as a mapping, and read the file by it."""
    file = get_object_or_404(UsageFile, pk=file_id)
    columns, typed = _columns(request), {name: str(value) for name, value in request.POST.items()}

    def keep() -> UsageFile:
        record = define_mapping(
            name=typed.get("mapping_name", "").strip(),
            mapping=mapping_form.mapping_of(typed, columns),
            actor=actor_of(request),
            at=timezone.now(),
        )
        return usage_files.choose_layout(
            file_id=file.pk, file_format=FileFormat(file.format), mapping_id=record.pk, actor=actor_of(request)
        )

    kept = attempt(request, keep, "The mapping is kept. This is how the first rows would be taken.")
    if kept is None and file.state == State.WAITING:
        return _waiting_page(request, file, columns=columns, typed=typed)
    return redirect("metering:file", file_id)


def _columns(request: StaffRequest) -> list[Column]:
    in_id = set(request.POST.getlist("in_id"))
    said = zip(request.POST.getlist("column"), request.POST.getlist("role"), request.POST.getlist("key"), strict=False)
    return [Column(*each, is_in_id=str(place) in in_id) for place, each in enumerate(said)]


@require_POST
@staff_page(Permission.LOAD_USAGE)
def start_loading(request: StaffRequest, file_id: int) -> HttpResponseBase:
    """Have a file loaded, or go to the one that was loaded already."""
    file = attempt(
        request,
        lambda: usage_files.start_loading(file_id=file_id, actor=actor_of(request), at=timezone.now()),
        lambda started: (
            "The file is being loaded."
            if started.pk == file_id
            else "This very file was sent before; this is what became of it."
        ),
    )
    return redirect("metering:file", file.pk if file else file_id)


def _act(verb: Callable[..., object], done: str) -> Callable[..., HttpResponseBase]:
    """Make the page that does one thing to a file and comes back to it."""

    @require_POST
    @staff_page(Permission.LOAD_USAGE)
    def act(request: StaffRequest, file_id: int) -> HttpResponseBase:
        attempt(request, lambda: verb(file_id=file_id, actor=actor_of(request), at=timezone.now()), lambda _file: done)
        return redirect("metering:file", file_id)

    return act


stop_loading = _act(usage_files.stop_loading, "The load stops; what was loaded stays.")
resume_loading = _act(usage_files.resume_loading, "The load goes on where it was.")
discard_file = _act(usage_files.discard_file, "The file is discarded; what was loaded of it stays.")
