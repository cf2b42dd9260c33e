"""What metering refuses as a whole; what it refuses event by event is in the result of ingestion."""

from __future__ import annotations

from accounts.errors import CountinghouseError


class BodyNotJson(CountinghouseError):
    """The body is not JSON."""

    code = "body_not_json"


class BodyNotEvents(CountinghouseError):
    """The body is neither an event nor an array of events."""

    code = "body_not_events"


class BodyTooLarge(CountinghouseError):
    """The body is larger than this door takes."""

    code = "body_too_large"


class BodyTypeUnknown(CountinghouseError):
    """The body is of a content type, or in a character set, that this door does not read."""

    code = "body_type_unknown"


class BodyEncodingUnknown(CountinghouseError):
    """The body is packed in a way that this door does not unpack."""

    code = "body_encoding_unknown"


class BodyNotGzip(CountinghouseError):
    """The body says that it is gzip, and is not, or is damaged."""

    code = "body_not_gzip"


class BodyTooComplex(CountinghouseError):
    """The body holds more values than this door takes at once."""

    code = "body_too_complex"


class IngestOverloaded(CountinghouseError):
    """Nothing was taken, as usage comes in faster than it can be; the same batch may be sent again later."""

    code = "ingest_overloaded"
    retry_after_seconds = 1


class IngestBusy(IngestOverloaded):
    """As many batches as are taken at once are being taken; nothing of this one was. Send it again shortly."""

    code = "ingest_busy"


class FoldBacklogFull(IngestOverloaded):
    """Too much usage waits to be folded into hours; nothing was taken. Send it again later."""

    code = "fold_backlog_full"
    retry_after_seconds = 10


class IngestTimedOut(IngestOverloaded):
    """The database took too long, or others held what this batch needs; nothing was taken. Send it again shortly."""

    code = "ingest_timed_out"
    retry_after_seconds = 2


class TooManyEvents(CountinghouseError):
    """A batch holds more events than this door takes at once."""

    code = "too_many_events"


class KafkaNotConfigured(CountinghouseError):
    """Nobody said where the brokers are, or which topics hold usage."""

    code = "kafka_not_configured"


class KafkaSettingsInvalid(CountinghouseError):
    """The settings of the Kafka client cannot be read, contradict ours, or are none it knows."""

    code = "kafka_settings_invalid"


class KafkaFailed(CountinghouseError):
    """Reading from Kafka cannot go on, for a reason that does not pass by itself."""

    code = "kafka_failed"


class KafkaPartitionUnknown(CountinghouseError):
    """The topic or its partition is not there."""

    code = "kafka_partition_unknown"


class KafkaOffsetInvalid(CountinghouseError):
    """An offset is a number from 0, `earliest`, `latest`, or a moment in ISO 8601."""

    code = "kafka_offset_invalid"


class KafkaOffsetMovedBack(CountinghouseError):
    """The offset was moved back on purpose while a reader was further on; it has to begin there anew."""

    code = "kafka_offset_moved_back"


class MeterCodeTaken(CountinghouseError):
    """Another meter has this code."""

    code = "meter_code_taken"


class MeterInvalid(CountinghouseError):
    """The meter contradicts itself."""

    code = "meter_invalid"


class MeterUnknown(CountinghouseError):
    """There is no such meter."""

    code = "meter_unknown"


class MeterVersionTooEarly(CountinghouseError):
    """A version begins after the one before it, and far enough ahead that no event from then on was counted yet."""

    code = "meter_version_too_early"


class MeterRests(CountinghouseError):
    """The meter counts nothing at present; let it count again first, so that no event falls in between."""

    code = "meter_rests"


class BackfillOpen(CountinghouseError):
    """Another back-fill of this meter waits for approval or is running; it has to end first."""

    code = "backfill_open"


class BackfillNotReadable(CountinghouseError):
    """Events of the period lie in the archive; bring their months back first."""

    code = "backfill_not_readable"


