"""Sends issued invoices by e-mail.

SMTP is outside of any transaction: an attempt is written and committed first, with a lease, then the mail is sent, then
the result is written. A worker that dies in between leaves the lease to run out, and the next one sends the mail with
the same Message-ID, by which the receiving side can tell that it is the same.
"""

from __future__ import annotations

import logging
import smtplib
from datetime import datetime, timedelta
from email.utils import formataddr
from typing import Any, Final

from babel.dates import format_date, format_interval
from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.db.models import Q
from django.template.loader import render_to_string

from accounts import audit
from accounts.access import Actor, Permission
from accounts.models import Contact
from accounts.periods import local_date
from billing import nudges
from billing.customer_texts import customer_texts
from billing.documents import delay_after
from billing.errors import InvoiceHasNoRecipient, InvoiceNotIssued, InvoiceUnknown
from billing.models import Invoice, InvoiceDelivery, InvoiceDocument
from billing.smtp import Refusals, refused_recipients
from pricing.money import format_amount

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=10)
MOST_ATTEMPTS: Final = 8
_PERMANENT: Final = 500

State = InvoiceDelivery.State


def deliver_due(*, limit: int, at: datetime) -> int:
    """Send up to `limit` mails that are due and return how many were taken up; none: nothing is due.

    A mail is due once its document is made. One that cannot be sent is tried again later, at most eight times; then
    it has failed, says why, and waits for somebody to send the invoice again. One that the mail server took for some of
    its recipients is sent, and says whom it did not reach.
    """
    claimed = _claim(limit, at)
    connection = mail.get_connection()
    try:
        for delivery in claimed:
            _attempt(delivery, connection, at)
    finally:
        connection.close()
    return len(claimed)


@transaction.atomic
def resend_invoice(*, invoice_id: int, actor: Actor, at: datetime) -> InvoiceDelivery:
    """Send an issued invoice (again) to those who receive the customer's invoices now.

    Where one is waiting already, and is not being sent this moment, that one is sent as soon as possible instead.

    Raises: PermissionMissing, InvoiceUnknown, InvoiceNotIssued, InvoiceHasNoRecipient.
    """
    actor.require(Permission.SEND_INVOICES)
    invoice = Invoice.objects.select_for_update(no_key=True).filter(pk=invoice_id).first()
    if invoice is None:
        raise InvoiceUnknown
    if invoice.status != Invoice.Status.ISSUED:
        raise InvoiceNotIssued
    recipients = list(
        Contact.objects.filter(customer_id=invoice.customer_id, receives_invoices=True)
        .order_by("name", "pk")
        .values_list("email", flat=True)
    )
    if not recipients:
        raise InvoiceHasNoRecipient
    # One that a worker holds may be on its way to those whom it names; what is asked for now is another.
    waiting = invoice.deliveries.select_for_update(no_key=True).filter(_unclaimed(at), state=State.WAITING).first()
    if waiting is None:
        delivery = InvoiceDelivery.objects.create(
            invoice=invoice, recipients=recipients, next_attempt_at=at, requested_by_id=actor.user_id, created_at=at
        )
    else:
        delivery = waiting
        delivery.recipients = recipients
        delivery.next_attempt_at = at
        delivery.save(update_fields=["recipients", "next_attempt_at"])
    audit.record(actor=actor, verb="invoice.sending_requested", subject=invoice, at=at, data={"to": recipients})
    nudges.nudge(nudges.DELIVER_INVOICES)
    return delivery


@transaction.atomic
def _claim(limit: int, at: datetime) -> list[InvoiceDelivery]:
    """Take waiting deliveries for as long as a lease, and count the attempt before it is made."""
    due = (
        InvoiceDelivery.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
        .filter(
            _unclaimed(at),
            state=State.WAITING,
            next_attempt_at__lte=at,
            invoice__document__state=InvoiceDocument.State.MADE,
        )
        .select_related("invoice", "invoice__document")
        .order_by("next_attempt_at", "pk")
    )
    claimed = list(due[:limit])
    for delivery in claimed:
        delivery.claimed_until = at + LEASE
        delivery.attempts += 1
        delivery.message_id = delivery.message_id or _message_id(delivery)
    InvoiceDelivery.objects.bulk_update(claimed, ["claimed_until", "attempts", "message_id"])
    return claimed


def _unclaimed(at: datetime) -> Q:
    """No worker is sending it, or the one that was has died."""
    return Q(claimed_until__isnull=True) | Q(claimed_until__lte=at)


def _message_id(delivery: InvoiceDelivery) -> str:
    """One for each delivery, whatever number of attempts it takes."""
    seller = delivery.invoice.seller or {}
    domain = str(seller.get("email", "")).rpartition("@")[2] or "countinghouse.invalid"
    return f"<invoice-{delivery.invoice.number}-{delivery.pk}@{domain}>"


