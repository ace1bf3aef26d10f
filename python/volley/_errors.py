"""The exceptions of the package. Each is also of the built-in kind that programs catch."""

from __future__ import annotations

#: What a clause begins with that says what to do.
_VERBS = frozenset(
    "add ask begin call check choose compare create did drop fetch free give grant issue leave log make name put remove repeat "
    "replace retry run select send set shorten split start stop try upgrade use wait write".split()
)


def _remedy_of(text: str) -> str | None:
    """The clause of an error that says what to do: what follows a colon or semicolon, outside of quotes, and begins with a verb."""
    is_quoted = is_escaped = False
    for at, sign in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif sign == "\\" and is_quoted:
            is_escaped = True
        elif sign == '"':
            is_quoted = not is_quoted
        elif not is_quoted and text[at : at + 2] in (": ", "; "):
            clause = text[at + 2 :]
            if clause.split(" ", 1)[0] in _VERBS:
                return clause
    return None


class Error(Exception):
    """Any error of a cluster or of its client. Its text says what is wrong and what to do."""

    #: The code of gRPC, such as "NOT_FOUND".
    code: str = "UNKNOWN"
    #: After how many seconds a repetition may succeed; None: waiting does not help.
    retry_after: float | None = None
    #: The id of the call, by which the cluster's logs have it; the text ends with it. None: no call was made.
    request_id: str | None = None

    @property
    def remedy(self) -> str | None:
        """What to do, as the text says it; None: it says nothing about that, or not in a clause of its own."""
        text = str(self)
        suffix = f" (request {self.request_id})"
        return _remedy_of(text.removesuffix(suffix) if self.request_id else text)

    def __str__(self) -> str:
        # KeyError would show the text in quotes.
        return str(self.args[0]) if self.args else ""


class InvalidArgument(Error, ValueError):
    """A request that is wrong, whatever the state of the cluster: an option, a column, the rows of a put."""


class SchemaMismatch(InvalidArgument):
    """The rows of a put have other columns than the table, or than the rows before them; the text names the first that differs."""


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


_CODES: tuple[tuple[str, type[Error]], ...] = (
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


#: What the members, and the native client, say of rows that do not fit: gRPC has no code for it. Rows that do not fit a table for
#: which another version has other words are an InvalidArgument.
_OTHER_COLUMNS = (
    "the schema does not fit the table's",
    "the stream's schema differs from that of the streams before it",
    "the rows have other columns than those that were written first",
)


def from_code(code: int, message: str, retry_after_ms: int | None, request_id: str | None = None) -> Error:
    """The exception for an error of the native client, which calls this."""
    name, kind = _CODES[code] if 0 <= code < len(_CODES) else _CODES[2]
    if kind is InvalidArgument and any(text in message for text in _OTHER_COLUMNS):
        kind = SchemaMismatch
    error = kind(message)
    error.code = name
    error.retry_after = None if retry_after_ms is None else retry_after_ms / 1000
    error.request_id = request_id
    return error
