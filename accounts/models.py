"""Legal entities, customers, staff, API keys, approvals and the audit log."""

from __future__ import annotations

from typing import Any, ClassVar

import pgtrigger
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.serializers.json import DjangoJSONEncoder
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Lower
from django.db.models.lookups import Exact
from django.utils import timezone
from simple_history.models import HistoricalRecords

from accounts.access import Permission
from accounts.request_context import current_request_id
from accounts.triggers import append_only, refuse, refuse_truncate
from accounts.validation import check_locale, check_time_zone

CURRENCY_CODE = RegexValidator(r"^[A-Z]{3}$", "Use the three capital letters of ISO 4217, such as EUR.")
COUNTRY_CODE = RegexValidator(r"^[A-Z]{2}$", "Use the two capital letters of ISO 3166, such as DE.")
COUNTRY_IS_A_CODE = Q(country__regex=r"^([A-Z]{2})?$")


def _is_sha256(field: str) -> Exact:
    return Exact(Func(F(field), function="octet_length", output_field=models.IntegerField()), 32)


class RequestStamp(models.Model):
    """What every history row keeps besides user and reason: the request that caused it."""

    request_id = models.CharField(max_length=64, blank=True, default=current_request_id)

    class Meta:
        abstract = True


def history(*, excluded_fields: tuple[str, ...] = ()) -> HistoricalRecords:
    """Return the history that everything staff edit keeps: who, when, why, in which request."""
    return HistoricalRecords(
        bases=[RequestStamp],
        history_change_reason_field=models.TextField(null=True),
        excluded_fields=excluded_fields,
    )


class UserManager(BaseUserManager["User"]):
    """Makes users who sign in by e-mail address."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Create a user; without a password the user cannot sign in by password."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def get_by_natural_key(self, username: str | None) -> User:
        """Return the user who signs in as this; capital letters make no difference."""
        return self.get(email=(username or "").strip().lower())

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Create a user who holds every permission; for the first start of an installation."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A member of staff; signs in by e-mail address."""

    email = models.EmailField(max_length=254)
    name = models.CharField(max_length=150)
    is_staff = models.BooleanField("may sign in here", default=True)
    is_active = models.BooleanField("active", default=True)
    date_joined = models.DateTimeField(default=timezone.now)

    # Not kept: a column written at each sign-in would fill the history with rows that nobody edited.
    last_login = None

    objects = UserManager()
    history = history(excluded_fields=("password",))

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["name"]

    class Meta:
        ordering = ("email",)
        constraints = (
            models.UniqueConstraint(fields=["email"], name="user_email_is_unique"),
            models.CheckConstraint(condition=Q(email=Lower("email")), name="user_email_is_in_lower_case"),
        )
        permissions = tuple((permission.value, permission.label) for permission in Permission)

    def __str__(self) -> str:
        return self.name or self.email


