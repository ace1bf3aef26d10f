"""DuckDB: tables of a cluster in its queries.

>>> import duckdb
>>> volley.duckdb.scan(db, "trips").filter("fare > 10").order("id").fetchall()
[(2, 20.0), (4, 12.5)]
>>> connection = duckdb.connect()
>>> _ = volley.duckdb.register(connection, db, "trips", name="rides")
>>> connection.sql("SELECT count(*) FROM rides").fetchall()
[(4,)]

A table in a variable is found by its name, too:

>>> trips = db["trips"]
>>> duckdb.sql("SELECT max(fare) FROM trips").fetchall()
[(20.0,)]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

from ._database import command
from ._table import _needs

if TYPE_CHECKING:
    from ._database import Database

_dataset: Any = _needs("pyarrow.dataset", "volley.duckdb")


class _TableDataset(_dataset.Dataset):  # type: ignore[misc]
    """A table as DuckDB reads datasets: it asks for the columns of a query, and may give a condition.

    There is no dataset of pyarrow behind it: only what DuckDB uses works.
    """

    def __init__(self, db: Database, table: str, options: dict[str, Any]):
        self._db, self._table, self._read = db, table, options
        self._schema = self._now()

    def _now(self) -> Any:
        pyarrow = _needs("pyarrow", "volley.duckdb")
        options = {name: value for name, value in self._read.items() if name != "timeout"}
        schema = self._db._connection.info(command(self._table, options), timeout=self._read["timeout"])[1]
        return pyarrow.schema(schema)

    @property
    def schema(self) -> Any:
        return self._schema

    def scanner(self, columns: Sequence[str] | None = None, filter: Any | None = None, **_: Any) -> Any:
        names = self._schema.names
        wanted = names if columns is None else list(columns)
        # A condition has no list of its columns: those whose names are in its text are enough.
        text = "" if filter is None else str(filter)
        read = [name for name in names if name in wanted or (text and name in text)]
        # Rows without columns have no number.
        scan = self._db.scan(self._table, **(self._read | {"columns": read or names[:1]}))
        reader = scan.to_reader()
        expected = [self._schema.field(name) for name in (read or names[:1])]
        if [field.type for field in reader.schema] != [field.type for field in expected]:
            scan.close()
            raise ValueError(f"the columns of {self._table} have changed since it was registered: register it again")
        return _dataset.Scanner.from_batches(reader, columns=wanted, filter=filter)


def _options(
    columns: Sequence[str] | None, where: str | None, version: int | None, timeout: float | None
) -> dict[str, Any]:
    chosen = None if columns is None else list(columns)
    return {"columns": chosen, "where": where, "version": version, "timeout": timeout}


def scan(
    db: Database,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    version: int | None = None,
    timeout: float | None = None,
    connection: Any = None,
) -> Any:
    """A relation of DuckDB. Rows are read while a query runs, each time anew, and only the columns that it needs.

    ``where`` is a condition that the cluster applies; those of queries are applied by DuckDB to the rows that it reads.
    """
    duckdb = _needs("duckdb", "volley.duckdb")
    dataset = _TableDataset(db, table, _options(columns, where, version, timeout))
    return (connection or duckdb).from_arrow(dataset)


def register(
    connection: Any,
    db: Database,
    table: str,
    *,
    name: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    version: int | None = None,
    timeout: float | None = None,
) -> Any:
    """Gives a table a name in a connection of DuckDB: its own, or ``name``. Each query reads the newest version, or ``version``.

    Returns the connection. ``where`` is applied by the cluster.
    """
    return connection.register(name or table, _TableDataset(db, table, _options(columns, where, version, timeout)))
