"""The two sides of an invoice: the operator's legal entities, and the customers with their contacts."""

from __future__ import annotations

import pgtrigger
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone

from accounts.models.columns import COUNTRY_IS_A_CODE, CURRENCY_CODE, PostalAddress, history, is_on_the_hour
from accounts.triggers import refuse
from accounts.validation import check_locale, check_time_zone


class LegalEntity(PostalAddress):
    """One of the operator's companies that issues invoices."""

    code = models.SlugField(max_length=40)
    name = models.CharField(max_length=200)
    registration = models.CharField("company register entry", max_length=200, blank=True)
    tax_id = models.CharField("tax id", max_length=40, blank=True)
    email = models.EmailField("sender of invoices")
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])
    time_zone = models.CharField("billing time zone", max_length=64, default="UTC", validators=[check_time_zone])
    bank_name = models.CharField(max_length=100, blank=True)
    bank_account = models.CharField("IBAN or account", max_length=64, blank=True)
    bank_code = models.CharField("BIC or routing number", max_length=20, blank=True)
    tax_name = models.CharField(max_length=40, default="VAT")
    tax_rate = models.DecimalField(
        "standard tax rate, percent",
        max_digits=7,
        decimal_places=4,
        default=0,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
    )
    is_synthetic = models.BooleanField("synthetic demonstration data", default=False)

    history = history()

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "legal entities"
        constraints = (
            models.UniqueConstraint(fields=["code"], name="legal_entity_code_is_unique"),
            models.CheckConstraint(condition=Q(currency__regex=r"^[A-Z]{3}$"), name="legal_entity_currency_is_a_code"),
            models.CheckConstraint(condition=COUNTRY_IS_A_CODE, name="legal_entity_country_is_a_code"),
            models.CheckConstraint(
                condition=Q(tax_rate__gte=0) & Q(tax_rate__lte=100),
                name="legal_entity_tax_rate_is_a_percentage",
            ),
            # Usage is added up by the hour of UTC, so a bill can not be cut at a midnight within one.
            models.CheckConstraint(
                condition=is_on_the_hour("time_zone", at="2024-01-01 00:00:00+00")
                & is_on_the_hour("time_zone", at="2024-07-01 00:00:00+00"),
                name="legal_entity_bills_on_the_hour",
            ),
        )
        triggers = (
            # Periods and documents hang on these; a company that changes them is opened anew.
            refuse(
                "legal_entity_currency_and_zone_are_settled",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange("currency", "time_zone"),
                sentence="A legal entity keeps its currency and its time zone.",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Customer(PostalAddress):
    """A billing account of one legal entity and one currency."""

    class TaxTreatment(models.TextChoices):
        STANDARD = "standard", "Standard rate"
        REVERSE_CHARGE = "reverse_charge", "Reverse charge"
        EXEMPT = "exempt", "Exempt"

    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="customers")
    code = models.CharField("customer number", max_length=64)
    name = models.CharField(max_length=200)
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])
    tax_id = models.CharField("tax id", max_length=40, blank=True)
    tax_treatment = models.CharField(max_length=20, choices=TaxTreatment, default=TaxTreatment.STANDARD)
    payment_terms_days = models.PositiveSmallIntegerField("payment terms, days", default=30)
    locale = models.CharField(max_length=20, default="en_US", validators=[check_locale])
    purchase_order = models.CharField("purchase order", max_length=64, blank=True)
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True, related_name="children")
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(default=timezone.now)

    history = history()

    class Meta:
        ordering = ("name", "code")
        constraints = (
            models.UniqueConstraint(fields=["code"], name="customer_code_is_unique"),
            models.UniqueConstraint(fields=["id", "currency"], name="customer_currency_can_be_referenced"),
            models.UniqueConstraint(fields=["id", "legal_entity"], name="customer_legal_entity_can_be_referenced"),
            models.CheckConstraint(condition=Q(currency__regex=r"^[A-Z]{3}$"), name="customer_currency_is_a_code"),
            models.CheckConstraint(condition=COUNTRY_IS_A_CODE, name="customer_country_is_a_code"),
            models.CheckConstraint(
                condition=Q(tax_treatment__in=["standard", "reverse_charge", "exempt"]),
                name="customer_tax_treatment_is_known",
            ),
            models.CheckConstraint(
                condition=Q(parent__isnull=True) | ~Q(parent=F("id")),
                name="customer_is_not_its_own_parent",
            ),
            models.CheckConstraint(condition=Q(payment_terms_days__lte=365), name="customer_terms_are_within_a_year"),
        )
        triggers = (
            refuse(
                "customer_entity_and_currency_are_settled",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange("legal_entity", "currency"),
                sentence="A customer keeps the legal entity and the currency.",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Contact(models.Model):
    """A person at a customer."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="contacts")
    name = models.CharField(max_length=150)
    email = models.EmailField()
    receives_invoices = models.BooleanField(default=False)

    history = history()

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(Lower("email"), "customer", name="contact_email_is_unique_per_customer"),
        )

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"
