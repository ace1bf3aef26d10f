"""Dask: tables of a cluster as data frames of partitions.

>>> frame = volley.dask.read(db, "trips", columns=["id", "fare"])
>>> float(frame["fare"].max().compute())
20.0
>>> volley.dask.write(db, "rides", frame)["rows"]
4
>>> db.drop("rides")
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Sequence

from ._database import command
from ._partitions import Partition
from ._table import _needs

if TYPE_CHECKING:
    from ._database import Database


def read(
    db: Database,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    version: int | None = None,
    timeout: float | None = None,
) -> Any:
    """A ``dask.dataframe.DataFrame`` of one version of a table, with a partition for each part.

    Each worker reads the parts that it computes from the nodes that have them, as itself: with the credentials of its environment
    (``VOLLEY_USER``, ``VOLLEY_TOKEN``, ...). Name the columns here: a selection on the frame is applied after the read. Integers have
    the types of pandas that can be null (``Int64``, ...): as floating-point numbers, large ones would change.
    """
    dataframe = _needs("dask.dataframe", "volley.dask")
    pyarrow = _needs("pyarrow", "volley.dask")
    chosen = None if columns is None else list(columns)
    options: dict[str, Any] = {"columns": chosen, "where": where, "version": version}
    described, schema = db._connection.info(command(table, options), timeout=timeout)
    options["version"] = json.loads(described)["version"]
    meta = pyarrow.schema(schema).empty_table().to_pandas(types_mapper=_nullable_type)
    parts = db.partitions(table, timeout=timeout, **options)
    if not parts:
        return dataframe.from_pandas(meta, npartitions=1)
    return dataframe.from_map(_read_part, parts, meta=meta)


def _read_part(part: Partition) -> Any:
    return part.read().to_pandas(types_mapper=_nullable_type)


def _nullable_type(kind: Any) -> Any:
    """The type of pandas for integers; None for all others, which pandas can have with nulls."""
    import pandas
    import pyarrow

    if not pyarrow.types.is_integer(kind):
        return None
    return getattr(pandas, f"{'U' if pyarrow.types.is_unsigned_integer(kind) else ''}Int{kind.bit_width}Dtype")()


def write(db: Database, table: str, frame: Any, *, schema: Any = None, **options: Any) -> dict[str, Any]:
    """Computes a frame of Dask, and puts its rows as one atomic write; options are those of :meth:`volley.Database.write`.

    Rows go through this process, so that a task that Dask runs twice adds its rows once. With a distributed scheduler partitions keep
    their order; threads of this process add them as they are done. ``schema``: the ``pyarrow.Schema`` of the rows, else that of the
    first partition that is done; the others must fit it, and if one does not, nothing is written. The index is left out.
    """
    pyarrow = _needs("pyarrow", "volley.dask")
    found: list[Any] = [schema]
    empty: list[Any] = []
    lock = threading.Lock()

    def put(rows: Any) -> None:
        for name in rows.columns if found[0] is not None else ():
            if str(name) not in found[0].names:
                raise ValueError(f"the schema has no column {name!r}: add it to schema=, or leave it out of the frame")
        converted = pyarrow.Table.from_pandas(rows, schema=found[0], preserve_index=False)
        found[0] = converted.schema.remove_metadata()
        writer.write(converted.replace_schema_metadata(None))

    def add(rows: Any) -> None:
        # The first rows decide the types; a partition without rows does not know them.
        with lock:
            if found[0] is None and not len(rows):
                empty.append(rows)
            else:
                put(rows)

    delayed = frame.to_delayed()
    client = _distributed_client()
    with db.write(table, **options) as writer:
        if client is None:
            dask = _needs("dask", "volley.dask")
            dask.compute(*[dask.delayed(add, pure=False)(part) for part in delayed], scheduler="threads")
        else:
            futures = client.compute(delayed)
            for at, future in enumerate(futures):
                add(future.result())
                # The cluster need not keep what is written.
                futures[at] = None
                del future
        if found[0] is None and empty:
            put(empty[0])
    if writer.outcome is None:
        raise ValueError("the frame has no partitions")
    return writer.outcome


def _distributed_client() -> Any:
    """The client of a distributed scheduler, if there is one."""
    try:
        from distributed import get_client

        return get_client()
    except (ImportError, ValueError):
        return None