class PostalAddress(models.Model):
    """A postal address; every line may be empty until a document needs it."""

    address_line1 = models.CharField("street", max_length=200, blank=True)
    address_line2 = models.CharField("street, second line", max_length=200, blank=True)
    postal_code = models.CharField(max_length=20, blank=True)
    city = models.CharField(max_length=100, blank=True)
    region = models.CharField("state or region", max_length=100, blank=True)
    country = models.CharField(max_length=2, blank=True, validators=[COUNTRY_CODE])

    class Meta:
        abstract = True

    @property
    def has_address(self) -> bool:
        """Whether there is enough of an address to print on an invoice."""
        return bool(self.address_line1 and self.city and self.country)


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
        )
        triggers = (
            # Periods and documents hang on these; a company that changes them is opened anew.
            pgtrigger.ReadOnly(name="legal_entity_currency_and_zone_are_settled", fields=["currency", "time_zone"]),
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
            pgtrigger.ReadOnly(name="customer_entity_and_currency_are_settled", fields=["legal_entity", "currency"]),
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


class ApiKey(models.Model):
    """A secret by which a program speaks for the operator or for one customer; only its hash is kept."""

    class Scope(models.TextChoices):
        EVENTS_WRITE = "events:write", "Send usage events"
        USAGE_READ = "usage:read", "Read usage"
        INVOICES_READ = "invoices:read", "Read invoices"

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    secret_hash = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=40, choices=Scope))
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "API key"
        constraints = (
            models.UniqueConstraint(fields=["prefix"], name="api_key_prefix_is_unique"),
            models.CheckConstraint(
                condition=Q(scopes__len__gt=0)
                & Q(scopes__contained_by=["events:write", "usage:read", "invoices:read"]),
                name="api_key_scopes_are_known",
            ),
            models.CheckConstraint(condition=_is_sha256("secret_hash"), name="api_key_secret_is_kept_as_a_hash"),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("created_at")),
                name="api_key_expires_after_it_was_made",
            ),
        )
        triggers = (
            pgtrigger.ReadOnly(
                name="api_key_only_notes_use_and_revocation",
                exclude=["revoked_at", "last_used_at"],
            ),
            refuse(
                "api_key_revocation_is_final",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__revoked_at__isnull=False)
                & pgtrigger.Q(old__revoked_at__df=pgtrigger.F("new__revoked_at")),
                sentence="A revoked API key stays revoked.",
            ),
            refuse(
                "api_key_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="API keys are revoked, never deleted.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class AuditEntry(models.Model):
    """One verb that somebody did to something; append-only, written in the transaction of the act."""

    at = models.DateTimeField(db_index=True)
    actor = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="+")
    actor_label = models.CharField(max_length=254)
    verb = models.CharField(max_length=80, db_index=True)
    subject_type = models.CharField(max_length=80)
    subject_id = models.CharField(max_length=64)
    subject_label = models.CharField(max_length=254, blank=True)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    data = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "audit entries"
        constraints = (
            models.CheckConstraint(condition=~Q(actor_label=""), name="audit_entry_names_its_actor"),
            models.CheckConstraint(
                condition=Q(verb__regex=r"^[a-z0-9_]+(\.[a-z0-9_]+)+$"),
                name="audit_entry_verb_is_a_noun_and_what_was_done",
            ),
        )
        indexes = (models.Index(fields=["subject_type", "subject_id", "-id"], name="audit_by_subject"),)
        triggers = append_only("audit_entry", sentence="Audit entries are only ever added.")

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_label} {self.verb} {self.subject_label}"