class BackfillUnknown(CountinghouseError):
    """There is no such back-fill."""

    code = "backfill_unknown"


class SubjectNameInvalid(CountinghouseError):
    """A subject's name is one to 200 printable characters."""

    code = "subject_name_invalid"


class SubjectAlreadyAssigned(CountinghouseError):
    """The subject belongs to a customer at that time already."""

    code = "subject_already_assigned"


class AssignmentEndsEarlier(CountinghouseError):
    """The assignment ends before that already; for the time after it, assign the subject anew."""

    code = "assignment_ends_earlier"


class AssignmentPeriodEmpty(CountinghouseError):
    """The assignment ends before it starts."""

    code = "assignment_period_empty"


class DiscardNeedsReason(CountinghouseError):
    """Events are discarded for a reason, and it was not given."""

    code = "discard_needs_reason"


class WindowNotOnTheHour(CountinghouseError):
    """Usage is added up by hours of UTC, and this window starts or ends within one."""

    code = "window_not_on_the_hour"


class ControlTotalsInvalid(CountinghouseError):
    """A statement of what was sent contradicts itself, or names what is not there; none of them was kept."""

    code = "control_totals_invalid"


class ControlTotalsForeign(CountinghouseError):
    """A key of one customer cannot say what a whole source sent."""

    code = "control_totals_foreign"


class FindingUnknown(CountinghouseError):
    """There is no such gap, spike or difference any more: usage has come in since."""

    code = "finding_unknown"


class MonthNotArchivable(CountinghouseError):
    """The month may not go: it is too young, has no events, or something in it waits."""

    code = "month_not_archivable"


class MonthOnHold(CountinghouseError):
    """A legal hold covers this month: it stays where it is."""

    code = "month_on_hold"


class MonthHasWaitingEvents(CountinghouseError):
    """Events of this month wait in quarantine: release or discard them first."""

    code = "month_has_waiting_events"


class MonthNotInState(CountinghouseError):
    """The month is at another step of its way into the archive or back."""

    code = "month_not_in_state"


class MonthInProgress(CountinghouseError):
    """Somebody else is at work on this month, or its table is in use; ask again in a moment."""

    code = "month_in_progress"


class MonthUnknown(CountinghouseError):
    """This month was never on its way into the archive."""

    code = "month_unknown"


class MonthChanged(CountinghouseError):
    """The month's events are not those in the file: archive the month anew."""

    code = "month_changed"


class ArchiveFileDamaged(CountinghouseError):
    """An archived file is not what was written."""

    code = "archive_file_damaged"


class LegalHoldInvalid(CountinghouseError):
    """A hold names a customer or months, and a reason."""

    code = "legal_hold_invalid"


class LegalHoldUnknown(CountinghouseError):
    """There is no such legal hold."""

    code = "legal_hold_unknown"


class ErasureInvalid(CountinghouseError):
    """An erasure names a customer, a moment that has passed, a reason and its legal basis."""

    code = "erasure_invalid"


class ErasureUnknown(CountinghouseError):
    """There is no such erasure."""

    code = "erasure_unknown"


class ErasureOpen(CountinghouseError):
    """An erasure of this customer's events waits for approval or is under way."""

    code = "erasure_open"


class ErasureWaitsForFiles(CountinghouseError):
    """Files that were uploaded before may hold events of this customer, and are neither loaded nor discarded."""

    code = "erasure_waits_for_files"


class UsageOnHold(CountinghouseError):
    """A legal hold covers usage of this customer: it is not erased."""

    code = "usage_on_hold"


class UsageFileUnknown(CountinghouseError):
    """There is no such usage file."""

    code = "usage_file_unknown"


class UsageFileNameInvalid(CountinghouseError):
    """A file's name is one to 254 printable characters."""

    code = "usage_file_name_invalid"


class UsageFileTooLarge(CountinghouseError):
    """The file is larger than this door takes."""

    code = "usage_file_too_large"


