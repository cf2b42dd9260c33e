"""Products, price books with their versions and prices, and contracts."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.lookups import Exact, GreaterThanOrEqual

from accounts.models import CURRENCY_CODE, ApprovalRequest, Customer, User, history
from accounts.triggers import refuse_truncate
from metering.models import Meter
from pricing import triggers


class Product(models.Model):
    """A thing that is sold (SKU).

    A metered product takes the usage of its meter's series whose dimensions hold everything in `dimension_filter`;
    where several products of a price book fit one series, the one with the most filter entries takes it. A product
    without a meter is a recurring fee.
    """

    code = models.CharField("SKU", max_length=120)
    name = models.CharField(max_length=254)
    group = models.CharField("group on the invoice", max_length=120)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, null=True, blank=True, related_name="products")
    dimension_filter = models.JSONField("dimension values it takes", default=dict, blank=True)
    unit = models.CharField(max_length=60)
    is_active = models.BooleanField("active", default=True)

    history = history()

    class Meta:
        ordering = ("group", "name")
        constraints = (
            models.UniqueConstraint(fields=["code"], name="product_code_is_unique"),
            models.CheckConstraint(
                condition=Q(meter__isnull=False) | Q(dimension_filter={}),
                name="product_without_meter_has_no_filter",
            ),
        )
        triggers = (triggers.PRICED_PRODUCT_KEEPS_ITS_USAGE,)

    def __str__(self) -> str:
        return self.name


class PriceBook(models.Model):
    """A named list of prices in one currency."""

    code = models.SlugField(max_length=80)
    name = models.CharField(max_length=150)
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])
    description = models.TextField(blank=True)

    history = history()

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["code"], name="price_book_code_is_unique"),
            models.UniqueConstraint(fields=["id", "currency"], name="price_book_currency_can_be_referenced"),
            models.CheckConstraint(condition=Q(currency__regex=r"^[A-Z]{3}$"), name="price_book_currency_is_a_code"),
            models.CheckConstraint(
                condition=GreaterThanOrEqual(
                    Func(F("currency"), function="currency_exponent", output_field=models.IntegerField()), 0
                ),
                name="price_book_currency_is_known",
            ),
        )
        triggers = (triggers.PRICE_BOOK_KEEPS_ITS_CODE_AND_CURRENCY,)

    def __str__(self) -> str:
        return f"{self.name} ({self.currency})"


class PriceBookVersion(models.Model):
    """One edition of a price book; its prices never change once it was submitted.

    `valid_during` is `[effective from, until)` and unbounded above until a later version takes over; a draft has none.
    """

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        IN_REVIEW = "in_review", "In review"
        APPROVED = "approved", "Approved"
        LIVE = "live", "Live"
        SUPERSEDED = "superseded", "Superseded"

    book = models.ForeignKey(PriceBook, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=20, choices=Status, default=Status.DRAFT)
    effective_from = models.DateTimeField(null=True, blank=True)
    valid_during = DateTimeRangeField(null=True, blank=True)
    notes = models.TextField("what changes and why", blank=True)
    content_hash = models.BinaryField(max_length=32, null=True)
    approval = models.OneToOneField(ApprovalRequest, on_delete=models.PROTECT, null=True, related_name="+")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()

    history = history()

    class Meta:
        ordering = ("book", "-number")
        constraints = (
            models.UniqueConstraint(fields=["book", "number"], name="price_book_version_number_is_unique"),
            models.UniqueConstraint(
                fields=["book"],
                condition=Q(status__in=["draft", "in_review"]),
                name="price_book_has_one_open_draft",
            ),
            models.UniqueConstraint(
                fields=["book"],
                condition=Q(status="live"),
                name="price_book_has_one_live_version",
            ),
            ExclusionConstraint(
                name="approved_versions_never_overlap",
                expressions=[
                    (Func(F("book"), F("book"), Value("[]"), function="int8range"), RangeOperators.OVERLAPS),
                    ("valid_during", RangeOperators.OVERLAPS),
                ],
                condition=Q(status__in=["approved", "live", "superseded"]),
            ),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "in_review", "approved", "live", "superseded"]),
                name="price_book_version_status_is_known",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "in_review"])
                | (
                    Q(valid_during__isnull=False)
                    & Q(valid_during__isempty=False)
                    & Q(effective_from__isnull=False)
                    & Q(content_hash__isnull=False)
                    & Q(approval__isnull=False)
                ),
                name="approved_version_has_period_hash_and_approval",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["draft", "in_review"])
                | Q(valid_during__isnull=True, content_hash__isnull=True, approval__isnull=True),
                name="unapproved_version_has_no_period_hash_or_approval",
            ),
            models.CheckConstraint(
                condition=Q(status="draft") | Q(effective_from__isnull=False),
                name="submitted_version_says_when_it_takes_effect",
            ),
            models.CheckConstraint(
                condition=Q(valid_during__isnull=True) | Q(valid_during__startswith=F("effective_from")),
                name="version_is_valid_from_when_it_takes_effect",
            ),
            # Usage is added up by the hour, so a bill can not be cut within one.
            models.CheckConstraint(
                condition=Exact(
                    Func(
                        F("effective_from"),
                        template="mod(extract(epoch FROM %(expressions)s), 3600)",
                        output_field=models.IntegerField(),
                    ),
                    0,
                ),
                name="version_takes_effect_on_the_hour",
            ),
        )
        triggers = (
            triggers.VERSION_BEGINS_AS_DRAFT,
            triggers.VERSION_STATUS_FOLLOWS_ITS_ORDER,
            triggers.SUBMITTED_VERSION_NEVER_CHANGES,
            triggers.VERSION_NAMES_ITS_OWN_APPROVAL,
            triggers.VERSION_IS_SUPERSEDED_BY_ITS_SUCCESSOR,
            triggers.ONLY_A_DRAFT_IS_DELETED,
            refuse_truncate("versions_are_never_truncated"),
        )

    def __str__(self) -> str:
        return f"{self.book.name} v{self.number}"


class Price(models.Model):
    """What one product costs in one version; `spec` is the price as JSON (see pricing.rating)."""

    version = models.ForeignKey(PriceBookVersion, on_delete=models.PROTECT, related_name="prices")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="prices")
    spec = models.JSONField("price")

    class Meta:
        ordering = ("version", "product")
        constraints = (
            models.UniqueConstraint(fields=["version", "product"], name="price_is_unique_per_version_and_product"),
            models.CheckConstraint(condition=Q(spec__has_key="model"), name="price_names_its_model"),
        )
        triggers = (triggers.PRICES_CHANGE_ONLY_IN_A_DRAFT, refuse_truncate("prices_are_never_truncated"))

    def __str__(self) -> str:
        return f"{self.product} in {self.version}"


class Contract(models.Model):
    """What one customer agreed: a price book, from when until when (local dates of the legal entity, end excluded).

    The currency repeats the customer's and the book's; composite foreign keys hold the three equal.
    """

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="contracts")
    price_book = models.ForeignKey(PriceBook, on_delete=models.PROTECT, related_name="contracts")
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])
    starts_on = models.DateField()
    ends_on = models.DateField("ends on (excluded)", null=True, blank=True)
    anchor_day = models.PositiveSmallIntegerField("billing day of the month", default=1)
    created_at = models.DateTimeField()

    history = history()

    class Meta:
        ordering = ("customer", "-starts_on")
        constraints = (
            models.CheckConstraint(
                condition=Q(anchor_day__gte=1) & Q(anchor_day__lte=31),
                name="contract_anchor_is_a_day_of_the_month",
            ),
            models.CheckConstraint(
                condition=Q(ends_on__isnull=True) | Q(ends_on__gt=F("starts_on")),
                name="contract_ends_after_it_starts",
            ),
            ExclusionConstraint(
                name="customer_has_one_contract_at_a_time",
                expressions=[
                    (Func(F("customer"), F("customer"), Value("[]"), function="int8range"), RangeOperators.OVERLAPS),
                    (
                        Func(F("starts_on"), F("ends_on"), Value("[)"), function="daterange"),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
        )
        triggers = (triggers.CONTRACT_TERMS_NEVER_CHANGE,)

    def __str__(self) -> str:
        return f"{self.customer}: {self.price_book}"
