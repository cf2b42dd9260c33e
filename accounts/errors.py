"""The root of every error that the house raises on purpose."""

from __future__ import annotations


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
