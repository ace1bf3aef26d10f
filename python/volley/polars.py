"""Polars: tables of a cluster as lazy frames.

>>> import polars as pl
>>> frame = volley.polars.scan_volley(db, "trips")
>>> frame.filter(pl.col("fare") > 10).select("id").sort("id").collect()["id"].to_list()
[2, 4]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Iterator

from ._database import command
from ._polars_filter import where_of
from ._table import _needs

if TYPE_CHECKING:
    from ._database import Database


def scan_volley(
    db: Database,
    table: str,
    *,
    version: int | None = None,
    streams: int | None = None,
    window_bytes: int | None = None,
    timeout: float | None = None,
) -> Any:
    """A ``polars.LazyFrame`` of a table. Only the columns that a query needs are read, and a limit of rows ends the read.

    Conditions that select the same rows in SQL are applied by the cluster; Polars applies the others: casts, calculations, functions,
    and comparisons of decimals, dictionaries and nested values. The frame stays at one version, the newest one by default, which can
    be read until its retention is over.
    """
    pl = _needs("polars", "scan_volley")
    register_io_source = _needs("polars.io.plugins", "scan_volley").register_io_source
    described, found = db._connection.info(command(table, {"version": version}), timeout=timeout)
    pinned, schema, fields = json.loads(described)["version"], pl.Schema(found), found.fields

    def rows(
        with_columns: list[str] | None, predicate: Any | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[Any]:
        where: str | None = None
        rest: Any | None = predicate
        if predicate is not None:
            # A limit is of the rows before the condition, so Polars applies that.
            where, rest = where_of(predicate, fields if n_rows is None else ())
        wanted = None if with_columns is None else list(with_columns)
        read = wanted
        if read is not None:
            used = [] if rest is None else rest.meta.root_names()
            # Rows without columns have no number.
            read = list(dict.fromkeys([*read, *used])) or [fields[0][0]]
        empty = pl.DataFrame(schema={name: schema[name] for name in (read or schema.names())})
        scan = db.scan(
            table,
            columns=read,
            where=where,
            version=pinned,
            limit=n_rows,
            streams=streams,
            window_bytes=window_bytes,
            timeout=timeout,
        )
        with scan:
            is_empty = True
            for batch in scan:
                frame = pl.DataFrame(batch)
                if rest is not None:
                    frame = frame.filter(rest)
                yield frame.select(wanted) if wanted and wanted != read else frame
                is_empty = False
            if is_empty:
                yield empty.select(wanted) if wanted and wanted != read else empty

    return register_io_source(rows, schema=schema, is_pure=True)
