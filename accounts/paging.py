"""Pages of long lists, without counting what nobody will page through."""

from __future__ import annotations

from functools import cached_property

from django.core.paginator import Paginator
from django.db.models import QuerySet

PAGED_ROWS = 10_000


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # pages whatever it is given
    """Pages the first ten thousand rows and counts no further; a filter finds the rest."""

    @cached_property
    def count(self) -> int:
        """The number of rows, or ten thousand if there are more."""
        return min(self._counted, PAGED_ROWS)

    @property
    def is_cut(self) -> bool:
        """Whether there are more rows than are paged."""
        return self._counted > PAGED_ROWS

    @cached_property
    def _counted(self) -> int:
        if isinstance(self.object_list, QuerySet):
            return self.object_list.order_by()[: PAGED_ROWS + 1].count()
        return len(self.object_list)
