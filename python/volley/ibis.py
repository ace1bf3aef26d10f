"""Ibis: tables of a cluster in its expressions, by its backend of Polars.

>>> trips = volley.ibis.connect(db, ["trips"]).table("trips")
>>> int(trips.filter(trips.fare > 10).count().execute())
2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Mapping

from ._table import _needs
from .polars import scan_volley

if TYPE_CHECKING:
    from ._database import Database


def connect(db: Database, tables: Iterable[str] | Mapping[str, str], **options: Any) -> Any:
    """A backend of Ibis with these tables; a mapping gives them other names. Options are those of :func:`volley.polars.scan_volley`.

    Expressions run in this process: of each table only the columns that they need are read, and conditions go to the cluster as those
    of ``scan_volley`` do. Each table stays at the version that it has now.
    """
    ibis = _needs("ibis", "volley.ibis")
    named = dict(tables) if isinstance(tables, Mapping) else {table: table for table in tables}
    return ibis.polars.connect({name: scan_volley(db, table, **options) for name, table in named.items()})
