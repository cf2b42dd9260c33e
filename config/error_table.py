"""Which HTTP status each named error is answered with. A test holds that none is missing.

403: asked by one who may not. 404: names something that is not there. 409: the state that was found forbids it,
later or after a change it may succeed. 422: what was sent cannot be right, however often it is sent.
"""

from collections.abc import Mapping
from http import HTTPStatus

import accounts.errors as a
from accounts.errors import CountinghouseError

_BY_STATUS: Mapping[HTTPStatus, tuple[type[CountinghouseError], ...]] = {
    HTTPStatus.UNAUTHORIZED: (a.ApiKeyRefused, a.ApiKeyMissing, a.ApiKeyUnknown, a.ApiKeyExpired, a.ApiKeyRevoked),
    HTTPStatus.FORBIDDEN: (
        a.PermissionMissing,
        a.ApiKeyScopeMissing,
        a.ApprovalNeedsAPerson,
        a.ApprovalOfOwnRequest,
        a.ApprovalOfAnother,
        a.OwnAccessUnchangeable,
    ),
    HTTPStatus.NOT_FOUND: (
        a.CustomerUnknown,
        a.ContactUnknown,
        a.LegalEntityUnknown,
        a.StaffUnknown,
        a.ApprovalKindUnknown,
        a.ApprovalUnknown,
    ),
    HTTPStatus.CONFLICT: (
        a.CustomerCodeTaken,
        a.LegalEntityCodeTaken,
        a.StaffEmailTaken,
        a.ApprovalAlreadyPending,
        a.ApprovalNotPending,
        a.ApprovalAlreadyDecided,
        a.ApprovalSubjectChanged,
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY: (a.DetailsInvalid, a.ReasonMissing),
}

STATUSES: Mapping[type, HTTPStatus] = {kind: status for status, kinds in _BY_STATUS.items() for kind in kinds}
