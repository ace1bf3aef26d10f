"""Rows in Python: tables in memory, and scans that fetch while they are read."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any, Iterator

if TYPE_CHECKING:
    from . import _volley

#: Rows that a table shows of itself.
_SHOWN = 10


def _needs(module: str, what: str) -> Any:
    """The module, which is installed only if somebody needs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(f"{what} needs {module}: pip install {module}", name=module) from missing


def schema_text(schema: _volley.Schema) -> str:
    """Names and types of columns, one a line."""
    return "\n".join(f"{name}: {kind}{'' if nullable else ' not null'}" for name, kind, nullable in schema.fields)


class Table:
    """All rows of a read. Other libraries take it as it is: it has ``__arrow_c_stream__``."""

    def __init__(self, rows: _volley.Rows):
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._rows.__arrow_c_stream__(requested_schema)

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        return self.to_arrow().__dataframe__(nan_as_null, allow_copy)

    def __len__(self) -> int:
        return self._rows.num_rows

    @property
    def num_rows(self) -> int:
        return self._rows.num_rows

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self._rows.nbytes

    @property
    def schema(self) -> _volley.Schema:
        return self._rows.schema

    @property
    def column_names(self) -> list[str]:
        return [name for name, _, _ in self._rows.schema.fields]

    def batches(self) -> list[_volley.Batch]:
        """The batches, as they came."""
        return self._rows.batches

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``."""
        return _needs("pyarrow", "to_arrow").table(self)

    def to_pandas(self, **options: Any) -> Any:
        """A ``pandas.DataFrame``; the options are those of ``pyarrow.Table.to_pandas``."""
        _needs("pandas", "to_pandas")
        return self.to_arrow().to_pandas(**options)

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``."""
        return _needs("polars", "to_polars").DataFrame(self)

    def to_duckdb(self, connection: Any = None) -> Any:
        """A relation of DuckDB, in a connection or the default one."""
        table = self.to_arrow()
        duckdb = _needs("duckdb", "to_duckdb")
        return (duckdb if connection is None else connection).from_arrow(table)

    def to_numpy(self) -> dict[str, Any]:
        """An array of NumPy for each column."""
        table = self.to_arrow()
        return {name: table[name].to_numpy() for name in table.column_names}

    def __repr__(self) -> str:
        shown = self._rows.preview(_SHOWN)
        more = f"\n({_SHOWN} of {len(self):,} rows)" if len(self) > _SHOWN else ""
        return f"{shown}{more}"

    def _repr_html_(self) -> str:
        facts = f"{len(self):,} rows, {self.nbytes:,} bytes, {len(self.column_names)} columns"
        return f"<p>{facts}</p><pre>{html.escape(self._rows.preview(_SHOWN))}</pre>"


class Scan:
    """A read whose batches are fetched while they are read, in bounded memory. Leaving it early closes its streams.

    >>> for batch in db.scan("trips"):  # doctest: +SKIP
    ...     print(batch.num_rows)
    """

    def __init__(self, scan: _volley.Scan, timeout: float | None):
        self._scan = scan
        self._timeout = timeout

    @property
    def schema(self) -> _volley.Schema:
        return self._scan.schema

    @property
    def info(self) -> dict[str, Any]:
        """The table, its version, and how many rows, bytes and endpoints are read; None is unknown."""
        return json.loads(self._scan.description)

    def __iter__(self) -> Iterator[_volley.Batch]:
        return self

    def __next__(self) -> _volley.Batch:
        batch = self._scan.next_batch(timeout=self._timeout)
        if batch is None:
            raise StopIteration
        return batch

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._scan.__arrow_c_stream__(requested_schema)

    def to_reader(self) -> Any:
        """A ``pyarrow.RecordBatchReader`` of the batches that were not read yet."""
        return _needs("pyarrow", "to_reader").RecordBatchReader.from_stream(self)

    def close(self) -> None:
        self._scan.close()

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
