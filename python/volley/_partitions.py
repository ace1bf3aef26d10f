"""Parts of a table for programs on several machines."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from ._table import Scan

if TYPE_CHECKING:
    from ._database import Database


class Partition:
    """A part of one version of a table. It can be pickled, and read in another process or on another machine.

    It has the addresses of the cluster and its certificates' authority, and no credentials: who reads it logs in as itself, by the
    environment (``VOLLEY_USER``, ``VOLLEY_TOKEN``, ...), or reads it by a ``Database`` of its own. A ticket is of the user who
    planned it, unless the table has ``shareable_tickets``; it lasts for the retention of the table.
    """

    def __init__(self, index: int, rows: int | None, plan: bytes, settings: dict[str, Any]):
        #: Its place in the table.
        self.index = index
        #: How many rows it has; None is unknown.
        self.num_rows = rows
        self._plan = plan
        self._settings = settings

    def scan(self, db: Database | None = None, *, batch_rows: int | None = None, timeout: float | None = None) -> Scan:
        """Its rows, fetched while they are read."""
        if db is None:
            from ._database import settings_of

            given = {name: value for name, value in self._settings.items() if name != "cluster"}
            db = _connected(json.dumps(settings_of(self._settings["cluster"], given)))
        scan = db._connection.scan(partition=self._plan, batch_rows=batch_rows, timeout=timeout)
        return Scan(scan, timeout)

    def read(self, db: Database | None = None, *, timeout: float | None = None) -> Any:
        """Its rows, as a ``pyarrow.Table``."""
        with self.scan(db, timeout=timeout) as scan:
            return scan.to_reader().read_all()

    def __repr__(self) -> str:
        return f"<volley.Partition {self.index}, {'?' if self.num_rows is None else self.num_rows} rows>"


@functools.lru_cache(maxsize=8)
def _connected(settings: str) -> Database:
    """A connection that the partitions of a process share."""
    from . import _volley
    from ._database import Database, public_settings

    return Database(_volley.Connection.connect(settings), public_settings(json.loads(settings)))