class UsageFileIncomplete(CountinghouseError):
    """Parts of the file are missing, or are not what they should be."""

    code = "usage_file_incomplete"


class UsageFileStateOther(CountinghouseError):
    """The file is in another state, which forbids this."""

    code = "usage_file_state_other"


class UsageFileNotHere(CountinghouseError):
    """The file's bytes are not kept here; load the same file again, and its loading goes on where it was."""

    code = "usage_file_not_here"


class MappingMissing(CountinghouseError):
    """A file with columns needs a mapping that says what they mean."""

    code = "mapping_missing"


class MappingUnknown(CountinghouseError):
    """There is no such mapping."""

    code = "mapping_unknown"


class MappingNameTaken(CountinghouseError):
    """Another mapping has this name."""

    code = "mapping_name_taken"


class MappingNameInvalid(CountinghouseError):
    """A mapping's name is one to 120 printable characters."""

    code = "mapping_name_invalid"


class RebuildNeedsReason(CountinghouseError):
    """Totals are made anew for a reason, and it was not given."""

    code = "rebuild_needs_reason"


class CitusMissing(CountinghouseError):
    """The database lacks the extension that spreads tables over machines."""

    code = "citus_missing"


class DistributionUnsafe(CountinghouseError):
    """A table cannot be spread without giving up its key."""

    code = "distribution_unsafe"


class UsageAskedTooLarge(CountinghouseError):
    """The answer would have more windows or rows than are given at once."""

    code = "usage_asked_too_large"


class EventsSearchedTooLong(CountinghouseError):
    """Finding these events takes too long; ask for a shorter period, or name the type, or source and id."""

    code = "events_searched_too_long"


class CursorInvalid(CountinghouseError):
    """The cursor is none that an earlier page gave."""

    code = "cursor_invalid"


class NothingToClear(CountinghouseError):
    """No waiting event fits this rule."""

    code = "nothing_to_clear"


class ClearanceUnknown(CountinghouseError):
    """There is no such clearance of the quarantine."""

    code = "clearance_unknown"


class ClearanceNotRunning(CountinghouseError):
    """The clearance has ended."""

    code = "clearance_not_running"


class CorrectionUnknown(CountinghouseError):
    """There is no such correction."""

    code = "correction_unknown"


class CorrectionNeedsReason(CountinghouseError):
    """Usage is corrected for a reason, and it was not given."""

    code = "correction_needs_reason"


class CorrectionSelectsNothing(CountinghouseError):
    """No event that counts is chosen: narrow or widen what the correction is about."""

    code = "correction_selects_nothing"


class CorrectionSelectionInvalid(CountinghouseError):
    """Some of the events that were named cannot be corrected."""

    code = "correction_selection_invalid"


class CorrectionFileInvalid(CountinghouseError):
    """The file of events to be corrected cannot be read."""

    code = "correction_file_invalid"


class CorrectionTooLarge(CountinghouseError):
    """A correction is about one million events at most; ask for several."""

    code = "correction_too_large"


class CorrectionNotDraft(CountinghouseError):
    """The correction was submitted or dropped: it is no draft any more."""

    code = "correction_not_draft"


class CorrectionNotPreviewed(CountinghouseError):
    """A correction is previewed before it is submitted."""

    code = "correction_not_previewed"


class CorrectionNotCountable(CountinghouseError):
    """What should take the place of the events could not be counted; nothing was changed."""

    code = "correction_not_countable"


class CorrectionNotStuck(CountinghouseError):
    """Only of a correction that is being applied and cannot go on can the rest be left out."""

    code = "correction_not_stuck"


class CorrectionNotApplied(CountinghouseError):
    """Only an applied correction that is no revert itself can be reverted."""

    code = "correction_not_applied"


class CorrectionAlreadyReverted(CountinghouseError):
    """This correction is reverted already, or its revert is under way."""

    code = "correction_already_reverted"
