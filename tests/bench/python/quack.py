"""DuckDB's Quack: a server of one table, and a reader, where the packages of requirements.txt are installed."""

import importlib.util
import pathlib

TOKEN = "volley-bench-token"
#: The extensions, in the order in which they are loaded: Quack sends by HTTP.
EXTENSIONS = ("httpfs", "quack")


def files():
    """The files of the extensions; none if a package is missing."""
    found = []
    for name in EXTENSIONS:
        package = importlib.util.find_spec(f"duckdb_extension_{name}")
        if package is None or not package.submodule_search_locations:
            return None
        folders = [pathlib.Path(folder) for folder in package.submodule_search_locations]
        found.extend(sorted(path for folder in folders for path in folder.rglob(f"{name}.duckdb_extension"))[-1:])
    return found if len(found) == len(EXTENSIONS) else None


def connect():
    """A database in memory with the extensions; none without the packages."""
    if importlib.util.find_spec("duckdb") is None or (paths := files()) is None:
        return None
    import duckdb

    db = duckdb.connect()
    for path in paths:
        db.execute(f"LOAD '{path}'")
    return db


def serve(table, host, port):
    """Serves `table`, which becomes DuckDB's own; its address and the database that serves it, or none."""
    db = connect()
    if db is None:
        return None
    db.register("arrow_table", table)
    db.execute("CREATE TABLE served AS SELECT * FROM arrow_table")
    db.unregister("arrow_table")
    uri = f"quack:{host}:{port}"
    db.execute(f"CALL quack_serve('{uri}', token => '{TOKEN}', disable_ssl => true)")
    return uri, db


def read(db, uri):
    """All rows, as a table of Arrow."""
    query = f"SELECT * FROM quack_query('{uri}', 'SELECT * FROM served', token => '{TOKEN}', disable_ssl => true)"
    return db.execute(query).to_arrow_table()
