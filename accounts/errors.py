"""The root of every error that the house raises on purpose, and the states that this app refuses."""

from __future__ import annotations

from collections.abc import Mapping


class CountinghouseError(Exception):
    """A refused act or a state that forbids it; subclasses are named after the state that was found.

    `code` is the stable, machine-readable name that the API answers with. The message is for a person and says what
    was found and, where it helps, what to do about it. `config.errors` maps each subclass to an HTTP status.
    """

    code = "error"

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class PermissionMissing(CountinghouseError):
    """The actor lacks the permission that this act needs."""

    code = "permission_missing"


class DetailsInvalid(CountinghouseError):
    """Some of the given details are not valid; `fields` says which and why."""

    code = "details_invalid"

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self.fields = dict(fields)
        super().__init__("; ".join(f"{name}: {' '.join(texts)}" for name, texts in self.fields.items()))


class ReasonMissing(CountinghouseError):
    """This act needs a reason, and none was given."""

    code = "reason_missing"


class CustomerCodeTaken(CountinghouseError):
    """Another customer already has this customer number."""

    code = "customer_code_taken"


class CustomerUnknown(CountinghouseError):
    """There is no such customer."""

    code = "customer_unknown"


class ContactUnknown(CountinghouseError):
    """There is no such contact."""

    code = "contact_unknown"


class LegalEntityCodeTaken(CountinghouseError):
    """Another legal entity already has this code."""

    code = "legal_entity_code_taken"


class LegalEntityUnknown(CountinghouseError):
    """There is no such legal entity."""

    code = "legal_entity_unknown"


class StaffEmailTaken(CountinghouseError):
    """Another member of staff already signs in with this e-mail address."""

    code = "staff_email_taken"


class StaffUnknown(CountinghouseError):
    """There is no such member of staff."""

    code = "staff_unknown"


class OwnAccessUnchangeable(CountinghouseError):
    """Nobody changes their own roles or deactivates themselves; ask another administrator."""

    code = "own_access_unchangeable"


class ApiKeyRefused(CountinghouseError):
    """The API key does not open this door."""

    code = "api_key_refused"


class ApiKeyMissing(ApiKeyRefused):
    """No API key was sent; send it as “Authorization: Bearer ch_…”."""

    code = "api_key_missing"


class ApiKeyUnknown(ApiKeyRefused):
    """This API key is not known."""

    code = "api_key_unknown"


class ApiKeyExpired(ApiKeyRefused):
    """This API key has expired."""

    code = "api_key_expired"


class ApiKeyRevoked(ApiKeyRefused):
    """This API key has been revoked."""

    code = "api_key_revoked"


class ApiKeyOfDeactivatedCustomer(ApiKeyRefused):
    """This API key speaks for a customer who has been deactivated."""

    code = "api_key_of_deactivated_customer"


class ApiKeyScopeMissing(ApiKeyRefused):
    """This API key may not do this; it lacks the scope."""

    code = "api_key_scope_missing"


class ApprovalKindUnknown(CountinghouseError):
    """There is no such kind of approval."""

    code = "approval_kind_unknown"


class ApprovalUnknown(CountinghouseError):
    """There is no such approval request."""

    code = "approval_unknown"


class ApprovalNeedsAPerson(CountinghouseError):
    """Only a member of staff asks for an approval or decides one; a job or an API key never does."""

    code = "approval_needs_a_person"


class ApprovalAlreadyPending(CountinghouseError):
    """An approval of this is already waiting for a decision."""

    code = "approval_already_pending"


class ApprovalNotPending(CountinghouseError):
    """This request is closed; it takes no more decisions."""

    code = "approval_not_pending"


class ApprovalOfOwnRequest(CountinghouseError):
    """Nobody decides what they asked for themselves."""

    code = "approval_of_own_request"


class ApprovalAlreadyDecided(CountinghouseError):
    """You have already decided on this request, and the other way."""

    code = "approval_already_decided"


class ApprovalSubjectChanged(CountinghouseError):
    """What was to be approved has changed since it was submitted; the request is void, submit it again."""

    code = "approval_subject_changed"


class ApprovalOfAnother(CountinghouseError):
    """Only the one who asked for an approval can withdraw it."""

    code = "approval_of_another"
