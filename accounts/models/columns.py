"""What several models share: codes, addresses, and the history of everything staff edit."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.lookups import Exact
from simple_history.models import HistoricalRecords

from accounts.request_context import current_request_id
from accounts.triggers import append_only

CURRENCY_CODE = RegexValidator(r"^[A-Z]{3}$", "Use the three capital letters of ISO 4217, such as EUR.")
COUNTRY_CODE = RegexValidator(r"^[A-Z]{2}$", "Use the two capital letters of ISO 3166, such as DE.")
COUNTRY_IS_A_CODE = Q(country__regex=r"^([A-Z]{2})?$")


def is_sha256(field: str) -> Exact:
    """Return the condition that a binary column holds the 32 bytes of a SHA-256."""
    return Exact(Func(F(field), function="octet_length", output_field=models.IntegerField()), 32)


def is_on_the_hour(field: str, *, at: str) -> Exact:
    """Return the condition that a column names a time zone whose clocks, at that instant, show UTC's minutes."""
    template = f"mod(extract(epoch FROM timestamptz '{at}' AT TIME ZONE %(expressions)s), 3600)"
    return Exact(Func(F(field), template=template, output_field=models.IntegerField()), 0)


class RequestStamp(models.Model):
    """What every history row keeps besides user and reason: the request that caused it."""

    request_id = models.CharField(max_length=64, blank=True, default=current_request_id)

    class Meta:
        abstract = True


class _AppendOnlyRecords(HistoricalRecords):  # type: ignore[misc] # the package has no types
    """History whose rows are only ever added: the model of its table is made by the package, so its triggers too."""

    def get_meta_options(self, model: type[models.Model]) -> Mapping[str, object]:
        options: Mapping[str, object] = super().get_meta_options(model)
        return {**options, "triggers": append_only("history", "What was is never rewritten: history is only added to.")}


def history(*, excluded_fields: tuple[str, ...] = ()) -> HistoricalRecords:
    """Return the history that everything staff edit keeps, for ever: who, when, why, in which request."""
    return _AppendOnlyRecords(
        bases=[RequestStamp],
        history_change_reason_field=models.TextField(null=True),
        excluded_fields=excluded_fields,
    )


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
