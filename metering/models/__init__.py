"""How much: meters, subjects, and usage."""

from metering.models.completeness import Acknowledgement, ControlTotal, UsageReceipt, UsageReceiptHour
from metering.models.meters import Meter
from metering.models.quarantine import QuarantinedEvent, RefusedEvent
from metering.models.subjects import Subject, SubjectAssignment
from metering.models.usage import UsageBatch, UsageDelta, UsageEvent, UsageHour, UsageIdentity, UsageSeries

__all__ = [
    "Acknowledgement",
    "ControlTotal",
    "Meter",
    "QuarantinedEvent",
    "RefusedEvent",
    "Subject",
    "SubjectAssignment",
    "UsageBatch",
    "UsageDelta",
    "UsageEvent",
    "UsageHour",
    "UsageIdentity",
    "UsageReceipt",
    "UsageReceiptHour",
    "UsageSeries",
]
