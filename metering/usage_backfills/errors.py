"""What backfills of usage refuse as a whole; what they refuse event by event is in the result of filling in."""

from __future__ import annotations

from accounts.errors import CountinghouseError


class UsageBackfillUnknown(CountinghouseError):
    """There is no such backfill of usage."""

    code = "usage_backfill_unknown"


class UsageBackfillInvalid(CountinghouseError):
    """What was given is no backfill of usage that could be opened."""

    code = "usage_backfill_invalid"


class UsageBackfillOverlaps(CountinghouseError):
    """Another backfill of this source and period is open, being closed or being reverted; it has to end first."""

    code = "usage_backfill_overlaps"


class UsageBackfillNotOpen(CountinghouseError):
    """The backfill is not open: it takes no events, and is not closed or abandoned a second time."""

    code = "usage_backfill_not_open"


class UsageBackfillNotClosed(CountinghouseError):
    """Only a closed backfill can be reverted."""

    code = "usage_backfill_not_closed"


class UsageBackfillBeingFilled(CountinghouseError):
    """A file is being filled into the backfill, so that a part of it would count; wait for its end, or stop it."""

    code = "usage_backfill_being_filled"


class UsageBackfillEmpty(CountinghouseError):
    """The backfill would change nothing: none of its events would be counted, replaced or voided."""

    code = "usage_backfill_empty"


class UsageBackfillNotPreviewed(CountinghouseError):
    """Nobody has looked at what this would change yet; preview it first."""

    code = "usage_backfill_not_previewed"


class UsageBackfillBeingPreviewed(CountinghouseError):
    """What this would change is being worked out already; wait for it."""

    code = "usage_backfill_being_previewed"


class UsageBackfillChanged(CountinghouseError):
    """Since the preview something has changed that it would come to; preview it again."""

    code = "usage_backfill_changed"


class UsageBackfillTooLarge(CountinghouseError):
    """A backfill takes, and voids, at most 2,000,000 events; open several, each of a part of the period."""

    code = "usage_backfill_too_large"
