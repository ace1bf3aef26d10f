"""A connection to a cluster."""

from __future__ import annotations

import json
import os
from typing import Any, Iterable, Sequence

from . import _volley
from ._errors import Error
from ._html import cluster_svg, size, table_html
from ._partitions import Partition, partitions_of
from ._progress import Progress
from ._sources import as_rows
from ._table import Scan, Table, schema_text
from ._write import Writer

_DEFAULT_CLUSTER = "grpc://127.0.0.1:8815"
#: Rows that a table shows of itself in a notebook.
_PREVIEW = 10
_TRUE = {"1", "true", "yes", "on"}


def _variable(name: str) -> str | None:
    return os.environ.get(name) or None


def settings_of(cluster: str | Iterable[str] | None, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a connection: what is given, and else the variables that ``volley`` reads, too."""
    addresses = cluster or _variable("VOLLEY_CLUSTER") or _DEFAULT_CLUSTER
    addresses = [addresses] if isinstance(addresses, str) else list(addresses)
    settings = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items()}
    for name, variable in (
        ("tls_ca", "VOLLEY_TLS_CA"),
        ("tls_cert", "VOLLEY_TLS_CLIENT_CERT"),
        ("tls_key", "VOLLEY_TLS_CLIENT_KEY"),
        ("tls_server_name", "VOLLEY_TLS_SERVER_NAME"),
        ("local", "VOLLEY_LOCAL"),
    ):
        settings[name] = settings.get(name) or _variable(variable)
    if not any(settings.get(way) for way in ("user", "token", "token_file")):
        settings["user"] = _variable("VOLLEY_USER")
        settings["token"] = _variable("VOLLEY_TOKEN")
        settings["token_file"] = _variable("VOLLEY_TOKEN_FILE")
    if settings.get("user") and settings.get("password") is None:
        settings["password"] = _variable("VOLLEY_PASSWORD")
    if settings.get("plaintext_login") is None:
        settings["plaintext_login"] = (_variable("VOLLEY_PLAINTEXT_LOGIN") or "").lower() in _TRUE
    places = settings.get("prefer") or _variable("VOLLEY_PREFER") or ""
    settings["prefer"] = places if isinstance(places, str) else ",".join(places)
    return {"addresses": addresses} | settings


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`connect` without what is secret."""
    kept = ("tls_ca", "tls_server_name", "plaintext_login", "local")
    return {"cluster": settings["addresses"]} | {name: settings[name] for name in kept}


def command(table: str, options: dict[str, Any]) -> str:
    """A request for a table, as Flight's descriptors have it."""
    columns = options.get("columns")
    if columns is not None:
        options = options | {"columns": [columns] if isinstance(columns, str) else list(columns)}
    return json.dumps({"table": table} | {name: value for name, value in options.items() if value is not None})


def connect(
    cluster: str | Iterable[str] | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    tls_server_name: str | None = None,
    plaintext_login: bool | None = None,
    local: str | None = None,
    prefer: str | Iterable[str] | None = None,
    timeout: float | None = None,
) -> Database:
    """Connects to a cluster.

    ``cluster``: the address of a member, or several, as ``"grpc+tls://host:8815"``; else ``VOLLEY_CLUSTER``, else this machine.
    What is not given comes from the variables that the command line reads: ``VOLLEY_USER``, ``VOLLEY_PASSWORD``,
    ``VOLLEY_TOKEN``, ``VOLLEY_TOKEN_FILE``, ``VOLLEY_TLS_CA``, ``VOLLEY_TLS_CLIENT_CERT``, ``VOLLEY_TLS_CLIENT_KEY``. Passwords and
    tokens go to other machines by TLS only, unless ``plaintext_login`` allows it.

    ``local``: ``"auto"``, or else ``VOLLEY_LOCAL``: tables of a node on this machine that has a local socket are its files, mapped,
    which takes neither time nor memory for their bytes. ``"never"``: all rows come as messages.
    ``prefer``: networks as ``"10.1.0.0/16"``, hosts, and ends of hosts as ``".zone-a.example"``, such as those of the program's zone;
    else ``VOLLEY_PREFER``. Nodes on this machine are read first, then these, then the others.
    """
    given = {
        "user": user,
        "password": password,
        "token": token,
        "token_file": token_file,
        "tls_ca": tls_ca,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_server_name": tls_server_name,
        "plaintext_login": plaintext_login,
        "local": local,
        "prefer": prefer,
    }
    settings = settings_of(cluster, given)
    return Database(_volley.Connection.connect(json.dumps(settings), timeout=timeout), public_settings(settings))


class Database:
    """A cluster's tables. Any number of threads may share it; a forked child connects again by itself."""

    def __init__(self, connection: _volley.Connection, settings: dict[str, Any]):
        self._connection = connection
        self._settings = settings

    @property
    def address(self) -> str:
        """The member that it uses."""
        return self._connection.address

    @property
    def local_reads(self) -> dict[str, Any]:
        """What came of the reads that nodes on this machine offered by files, since the connection was made.

        ``endpoints`` and ``rows`` that were read so, and under ``fallbacks`` how many endpoints came as messages, by reason.
        """
        endpoints, rows, fallbacks = self._connection.local_reads
        return {"endpoints": endpoints, "rows": rows, "fallbacks": fallbacks}

    def get(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
        limit: int | None = None,
        streams: int | None = None,
        progress: bool = False,
        timeout: float | None = None,
    ) -> Table:
        """All rows of a table, or of some columns, or those for which a condition of SQL is true.

        >>> db.get("trips", columns=["id"], where="fare > 10").to_arrow().to_pylist()
        [{'id': 2}, {'id': 4}]
        """
        options = {"columns": columns, "where": where, "version": version, "limit": limit}
        with Progress(progress, table) as shown:
            rows = self._connection.get(command(table, options), streams=streams, counter=shown.counter, timeout=timeout)
        return Table(rows)

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
        limit: int | None = None,
        ordered: bool = True,
        batch_rows: int | None = None,
        streams: int | None = None,
        window_bytes: int | None = None,
        timeout: float | None = None,
    ) -> Scan:
        """The same rows, fetched while they are read: about ``window_bytes`` (32 MiB) wait for the reader.

        ``ordered``: in the order of the table, if it has one; without it rows come as they arrive. ``timeout``: for each batch.
        """
        options = {"columns": columns, "where": where, "version": version, "limit": limit}
        scan = self._connection.scan(
            command(table, options),
            ordered=ordered,
            batch_rows=batch_rows,
            streams=streams,
            window_bytes=window_bytes,
            timeout=timeout,
        )
        return Scan(scan, timeout)

    def put(
        self,
        table: str,
        source: Any,
        *,
        mode: str | None = None,
        shards: int | None = None,
        shard_by: Sequence[str] | None = None,
        replicas: int | None = None,
        compression: str | None = None,
        retention_s: int | None = None,
        write_id: str | None = None,
        streams: int | None = None,
        progress: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Puts rows as one atomic write. Returns its version, rows and bytes.

        ``source``: a frame of pandas or Polars, a table, reader or dataset of pyarrow, a relation of DuckDB, a dict of columns, a
        path or pattern of Parquet, CSV, JSON or Arrow files, whatever has ``__arrow_c_stream__``; or a series of such.
        ``mode``: replace (the default), create, append, create_append. Rows of a table with ``shard_by`` go to several nodes at once.

        >>> db.put("trips", {"id": [5, 6], "fare": [7.0, 8.0]}, mode="append", progress=True)["rows"]
        2
        """
        request = _write_command(
            table, mode, shards, shard_by, replicas, compression, retention_s, write_id
        )
        with Progress(progress, table) as shown:
            rows = as_rows(source)
            if rows is not None:
                outcome = self._connection.put(request, rows, streams=streams, counter=shown.counter, timeout=timeout)
                return json.loads(outcome)
            writer = Writer(self._connection.writer(request, streams=streams, counter=shown.counter), timeout)
            with writer:
                writer.write(source)
        if writer.outcome is None:
            raise ValueError("there are no rows, and no columns: put an empty table")
        return writer.outcome

    def write(
        self,
        table: str,
        *,
        mode: str | None = None,
        shards: int | None = None,
        shard_by: Sequence[str] | None = None,
        replicas: int | None = None,
        compression: str | None = None,
        retention_s: int | None = None,
        write_id: str | None = None,
        streams: int | None = None,
        timeout: float | None = None,
    ) -> Writer:
        """One atomic write from a loop; see :class:`Writer`."""
        request = _write_command(
            table, mode, shards, shard_by, replicas, compression, retention_s, write_id
        )
        return Writer(self._connection.writer(request, streams=streams), timeout)

    def sql(self, query: str, *, streams: int | None = None, timeout: float | None = None) -> Table:
        """The rows of a query.

        >>> db.sql("SELECT count(*) AS n, max(fare) AS most FROM trips").to_arrow().to_pylist()
        [{'n': 4, 'most': 20.0}]
        """
        return Table(self._connection.get(json.dumps({"sql": query}), streams=streams, timeout=timeout))

    def execute(self, statement: str, *, timeout: float | None = None) -> int | None:
        """Executes a statement of SQL that changes tables. Returns how many rows it has written, if that is known."""
        return self._connection.execute(statement, timeout=timeout)

    def partitions(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
        min_parts: int | None = None,
        timeout: float | None = None,
    ) -> list[Partition]:
        """Parts of one version of a table, for several processes or machines; see :class:`Partition`.

        ``min_parts``: so many at least, if the table has as many rows. The cluster stores a table as some parts; if these are fewer,
        each is cut into ranges of rows here. A range fetches the rows of its part that are before it, too, and drops them: put a table
        with more ``shards`` if it is always read by many.

        >>> [part.num_rows for part in db.partitions("trips", min_parts=3)]
        [1, 1, 2]
        """
        options = {"columns": columns, "where": where, "version": version}
        found = self._connection.partitions(command(table, options), timeout=timeout)
        return partitions_of(found, min_parts, self._settings)

    def tables(self, prefix: str = "", *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The tables whose names begin with ``prefix``: name, version, rows, bytes."""
        return json.loads(self._connection.tables(prefix, timeout=timeout))

    def info(self, table: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Version, rows, bytes and order of a table, its columns, and its options."""
        described, schema = self._connection.info(command(table, {}), timeout=timeout)
        stats = self._action("get_stats", {"table": table}, timeout, repeatable=True)
        return stats | json.loads(described) | {"schema": schema}

    def versions(self, table: str, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The versions of a table that can be read."""
        return self._action("list_versions", {"table": table}, timeout, repeatable=True)["versions"]

    def drop(self, table: str, *, timeout: float | None = None) -> None:
        """Drops a table. Until its retention is over it can be restored."""
        self._action("drop_table", {"table": table}, timeout)

    def cluster(self, *, timeout: float | None = None) -> ClusterStatus:
        """The members of the cluster and their states."""
        return ClusterStatus(self._action("cluster_status", None, timeout, repeatable=True))

    def _action(self, name: str, body: Any, timeout: float | None, repeatable: bool = False) -> Any:
        return json.loads(self._connection.action(name, json.dumps(body), repeatable=repeatable, timeout=timeout))

    def __getitem__(self, table: str) -> TableRef:
        return TableRef(self, table)

    def __repr__(self) -> str:
        return f"<volley.Database at {self.address}>"


def _write_command(
    table: str,
    mode: str | None,
    shards: int | None,
    shard_by: Sequence[str] | None,
    replicas: int | None,
    compression: str | None,
    retention_s: int | None,
    write_id: str | None,
) -> str:
    keys = [shard_by] if isinstance(shard_by, str) else shard_by and list(shard_by)
    options = {
        "mode": mode,
        "shards": shards,
        "shard_by": keys,
        "replicas": replicas,
        "compression": compression,
        "retention_s": retention_s,
        "write_id": write_id,
    }
    return command(table, options)


class ClusterStatus(dict[str, Any]):
    """The members and their states; in a notebook a picture of them."""

    def _repr_html_(self) -> str:
        return cluster_svg(self)


class TableRef:
    """A table by its name: ``db["trips"]``."""

    def __init__(self, db: Database, name: str):
        self._db = db
        self.name = name

    @property
    def schema(self) -> _volley.Schema:
        return self._db._connection.info(command(self.name, {}))[1]

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def get(self, **options: Any) -> Table:
        """As :meth:`Database.get`."""
        return self._db.get(self.name, **options)

    def scan(self, **options: Any) -> Scan:
        """As :meth:`Database.scan`."""
        return self._db.scan(self.name, **options)

    def put(self, source: Any, **options: Any) -> dict[str, Any]:
        """As :meth:`Database.put`."""
        return self._db.put(self.name, source, **options)

    def drop(self) -> None:
        self._db.drop(self.name)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.scan().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        info = self._db.info(self.name)
        facts = f"version {info['version']}, {info['rows']} rows, {info['bytes']} bytes"
        return f"{self.name}: {facts}\n{schema_text(info['schema'])}"

    def _repr_html_(self) -> str:
        info = self._db.info(self.name)
        facts = [f"version {info['version']}", f"{info['rows']:,} rows", size(info["bytes"])]
        facts.append(f"{info['shards']} shards" + (f" by {', '.join(info['shard_by'])}" if info["shard_by"] else ""))
        try:
            preview = self.get(limit=_PREVIEW).preview()
        except Error as error:
            preview = f"its rows cannot be read: {error}"
        return table_html(self.name, facts, info["schema"].fields, preview)
