"""Mails to a real server: sent once, tried again while it is away, given up in the open."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from accounts.access import Role
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry
from billing import delivery, documents
from billing.errors import InvoiceHasNoRecipient, InvoiceNotIssued, InvoiceUnknown
from billing.models import Invoice, InvoiceDelivery
from tests import make_accounts
from tests import make_billing as make
from tests.mail_server import MailServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def invoice() -> Invoice:
    """An issued invoice whose PDF is made and whose mail waits."""
    return issued_invoice()


def issued_invoice(*, locale: str = "en_US", email: str | None = "ap@acme.example") -> Invoice:
    shop = make.shop()
    customer = make.subscriber(shop, email=email, locale=locale)
    make.use(shop, customer, "100", on=make.OCT_10)
    make.issued_run(shop)
    documents.make_due_documents(limit=10, at=make.NOV_2)
    return make.invoice_of(customer)


def test_a_mail_carries_the_invoice_in_words_and_as_a_pdf(mail_server: MailServer, invoice: Invoice) -> None:
    assert delivery.deliver_due(limit=10, at=make.NOV_2) == 1
    assert delivery.deliver_due(limit=10, at=make.NOV_3) == 0

    [message] = mail_server.mailbox.messages
    body = message.get_body(("plain",))
    [attachment] = message.iter_attachments()
    assert message["To"] == "ap@acme.example"
    assert message["From"] == "Stratus Compute GmbH <billing@stratus.example>"
    assert message["Subject"] == f"Invoice {invoice.number} from Stratus Compute GmbH"
    assert body is not None
    assert "Total due: €59.50" in body.get_content()
    assert message.get_body(("html",)) is not None
    assert attachment.get_filename() == f"{invoice.number}.pdf"
    assert hashlib.sha256(attachment.get_content()).digest() == bytes(invoice.document.sha256 or b"")
    sent = InvoiceDelivery.objects.get()
    assert (sent.state, sent.sent_at, sent.attempts, sent.last_error) == ("sent", make.NOV_2, 1, "")
    assert message["Message-ID"] == sent.message_id
    assert AuditEntry.objects.filter(verb="invoice.sent", subject_id=str(invoice.pk)).count() == 1


@pytest.mark.parametrize(
    ("locale", "subject", "words"),
    [
        ("de_DE", "Rechnung {} von Stratus Compute GmbH", "Zahlbetrag: 59,50\u00a0€"),
        ("fr_FR", "Facture {} de Stratus Compute GmbH", "Montant à payer: 59,50\u00a0€"),
        ("ja_JP", "Invoice {} from Stratus Compute GmbH", "Total due: €59.50"),
    ],
)
def test_a_mail_is_written_in_the_language_of_the_customer(
    mail_server: MailServer, locale: str, subject: str, words: str
) -> None:
    invoice = issued_invoice(locale=locale)

    delivery.deliver_due(limit=10, at=make.NOV_2)

    [message] = mail_server.mailbox.messages
    body = message.get_body(("plain",))
    assert body is not None
    assert message["Subject"] == subject.format(invoice.number)
    assert words in body.get_content()


def test_a_mail_waits_for_its_document(mail_server: MailServer) -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    make.issued_run(shop)

    assert delivery.deliver_due(limit=10, at=make.NOV_2) == 0


def test_while_the_server_is_away_mails_wait_and_are_sent_once_it_is_back(
    mail_server: MailServer, invoice: Invoice
) -> None:
    mail_server.stop()

    assert delivery.deliver_due(limit=10, at=make.NOV_2) == 1

    waiting = InvoiceDelivery.objects.get()
    assert (waiting.state, waiting.attempts) == ("waiting", 1)
    assert "refused" in waiting.last_error.lower()
    assert delivery.deliver_due(limit=10, at=make.NOV_2) == 0

    mail_server.start()
    assert delivery.deliver_due(limit=10, at=make.NOV_2 + timedelta(minutes=1)) == 1

    sent = InvoiceDelivery.objects.get()
    assert (sent.state, sent.attempts, sent.last_error) == ("sent", 2, "")
    assert len(mail_server.mailbox.messages) == 1
    assert mail_server.mailbox.messages[0]["Message-ID"] == waiting.message_id


def test_a_server_that_stays_away_makes_the_delivery_fail_in_the_open(
    mail_server: MailServer, invoice: Invoice
) -> None:
    mail_server.stop()
    at = make.NOV_2

    for _ in range(delivery.MOST_ATTEMPTS):
        assert delivery.deliver_due(limit=10, at=at) == 1
        at += timedelta(hours=6)

    failed = InvoiceDelivery.objects.get()
    assert (failed.state, failed.attempts) == ("failed", delivery.MOST_ATTEMPTS)
    assert delivery.deliver_due(limit=10, at=at) == 0


def test_a_recipient_that_the_server_does_not_know_fails_at_once_and_others_get_theirs(
    mail_server: MailServer,
) -> None:
    mail_server.mailbox.refuses.add("gone@acme.example")
    refused, accepted = issued_invoice(email="gone@acme.example"), issued_invoice()

    delivery.deliver_due(limit=10, at=make.NOV_2)

    failed = InvoiceDelivery.objects.get(invoice=refused)
    assert failed.state == "failed"
    assert "550" in failed.last_error
    assert InvoiceDelivery.objects.get(invoice=accepted).state == "sent"


def test_a_busy_server_is_tried_again(mail_server: MailServer, invoice: Invoice) -> None:
    mail_server.mailbox.busy = True
    delivery.deliver_due(limit=10, at=make.NOV_2)
    assert InvoiceDelivery.objects.get().state == "waiting"
    mail_server.mailbox.busy = False

    delivery.deliver_due(limit=10, at=make.NOV_2 + timedelta(minutes=1))

    assert InvoiceDelivery.objects.get().state == "sent"


def test_a_worker_that_died_while_sending_leaves_the_mail_to_the_next_with_the_same_id(
    mail_server: MailServer, invoice: Invoice
) -> None:
    [claimed] = delivery._claim(10, make.NOV_2)  # and then it dies

    assert delivery.deliver_due(limit=10, at=make.NOV_2) == 0
    assert delivery.deliver_due(limit=10, at=make.NOV_2 + delivery.LEASE) == 1

    assert mail_server.mailbox.messages[0]["Message-ID"] == claimed.message_id
    assert InvoiceDelivery.objects.get().attempts == 2


def test_a_failed_delivery_is_sent_again_to_whoever_receives_invoices_now(mail_server: MailServer) -> None:
    invoice = issued_invoice(email=None)
    support = make_accounts.actor(Role.SUPPORT)
    assert InvoiceDelivery.objects.get().state == "failed"
    with pytest.raises(InvoiceHasNoRecipient):
        delivery.resend_invoice(invoice_id=invoice.pk, actor=support, at=make.NOV_2)
    make_accounts.contact(customer=invoice.customer, email="new@acme.example")

    again = delivery.resend_invoice(invoice_id=invoice.pk, actor=support, at=make.NOV_3)
    twice = delivery.resend_invoice(invoice_id=invoice.pk, actor=support, at=make.NOV_3)
    delivery.deliver_due(limit=10, at=make.NOV_3)

    assert again == twice
    assert again.requested_by_id == support.user_id
    assert [message["To"] for message in mail_server.mailbox.messages] == ["new@acme.example"]


def test_only_an_issued_invoice_is_sent_by_those_who_may(mail_server: MailServer) -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)
    make.approved_run(shop)
    invoice_id = make.invoice_of(customer).pk

    with pytest.raises(InvoiceNotIssued):
        delivery.resend_invoice(invoice_id=invoice_id, actor=shop.analyst, at=make.NOV_2)
    with pytest.raises(InvoiceUnknown):
        delivery.resend_invoice(invoice_id=0, actor=shop.analyst, at=make.NOV_2)
    with pytest.raises(PermissionMissing):
        delivery.resend_invoice(invoice_id=invoice_id, actor=make_accounts.actor(Role.AUDITOR), at=make.NOV_2)


def test_a_name_with_line_breaks_cannot_add_headers(mail_server: MailServer) -> None:
    shop = make.shop()
    customer = make.subscriber(shop, email="ap@acme.example")
    type(shop.entity).objects.filter(pk=shop.entity.pk).update(name="Evil\nBcc: spy@evil.example")
    make.use(shop, customer, "1", on=make.OCT_10)
    make.issued_run(shop)
    documents.make_due_documents(limit=10, at=make.NOV_2)

    delivery.deliver_due(limit=10, at=make.NOV_2)

    assert all(envelope.rcpt_tos == ["ap@acme.example"] for envelope in mail_server.mailbox.envelopes)


def test_a_mail_that_reaches_only_some_is_sent_once_and_says_whom_it_did_not_reach(
    mail_server: MailServer, invoice: Invoice
) -> None:
    make_accounts.contact(customer=invoice.customer, email="cfo@acme.example", receives_invoices=True)
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    delivery.resend_invoice(invoice_id=invoice.pk, actor=controller, at=make.NOV_2)
    mail_server.mailbox.refuses = {"cfo@acme.example"}

    delivery.deliver_due(limit=10, at=make.NOV_2)
    again = delivery.deliver_due(limit=10, at=make.NOV_3)

    sent = InvoiceDelivery.objects.get()
    assert (sent.state, sent.attempts, again) == ("sent", 1, 0)
    assert sent.last_error == "Not delivered to cfo@acme.example (550 No such user); sent to the others."
    assert [envelope.rcpt_tos for envelope in mail_server.mailbox.envelopes] == [["ap@acme.example"]]
    assert AuditEntry.objects.get(verb="invoice.sent").data["refused"] == ["cfo@acme.example"]


def test_the_next_mail_of_the_same_connection_has_its_own_refusals(mail_server: MailServer, invoice: Invoice) -> None:
    other = issued_invoice(email="ap@other.example")
    make_accounts.contact(customer=invoice.customer, email="cfo@acme.example", receives_invoices=True)
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    delivery.resend_invoice(invoice_id=invoice.pk, actor=controller, at=make.NOV_2)
    mail_server.mailbox.refuses = {"cfo@acme.example"}

    delivery.deliver_due(limit=10, at=make.NOV_2)

    errors = dict(InvoiceDelivery.objects.values_list("invoice_id", "last_error"))
    assert "cfo@acme.example" in errors[invoice.pk]
    assert errors[other.pk] == ""
