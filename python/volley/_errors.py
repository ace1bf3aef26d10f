"""The exceptions of the package. Each is also of the built-in kind that programs catch."""

from __future__ import annotations


class Error(Exception):
    """Any error of a cluster or of its client. Its text says what is wrong and what to do."""

    #: The code of gRPC, such as "NOT_FOUND".
    code: str = "UNKNOWN"
    #: After how many seconds a repetition may succeed; None: waiting does not help.
    retry_after: float | None = None

    def __str__(self) -> str:
        # KeyError would show the text in quotes.
        return str(self.args[0]) if self.args else ""


class InvalidArgument(Error, ValueError):
    """A request that is wrong, whatever the state of the cluster: an option, a column, the rows of a put."""


class TableNotFound(Error, KeyError):
    """There is no such table, version or ticket, or it may not be read."""


class AlreadyExists(Error, ValueError):
    """The table exists already."""


class PermissionDenied(Error, PermissionError):
    """The user lacks a right, or the ticket is another user's."""


class Unauthenticated(Error, PermissionError):
    """There is no login, or it is wrong, expired or revoked; or one side does not trust the other's certificate."""


class LimitExceeded(Error, RuntimeError):
    """A limit or quota is reached; the text names it."""


class Conflict(Error, RuntimeError):
    """Something else came first, or the state of the cluster does not allow it."""


class Timeout(Error, TimeoutError):
    """It took too long, and was cancelled."""


class Cancelled(Error, RuntimeError):
    """It was cancelled."""


class Unavailable(Error, ConnectionError):
    """No member answers. Of a put it may be unknown whether it took effect."""


class Unsupported(Error, NotImplementedError):
    """The cluster, or this client, does not support it."""


class DataLoss(Error, OSError):
    """Rows are missing, or stored bytes have changed."""


_CODES = (
    ("OK", Error),
    ("CANCELLED", Cancelled),
    ("UNKNOWN", Error),
    ("INVALID_ARGUMENT", InvalidArgument),
    ("DEADLINE_EXCEEDED", Timeout),
    ("NOT_FOUND", TableNotFound),
    ("ALREADY_EXISTS", AlreadyExists),
    ("PERMISSION_DENIED", PermissionDenied),
    ("RESOURCE_EXHAUSTED", LimitExceeded),
    ("FAILED_PRECONDITION", Conflict),
    ("ABORTED", Conflict),
    ("OUT_OF_RANGE", InvalidArgument),
    ("UNIMPLEMENTED", Unsupported),
    ("INTERNAL", Error),
    ("UNAVAILABLE", Unavailable),
    ("DATA_LOSS", DataLoss),
    ("UNAUTHENTICATED", Unauthenticated),
)


def cancelled(message: str) -> Error:
    """The exception for a call that was cancelled."""
    return from_code(1, message, None)


def from_code(code: int, message: str, retry_after_ms: int | None) -> Error:
    """The exception for an error of the native client, which calls this."""
    name, kind = _CODES[code] if 0 <= code < len(_CODES) else _CODES[2]
    error = kind(message)
    error.code = name
    error.retry_after = None if retry_after_ms is None else retry_after_ms / 1000
    return error
