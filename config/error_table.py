"""Which HTTP status each named error is answered with. A test holds that none is missing.

401: the key opens nothing. 403: asked by one who may not. 404: names something that is not there. 409: the state that
was found forbids it; after a change it may succeed. 413: too much at once. 415: in a form that is not read. 422: what
was sent cannot be right, however often it is sent. 429: too much at the moment.
"""

from collections.abc import Mapping
from http import HTTPStatus

from accounts import errors as accounts
from accounts import periods
from accounts.errors import CountinghouseError
from billing import errors as billing
from billing import pdf_data
from metering import errors as metering
from metering.sources import mapping, rows
from pricing import calculator, charges, money
from pricing import errors as pricing
from pricing.rating import engine, spec

_FORBIDDEN: tuple[type[CountinghouseError], ...] = (
    accounts.PermissionMissing,
    accounts.ApiKeyOfDeactivatedCustomer,
    accounts.ApiKeyScopeMissing,
    accounts.ApprovalNeedsAPerson,
    accounts.ApprovalOfOwnRequest,
    accounts.ApprovalOfAnother,
    accounts.OwnAccessUnchangeable,
    metering.ControlTotalsForeign,
)
_NOT_FOUND: tuple[type[CountinghouseError], ...] = (
    accounts.CustomerUnknown,
    accounts.ContactUnknown,
    accounts.LegalEntityUnknown,
    accounts.StaffUnknown,
    accounts.ApprovalKindUnknown,
    accounts.ApprovalUnknown,
    metering.FindingUnknown,
    metering.MeterUnknown,
    metering.KafkaPartitionUnknown,
    metering.MonthUnknown,
    metering.LegalHoldUnknown,
    metering.ErasureUnknown,
    metering.UsageFileUnknown,
    metering.MappingUnknown,
    pricing.ProductUnknown,
    pricing.PriceBookUnknown,
    pricing.VersionUnknown,
    pricing.ContractPartyUnknown,
    pricing.ContractUnknown,
    billing.BillRunUnknown,
    billing.InvoiceUnknown,
)
_CONFLICT: tuple[type[CountinghouseError], ...] = (
    accounts.CustomerCodeTaken,
    accounts.LegalEntityCodeTaken,
    accounts.StaffEmailTaken,
    accounts.ApprovalAlreadyPending,
    accounts.ApprovalNotPending,
    accounts.ApprovalAlreadyDecided,
    accounts.ApprovalSubjectChanged,
    metering.MeterCodeTaken,
    metering.SubjectAlreadyAssigned,
    metering.AssignmentEndsEarlier,
    metering.KafkaFailed,
    metering.KafkaOffsetMovedBack,
    metering.MonthNotArchivable,
    metering.MonthOnHold,
    metering.MonthHasWaitingEvents,
    metering.MonthNotInState,
    metering.MonthInProgress,
    metering.MonthChanged,
    metering.ArchiveFileDamaged,
    metering.ErasureOpen,
    metering.UsageOnHold,
    metering.UsageFileStateOther,
    metering.UsageFileNotHere,
    metering.MappingNameTaken,
    pricing.ProductCodeTaken,
    pricing.ProductUsageFrozen,
    pricing.PriceBookCodeTaken,
    pricing.VersionInReview,
    pricing.VersionNotDraft,
    pricing.VersionNotInReview,
    pricing.VersionEmpty,
    pricing.VersionAmbiguous,
    pricing.VersionContentChanged,
    pricing.ContractOverlaps,
    pricing.CustomerDeactivated,
    charges.PricesOverlap,
    charges.UsageUnpriced,
    billing.PeriodNotOver,
    billing.NoContractsInMonth,
    billing.OtherRunOpen,
    billing.BillRunNotDraft,
    billing.BillRunNotApproved,
    billing.BillRunUnfinished,
    billing.BillRunEmpty,
    billing.BillRunPartlyIssued,
    billing.NoApprovedPrices,
    billing.InvoiceTotalNegative,
    billing.InvoiceTotalAbsurd,
    billing.IssueDateGoesBack,
    billing.InvoiceNotApproved,
    billing.InvoiceNotIssued,
    billing.InvoiceHasNoRecipient,
    billing.InvoiceNotIssuable,
    billing.EntryReversed,
    billing.DocumentNotMade,
    pdf_data.CharactersUnprintable,
)
_UNPROCESSABLE: tuple[type[CountinghouseError], ...] = (
    accounts.DetailsInvalid,
    accounts.ReasonMissing,
    metering.MeterInvalid,
    metering.MeterVersionTooEarly,
    metering.SubjectNameInvalid,
    metering.AssignmentPeriodEmpty,
    metering.DiscardNeedsReason,
    metering.RebuildNeedsReason,
    metering.KafkaNotConfigured,
    metering.KafkaOffsetInvalid,
    metering.KafkaSettingsInvalid,
    metering.LegalHoldInvalid,
    metering.ErasureInvalid,
    metering.WindowNotOnTheHour,
    metering.ControlTotalsInvalid,
    metering.UsageFileNameInvalid,
    metering.UsageFileIncomplete,
    metering.MappingMissing,
    metering.MappingNameInvalid,
    mapping.MappingInvalid,
    rows.UsageFileUnreadable,
    pricing.ProductInvalid,
    pricing.ProductTakesNoUsage,
    pricing.PriceBookInvalid,
    pricing.EffectiveFromInvalid,
    pricing.PriceFileInvalid,
    pricing.ContractCurrencyDiffers,
    pricing.ContractDatesInvalid,
    calculator.QuestionInvalid,
    spec.PriceInvalid,
    engine.QuantityNegative,
    money.CurrencyUnknown,
    money.DecimalInvalid,
    money.AmountTooFine,
    money.WeightsInvalid,
    money.LocaleUnknown,
    periods.PeriodInvalid,
    periods.MonthInvalid,
    periods.AnchorDayInvalid,
    periods.TimeZoneUnknown,
)
_BY_STATUS: Mapping[HTTPStatus, tuple[type[CountinghouseError], ...]] = {
    HTTPStatus.BAD_REQUEST: (metering.BodyNotJson, metering.BodyNotEvents, metering.BodyNotGzip),
    HTTPStatus.UNAUTHORIZED: (
        accounts.ApiKeyRefused,
        accounts.ApiKeyMissing,
        accounts.ApiKeyUnknown,
        accounts.ApiKeyExpired,
        accounts.ApiKeyRevoked,
    ),
    HTTPStatus.FORBIDDEN: _FORBIDDEN,
    HTTPStatus.NOT_FOUND: _NOT_FOUND,
    HTTPStatus.CONFLICT: _CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        metering.BodyTooLarge,
        metering.BodyTooComplex,
        metering.TooManyEvents,
        metering.UsageFileTooLarge,
    ),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (metering.BodyTypeUnknown, metering.BodyEncodingUnknown),
    HTTPStatus.TOO_MANY_REQUESTS: (
        metering.IngestOverloaded,
        metering.IngestBusy,
        metering.FoldBacklogFull,
        metering.IngestTimedOut,
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY: _UNPROCESSABLE,
}

STATUSES: Mapping[type, HTTPStatus] = {kind: status for status, kinds in _BY_STATUS.items() for kind in kinds}
