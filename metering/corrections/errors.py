"""What corrections refuse beside what `metering.errors` names."""

from __future__ import annotations

from accounts.errors import CountinghouseError


class CorrectionChanged(CountinghouseError):
    """Since the preview something has changed that the correction would come to; preview it again."""

    code = "correction_changed"


class CorrectionBeingPreviewed(CountinghouseError):
    """The correction is being previewed already; look again in a moment."""

    code = "correction_being_previewed"
