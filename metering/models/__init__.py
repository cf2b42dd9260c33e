"""How much: meters, subjects, and usage."""

from metering.models.backfills import MeterBackfill
from metering.models.clearances import QuarantineClearance
from metering.models.closing import ClosedUsage
from metering.models.completeness import Acknowledgement, ControlTotal, UsageReceipt, UsageReceiptHour
from metering.models.corrections import UsageCorrection, UsageCorrectionItem
from metering.models.files import UsageFile, UsageFileBatch, UsageFileMapping, UsageFilePart, UsageFileRefusal
from metering.models.kafka import KafkaPartition
from metering.models.meters import BY_CUSTOMER, Meter, MeterVersion
from metering.models.quarantine import QuarantinedEvent, QuarantineTally, RefusedEvent
from metering.models.retention import ArchivedBatch, ArchivedMonth, ArchivedPart, LegalHold, LegalHoldLift, UsageErasure
from metering.models.subjects import Subject, SubjectAssignment
from metering.models.usage import (
    PartKind,
    UsageAmendment,
    UsageBatch,
    UsageDelta,
    UsageEvent,
    UsageHour,
    UsageIdentity,
    UsageLevel,
    UsagePart,
    UsagePartDelta,
    UsageSeries,
)
from metering.models.usage_backfills import UsageBackfill, UsageBackfillItem, UsageBackfillRefusal

__all__ = [
    "BY_CUSTOMER",
    "Acknowledgement",
    "ArchivedBatch",
    "ArchivedMonth",
    "ArchivedPart",
    "ClosedUsage",
    "ControlTotal",
    "KafkaPartition",
    "LegalHold",
    "LegalHoldLift",
    "Meter",
    "MeterBackfill",
    "MeterVersion",
    "PartKind",
    "QuarantineClearance",
    "QuarantineTally",
    "QuarantinedEvent",
    "RefusedEvent",
    "Subject",
    "SubjectAssignment",
    "UsageAmendment",
    "UsageBackfill",
    "UsageBackfillItem",
    "UsageBackfillRefusal",
    "UsageBatch",
    "UsageCorrection",
    "UsageCorrectionItem",
    "UsageDelta",
    "UsageErasure",
    "UsageEvent",
    "UsageFile",
    "UsageFileBatch",
    "UsageFileMapping",
    "UsageFilePart",
    "UsageFileRefusal",
    "UsageHour",
    "UsageIdentity",
    "UsageLevel",
    "UsagePart",
    "UsagePartDelta",
    "UsageReceipt",
    "UsageReceiptHour",
    "UsageSeries",
]