def _attempt(delivery: InvoiceDelivery, connection: BaseEmailBackend, at: datetime) -> None:
    try:
        message = _message(delivery, connection)
        message.send()
    except Exception as error:  # noqa: BLE001 -- a mail server can do anything, and one mail must not hold up the others
        # The connection may be in the middle of a dialogue; the next mail begins a new one.
        _hang_up(connection)
        _write_failure(delivery, error, at)
    else:
        _write_success(delivery, refused_recipients(message), at)


def _hang_up(connection: BaseEmailBackend) -> None:
    try:
        connection.close()
    except (OSError, smtplib.SMTPException):
        logger.warning("the mail server did not take leave", exc_info=True)


@transaction.atomic
def _write_success(delivery: InvoiceDelivery, refused: Refusals, at: datetime) -> None:
    """Write that the mail is out and whom it did not reach; sent again it would reach the others twice."""
    written = InvoiceDelivery.objects.filter(pk=delivery.pk, state=State.WAITING).update(
        state=State.SENT, sent_at=at, claimed_until=None, last_error=_refusals_text(refused)
    )
    if written:
        audit.record(
            actor=Actor.system("delivery"),
            verb="invoice.sent",
            subject=delivery.invoice,
            at=at,
            data={"to": delivery.recipients, "refused": sorted(refused), "message_id": delivery.message_id},
        )


def _refusals_text(refused: Refusals) -> str:
    """Say whom the server refused and what it answered; nothing where it took the mail for everybody."""
    answers = [f"{email} ({code} {answer.decode(errors='replace')})" for email, (code, answer) in refused.items()]
    return f"Not delivered to {', '.join(answers)}; sent to the others." if answers else ""


def _write_failure(delivery: InvoiceDelivery, error: Exception, at: datetime) -> None:
    final = delivery.attempts >= MOST_ATTEMPTS or _is_refused_for_good(error)
    InvoiceDelivery.objects.filter(pk=delivery.pk, state=State.WAITING).update(
        state=State.FAILED if final else State.WAITING,
        claimed_until=None,
        last_error=f"{error} ({type(error).__name__})",
        next_attempt_at=at + delay_after(delivery.attempts),
    )
    logger.warning("mail of delivery %s: attempt %s failed: %s", delivery.pk, delivery.attempts, error)


def _is_refused_for_good(error: Exception) -> bool:
    """Whether the server said that it knows none of the recipients and never will (RFC 5321: a reply of 5xx)."""
    return isinstance(error, smtplib.SMTPRecipientsRefused) and all(
        code >= _PERMANENT for code, _ in error.recipients.values()
    )


def _message(delivery: InvoiceDelivery, connection: BaseEmailBackend) -> mail.EmailMultiAlternatives:
    invoice = delivery.invoice
    seller: dict[str, Any] = invoice.seller or {}
    context = _context(invoice)
    message = mail.EmailMultiAlternatives(
        subject=context["subject"],
        body=render_to_string("billing/mail/invoice.txt", context),
        from_email=formataddr((seller["name"], seller["email"])),
        to=delivery.recipients,
        connection=connection,
        headers={"Message-ID": delivery.message_id},
    )
    message.attach_alternative(render_to_string("billing/mail/invoice.html", context), "text/html")
    content = invoice.document.content
    assert content is not None
    message.attach(f"{invoice.number}.pdf", bytes(content), "application/pdf")
    return message


def _context(invoice: Invoice) -> dict[str, Any]:
    """What the mail says, in the customer's language and figures."""
    seller: dict[str, Any] = invoice.seller or {}
    buyer: dict[str, Any] = invoice.buyer or {}
    texts = customer_texts(buyer["locale"])
    locale = str(buyer["locale"]).replace("-", "_")
    names = {"number": invoice.number, "seller": seller["name"], "buyer": buyer["name"]}
    first_on = local_date(invoice.period.lower, invoice.time_zone)
    last_on = local_date(invoice.period.upper - timedelta(microseconds=1), invoice.time_zone)
    return {
        "texts": texts,
        "subject": " ".join(texts.subject.format(**names).split()),
        "opening": texts.opening.format(**names),
        "number": invoice.number,
        "seller": seller["name"],
        "amount": format_amount(invoice.total_amount, invoice.currency, buyer["locale"]),
        "due_on": format_date(invoice.due_on, "long", locale=locale),
        "period": format_interval(first_on, last_on, "yMMMd", locale=locale),
        "synthetic": bool(seller["is_synthetic"]),
    }
