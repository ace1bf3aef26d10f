"""Writes from a loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ._sources import as_rows

if TYPE_CHECKING:
    from . import _volley


class Writer:
    """One atomic write: what is written becomes visible together when the block ends, and not at all if it raises.

    >>> with db.write("trips", mode="append") as writer:
    ...     for number in (5, 6):
    ...         writer.write({"id": [number], "fare": [8.0]})
    >>> writer.outcome["rows"]
    2
    """

    def __init__(self, writer: _volley.Writer, timeout: float | None):
        self._writer = writer
        self._timeout = timeout
        #: The outcome: version, rows, bytes. None before the end, and if nothing was written.
        self.outcome: dict[str, Any] | None = None
        self._is_open = True

    def write(self, source: Any) -> None:
        """Adds the rows of a table, frame or batch, or of each of a series."""
        rows = as_rows(source)
        if rows is not None:
            self._writer.write(rows, timeout=self._timeout)
            return
        for one in source:
            self.write(one)

    def commit(self) -> dict[str, Any] | None:
        """Makes the rows visible. The end of the block does it, too."""
        self._is_open = False
        outcome = self._writer.commit(timeout=self._timeout)
        self.outcome = None if outcome is None else json.loads(outcome)
        return self.outcome

    def abort(self) -> None:
        """Forgets the rows."""
        self._is_open = False
        self._writer.abort()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif self._is_open:
            self.commit()
