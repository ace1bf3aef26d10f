"""Parts of a table for programs on several machines."""

from __future__ import annotations

import functools
import heapq
import json
from typing import TYPE_CHECKING, Any, Sequence

from ._table import Scan

if TYPE_CHECKING:
    from ._database import Database


class Partition:
    """A part of one version of a table. It can be pickled, and read in another process or on another machine.

    It has the addresses of the cluster and its certificates' authority, and no credentials: who reads it logs in as itself, by the
    environment (``VOLLEY_USER``, ``VOLLEY_TOKEN``, ...), or reads it by a ``Database`` of its own. A ticket is of the user who
    planned it, unless the table has ``shareable_tickets``; it lasts for the retention of the table.
    """

    #: Rows of its endpoint that are before it, and whether others may be behind it.
    _first = 0
    _is_cut = False

    def __init__(
        self, index: int, rows: int | None, plan: bytes, settings: dict[str, Any], first: int = 0, is_cut: bool = False
    ):
        #: Its place in the table.
        self.index = index
        #: How many rows it has; None is unknown.
        self.num_rows = rows
        self._plan = plan
        self._settings = settings
        self._first = first
        self._is_cut = is_cut

    def scan(self, db: Database | None = None, *, batch_rows: int | None = None, timeout: float | None = None) -> Scan:
        """Its rows, fetched while they are read."""
        if db is None:
            from ._database import settings_of

            given = {name: value for name, value in self._settings.items() if name != "cluster"}
            db = _connected(json.dumps(settings_of(self._settings["cluster"], given)))
        most = self.num_rows if self._is_cut else None
        scan = db._connection.scan(
            partition=self._plan, skip_rows=self._first, most_rows=most, batch_rows=batch_rows, timeout=timeout
        )
        return Scan(scan, timeout)

    def read(self, db: Database | None = None, *, timeout: float | None = None) -> Any:
        """Its rows, as a ``pyarrow.Table``."""
        with self.scan(db, timeout=timeout) as scan:
            return scan.to_reader().read_all()

    def __repr__(self) -> str:
        return f"<volley.Partition {self.index}, {'?' if self.num_rows is None else self.num_rows} rows>"


def pieces(rows: Sequence[int], least: int) -> list[int]:
    """Into how many pieces endpoints of so many rows are cut, to have ``least`` in all, or as many as there are rows. The pieces that
    are the largest are cut further.
    """
    counts = [1] * len(rows)
    largest: list[tuple[float, int]] = [(-count, at) for at, count in enumerate(rows) if count > 1]
    heapq.heapify(largest)
    for _ in range(least - len(rows)):
        if not largest:
            break
        at = largest[0][1]
        counts[at] += 1
        if counts[at] < rows[at]:
            heapq.heapreplace(largest, (-rows[at] / counts[at], at))
        else:
            heapq.heappop(largest)
    return counts


def partitions_of(
    found: Sequence[tuple[bytes, int | None]], min_parts: int | None, settings: dict[str, Any]
) -> list[Partition]:
    """The partitions of endpoints: each is one, or several if there are fewer than ``min_parts``."""
    if min_parts is not None and min_parts < 1:
        raise ValueError("min_parts must be at least 1")
    if min_parts is None or min_parts <= len(found):
        return [Partition(index, rows, plan, settings) for index, (plan, rows) in enumerate(found)]
    known = [rows for _, rows in found if rows is not None]
    if len(known) < len(found):
        raise ValueError(
            f"there are {len(found)} parts whose rows are not known, as with where=, so that they cannot be cut into {min_parts}: "
            "leave out min_parts, or where= and filter what is read"
        )
    parts: list[Partition] = []
    for (plan, _), rows, count in zip(found, known, pieces(known, min_parts)):
        bounds = [rows * at // count for at in range(count + 1)]
        for first, end in zip(bounds, bounds[1:]):
            parts.append(Partition(len(parts), end - first, plan, settings, first, count > 1))
    return parts


@functools.lru_cache(maxsize=8)
def _connected(settings: str) -> Database:
    """A connection that the partitions of a process share."""
    from . import _volley
    from ._database import Database, public_settings

    return Database(_volley.Connection.connect(settings), public_settings(json.loads(settings)))
