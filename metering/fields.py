"""A number column without a precision: what was measured or added up is kept to its last digit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    from decimal import Decimal

    from django.core.checks import CheckMessage
    from django.db.backends.base.base import BaseDatabaseWrapper

    _DecimalField = models.DecimalField[Decimal | str | int, Decimal]
else:
    _DecimalField = models.DecimalField


class ExactNumberField(_DecimalField):
    """An exact decimal of any size: Postgres' plain `numeric`, which never rounds what it is given."""

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Run the checks of any field; those of DecimalField demand the digits that this one does without."""
        return models.Field.check(self, **kwargs)

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """Return the column's type."""
        del connection
        return "numeric"
