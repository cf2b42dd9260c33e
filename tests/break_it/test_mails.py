"""Sending again while the mail is on its way: nobody gets it twice for one asking, and nobody is left out."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from django.db import connections
from pytest_django import Settings

from accounts.access import Actor
from accounts.contacts import add_contact
from accounts.models import Contact
from billing import delivery, documents
from billing.models import InvoiceDelivery
from tests import make_billing as make
from tests.break_it.at_once import at_once
from tests.mail_server import Mailbox, MailServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def mail_server(settings: Settings) -> MailServer:
    server = MailServer()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
    settings.EMAIL_TIMEOUT = 10
    return server


class MailboxThatSendsAgain(Mailbox):
    """While it takes the first mail, somebody asks for it to be sent again, to another address."""

    def __init__(self, invoice_id: int, shop: make.Shop) -> None:
        super().__init__()
        self._ask = partial(self._add_recipient_and_send_again, invoice_id, shop)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 -- as aiosmtpd calls it
        if not self.messages:
            await asyncio.to_thread(self._ask)
        return await super().handle_DATA(server, session, envelope)

    @staticmethod
    def _add_recipient_and_send_again(invoice_id: int, shop: make.Shop) -> None:
        try:
            customer = shop.entity.customers.get()
            add_contact(
                customer_id=customer.pk,
                name="Bea New",
                email="new@acme.example",
                receives_invoices=True,
                actor=Actor.system("tests"),
                at=make.NOV_2,
            )
            delivery.resend_invoice(invoice_id=invoice_id, actor=shop.controller, at=make.NOV_2)
        finally:
            connections.close_all()


def issued(email: str) -> tuple[make.Shop, int]:
    shop = make.shop()
    customer = make.subscriber(shop, email=email)
    make.use(shop, customer, "100", on=make.OCT_10)
    make.issued_run(shop)
    documents.make_due_documents(limit=10, at=make.NOV_2)
    return shop, make.invoice_of(customer).pk


def test_who_is_added_while_the_mail_is_on_its_way_gets_one_too(mail_server: MailServer) -> None:
    shop, invoice_id = issued("old@acme.example")
    mail_server.mailbox = MailboxThatSendsAgain(invoice_id, shop)
    mail_server.start()

    for minute in range(3):
        delivery.deliver_due(limit=10, at=make.NOV_2 + timedelta(minutes=minute))
    mail_server.stop()

    got = [sorted(envelope.rcpt_tos) for envelope in mail_server.mailbox.envelopes]
    assert got == [["old@acme.example"], ["new@acme.example", "old@acme.example"]]
    kept = InvoiceDelivery.objects.order_by("pk").values_list("state", "recipients", "attempts")
    assert [(state, sorted(to), attempts) for state, to, attempts in kept] == [
        ("sent", ["old@acme.example"], 1),
        ("sent", ["new@acme.example", "old@acme.example"], 1),
    ]
    assert len({message["Message-ID"] for message in mail_server.mailbox.messages}) == 2


def test_two_senders_and_two_who_ask_again_at_once_send_each_delivery_once(mail_server: MailServer) -> None:
    mail_server.start()
    shop, invoice_id = issued("old@acme.example")
    ask = partial(delivery.resend_invoice, invoice_id=invoice_id, actor=shop.controller, at=make.NOV_2)
    send = partial(delivery.deliver_due, limit=5, at=make.NOV_2)

    for _ in range(5):
        at_once(ask, send, ask, send)
    send()
    mail_server.stop()

    ids = [message["Message-ID"] for message in mail_server.mailbox.messages]
    assert len(ids) == len(set(ids)) == InvoiceDelivery.objects.filter(state="sent", attempts=1).count()
    assert not InvoiceDelivery.objects.exclude(state="sent").exists()
    assert Contact.objects.count() == 1