class ApprovalPolicy(models.Model):
    """Who may approve a kind of request, how many must, and from which amount on the rule holds."""

    MOST_APPROVALS = 5

    kind = models.CharField(max_length=60)
    from_amount = models.DecimalField(max_digits=20, decimal_places=4, default=0)
    permission = models.CharField(max_length=60, choices=[(p.value, p.label) for p in Permission])
    approvals_required = models.PositiveSmallIntegerField(default=1)

    history = history()

    class Meta:
        ordering = ("kind", "from_amount")
        verbose_name_plural = "approval policies"
        constraints = (
            models.UniqueConstraint(fields=["kind", "from_amount"], name="approval_policy_is_unique_per_amount"),
            models.CheckConstraint(
                condition=Q(approvals_required__gte=1) & Q(approvals_required__lte=5),
                name="approval_policy_needs_one_to_five_approvals",
            ),
            models.CheckConstraint(condition=Q(from_amount__gte=0), name="approval_policy_amount_is_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.kind} from {self.from_amount}: {self.approvals_required} × {self.permission}"


_ENOUGH_APPROVALS = """
    IF (SELECT count(*) FROM accounts_approvaldecision WHERE request_id = NEW.id AND outcome = 'approve')
        < NEW.approvals_required
        OR EXISTS (SELECT 1 FROM accounts_approvaldecision WHERE request_id = NEW.id AND outcome = 'reject')
    THEN
        RAISE EXCEPTION 'An approval request is approved only with all its approvals.';
    END IF;
    RETURN NEW;
"""
# Locks the request, so that a decision cannot slip in beside the transaction that closes it.
_REQUEST_IS_PENDING = """
    IF (SELECT status FROM accounts_approvalrequest WHERE id = NEW.request_id FOR NO KEY UPDATE) <> 'pending'
    THEN
        RAISE EXCEPTION 'Only a pending approval request takes decisions.';
    END IF;
    RETURN NEW;
"""


class ApprovalRequest(models.Model):
    """A request to do one thing, the exact content it covers and the policy it fell under."""

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        WITHDRAWN = "withdrawn", "Withdrawn"
        VOIDED = "voided", "Voided: the subject changed"

    kind = models.CharField(max_length=60)
    subject_id = models.BigIntegerField()
    title = models.CharField(max_length=254)
    summary = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    content_hash = models.BinaryField(max_length=32)
    amount = models.DecimalField(max_digits=24, decimal_places=4, null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True)
    permission = models.CharField(max_length=60)
    approvals_required = models.PositiveSmallIntegerField()
    reason = models.TextField(blank=True)
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="approval_requests")
    requested_at = models.DateTimeField()
    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "subject_id"],
                condition=Q(status="pending"),
                name="approval_request_is_pending_once_per_subject",
            ),
            models.UniqueConstraint(fields=["id", "requested_by"], name="approval_requester_can_be_referenced"),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "approved", "rejected", "withdrawn", "voided"]),
                name="approval_request_status_is_known",
            ),
            models.CheckConstraint(
                condition=Q(status="pending", closed_at__isnull=True)
                | (~Q(status="pending") & Q(closed_at__isnull=False)),
                name="approval_request_is_closed_with_a_time",
            ),
            models.CheckConstraint(
                condition=Q(approvals_required__gte=1),
                name="approval_request_needs_an_approval",
            ),
            models.CheckConstraint(condition=_is_sha256("content_hash"), name="approval_request_content_is_hashed"),
            models.CheckConstraint(
                condition=Q(amount__isnull=True) | Q(currency__regex=r"^[A-Z]{3}$"),
                name="approval_request_amount_has_a_currency",
            ),
        )
        indexes = (models.Index(fields=["kind", "subject_id"], name="approval_by_subject"),)
        triggers = (
            refuse(
                "approval_request_begins_pending",
                operation=pgtrigger.Insert,
                condition=~pgtrigger.Q(new__status="pending"),
                sentence="An approval request begins as pending.",
            ),
            refuse(
                "approval_request_once_closed_never_changes",
                operation=pgtrigger.Update,
                condition=~pgtrigger.Q(old__status="pending"),
                sentence="A closed approval request never changes.",
            ),
            pgtrigger.ReadOnly(name="approval_request_only_closes", exclude=["status", "closed_at"]),
            pgtrigger.Trigger(
                name="approval_request_has_its_approvals",
                operation=pgtrigger.Update,
                when=pgtrigger.Before,
                condition=pgtrigger.Q(new__status="approved"),
                func=_ENOUGH_APPROVALS,
            ),
            refuse(
                "approval_request_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="Approval requests are never deleted.",
            ),
            refuse_truncate("approval_request_is_never_emptied", sentence="Approval requests are never deleted."),
        )

    def __str__(self) -> str:
        return self.title


class ApprovalDecision(models.Model):
    """One person's word on a request; append-only.

    `requested_by` repeats the request's own (held equal by a composite foreign key), so that a CHECK can hold what
    matters most: nobody decides what they asked for.
    """

    class Outcome(models.TextChoices):
        APPROVE = "approve", "Approved"
        REJECT = "reject", "Rejected"

    request = models.ForeignKey(ApprovalRequest, on_delete=models.PROTECT, related_name="decisions")
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    decided_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="approval_decisions")
    outcome = models.CharField(max_length=10, choices=Outcome)
    comment = models.TextField(blank=True)
    decided_at = models.DateTimeField()

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["request", "decided_by"], name="approval_is_decided_once_per_person"),
            models.CheckConstraint(
                condition=~Q(decided_by=F("requested_by")),
                name="approval_is_not_decided_by_its_requester",
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["approve", "reject"]),
                name="approval_outcome_is_known",
            ),
        )
        triggers = (
            *append_only("approval_decision", sentence="Approval decisions are only ever added."),
            pgtrigger.Trigger(
                name="approval_decision_needs_a_pending_request",
                operation=pgtrigger.Insert,
                when=pgtrigger.Before,
                func=_REQUEST_IS_PENDING,
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_outcome_display()} by {self.decided_by}"
