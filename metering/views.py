"""The usage pages: events in quarantine, and what became of each batch of events."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts.access import Permission
from accounts.pages import Crumb, StaffRequest, actor_of, attempt, back_to, page, page_of, staff_page, whole_number
from metering.models import QuarantinedEvent, UsageBatch, UsageFile
from metering.quarantine import quarantine, quarantine_overview
from metering.quarantine.quarantine_overview import GroupKey
from metering.sources import kafka_lag

Status = QuarantinedEvent.Status
Door = UsageBatch.Door


@require_GET
@staff_page(Permission.VIEW_USAGE)
def quarantine_page(request: StaffRequest) -> HttpResponseBase:
    """Show what cannot be counted yet, grouped by cause."""
    status = request.GET.get("status", "")
    status = status if status in Status.values else Status.OPEN.value
    reason, search = request.GET.get("reason", ""), request.GET.get("q", "").strip()
    file_id, batch_id = whole_number(request.GET.get("file")), whole_number(request.GET.get("batch"))
    found = quarantine_overview.groups(status=status, reason=reason, search=search, file_id=file_id, batch_id=batch_id)
    rows = page_of(request, found)
    return page(
        request,
        "metering/quarantine.html",
        title="Quarantine",
        status=status,
        reason=reason,
        search=search,
        file=UsageFile.objects.filter(pk=file_id).first() if file_id else None,
        batch_id=batch_id,
        reasons=QuarantinedEvent.Reason.choices,
        rows=rows,
        groups=[quarantine_overview.group_of(row) for row in rows],
        counts=quarantine_overview.counts_by_status(),
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def quarantine_group(request: StaffRequest) -> HttpResponseBase:
    """Show the events of one group."""
    key = GroupKey.of_text(request.GET.get("group", ""))
    if key is None or key.reason not in QuarantinedEvent.Reason.values:
        raise Http404
    status = request.GET.get("status", "")
    status = status if status in Status.values else Status.OPEN.value
    return page(
        request,
        "metering/quarantine_group.html",
        title=QuarantinedEvent.Reason(key.reason).label,
        crumbs=[Crumb("Quarantine", reverse("metering:quarantine"))],
        key=key,
        status=status,
        remedy=quarantine_overview.REMEDIES[key.reason],
        earliest=quarantine_overview.earliest_of(key, status=status),
        rows=page_of(request, quarantine_overview.events_of(key, status=status)),
    )


@require_POST
@staff_page(Permission.RELEASE_QUARANTINE)
def release(request: StaffRequest) -> HttpResponseBase:
    """Try again to count the chosen events."""
    event_ids = _chosen(request)
    if event_ids:
        attempt(
            request,
            lambda: quarantine.release(event_ids=event_ids, actor=actor_of(request), at=timezone.now()),
            _release_words,
        )
    return redirect(back_to(request, reverse("metering:quarantine")))


def _release_words(result: quarantine.ReleaseResult) -> str:
    if not result.still_quarantined:
        return f"{result.released:,} counted."
    if not result.released:
        return f"None could be counted: all {result.still_quarantined:,} wait on, with what stands in their way now."
    return f"{result.released:,} counted; {result.still_quarantined:,} still cannot be and wait on."


@require_POST
@staff_page(Permission.RELEASE_QUARANTINE)
def discard(request: StaffRequest) -> HttpResponseBase:
    """Give the chosen events up, for a reason."""
    event_ids = _chosen(request)
    if event_ids:
        attempt(
            request,
            lambda: quarantine.discard(
                event_ids=event_ids,
                reason=request.POST.get("reason", "").strip(),
                actor=actor_of(request),
                at=timezone.now(),
            ),
            f"{len(event_ids):,} discarded; they are kept with the reason.",
        )
    return redirect(back_to(request, reverse("metering:quarantine")))


def _chosen(request: StaffRequest) -> list[int]:
    keys = [key for text in request.POST.getlist("group") if (key := GroupKey.of_text(text))]
    ids = [number for text in request.POST.getlist("event") if (number := whole_number(text)) is not None]
    chosen = [*ids, *(quarantine_overview.open_ids(keys) if keys else [])]
    if not chosen:
        messages.warning(request, "Nothing was chosen.")
    return chosen


@require_GET
@staff_page(Permission.VIEW_USAGE)
def batch_list(request: StaffRequest) -> HttpResponseBase:
    """Show each batch of events that came in, and what became of it."""
    door, origin = request.GET.get("door", ""), request.GET.get("origin", "").strip()
    file_id = whole_number(request.GET.get("file"))
    found = quarantine_overview.batches(door=door, origin=origin, file_id=file_id)
    return page(
        request,
        "metering/batches.html",
        title="Batches",
        door=door,
        origin=origin,
        file=UsageFile.objects.filter(pk=file_id).first() if file_id else None,
        doors=UsageBatch.Door.choices,
        rows=page_of(request, found),
        totals=quarantine_overview.totals_of(found),
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def batch_page(request: StaffRequest, batch_id: int) -> HttpResponseBase:
    """Show one batch with everything that it refused, and why."""
    batch = get_object_or_404(UsageBatch, pk=batch_id)
    events = quarantine_overview.some_events(batch)
    customers = quarantine_overview.names_of_customers(events)
    return page(
        request,
        "metering/batch.html",
        title=f"Batch {batch.pk}",
        crumbs=[Crumb("Batches", reverse("metering:batches"))],
        batch=batch,
        rows=page_of(request, quarantine_overview.refusals_of(batch.pk)),
        refusal_counts=quarantine_overview.refusal_counts(batch.pk),
        file=quarantine_overview.file_of(batch.pk),
        behind=_behind(batch),
        events=[(event, customers.get(event.customer_id)) for event in events],
    )


def _behind(batch: UsageBatch) -> str:
    """Return the page of the correction or back-fill that a batch carried out; nothing of any other."""
    pages = {Door.CORRECTION: "metering:correction", Door.BACKFILL: "metering:backfill"}
    number = whole_number(batch.origin.rpartition(" ")[2])
    name = pages.get(Door(batch.door))
    return reverse(name, args=[number]) if name and number else ""


@require_GET
@staff_page(Permission.VIEW_USAGE)
def kafka_page(request: StaffRequest) -> HttpResponseBase:
    """Show how far each partition in Kafka was read, and how far behind that is."""
    group, topic = request.GET.get("group", "").strip(), request.GET.get("topic", "").strip()
    rows = page_of(request, kafka_lag.partitions(consumer_group=group, topic=topic))
    return page(
        request,
        "metering/kafka.html",
        title="Usage from Kafka",
        group=group,
        topic=topic,
        rows=rows,
        readings=kafka_lag.readings(rows, at=timezone.now()),
    )
