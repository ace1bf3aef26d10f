"""The same for ``asyncio``: calls of the native client whose ends are futures of the event loop.

>>> import asyncio
>>> async def main():
...     db = await volley.aio.connect()
...     return len(await db.get("trips", where="fare > 10"))
>>> asyncio.run(main())
2
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
from typing import Any, Callable, Iterable, Sequence

from . import _volley
from ._database import ClusterStatus, _write_command, command, public_settings, settings_of
from ._errors import cancelled
from ._partitions import Partition, partitions_of
from ._sources import as_rows
from ._table import Table


# A thread of the client that is in Python while the interpreter ends would crash the process.
atexit.register(_volley.end_callbacks)


async def _call(start: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The value of a native call. If the task is cancelled, so is the call."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def done(value: Any, error: BaseException | None) -> None:
        # On a thread of the client. A loop that is closed has nobody who waits.
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    pending = start(*arguments, done=done, **options)
    try:
        return await future
    except asyncio.CancelledError:
        pending.cancel()
        raise


async def connect(cluster: str | Iterable[str] | None = None, *, timeout: float | None = None, **options: Any) -> Database:
    """As :func:`volley.connect`."""
    settings = settings_of(cluster, options)
    connection = await _call(_volley.Connection.connect, json.dumps(settings), timeout=timeout)
    return Database(connection, public_settings(settings))


class Scan:
    """As :class:`volley.Scan`, for ``async for``."""

    def __init__(self, scan: _volley.Scan, timeout: float | None):
        self._scan = scan
        self._timeout = timeout
        self._is_cancelled = False

    @property
    def schema(self) -> _volley.Schema:
        return self._scan.schema

    def __aiter__(self) -> Scan:
        return self

    async def __anext__(self) -> _volley.Batch:
        if self._is_cancelled:
            raise cancelled("a read of this scan was cancelled, and may have taken a batch with it: scan again")
        try:
            batch = await _call(self._scan.next_batch, timeout=self._timeout)
        except asyncio.CancelledError:
            self._is_cancelled = True
            raise
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def close(self) -> None:
        await _call(self._scan.close)

    async def __aenter__(self) -> Scan:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Writer:
    """As :class:`volley.Writer`, for ``async with``."""

    def __init__(self, writer: _volley.Writer, timeout: float | None):
        self._writer = writer
        self._timeout = timeout
        self.outcome: dict[str, Any] | None = None
        self._is_open = True

    async def write(self, source: Any) -> None:
        rows = as_rows(source)
        if rows is not None:
            await _call(self._writer.write, rows, timeout=self._timeout)
            return
        for one in source:
            await self.write(one)

    async def commit(self) -> dict[str, Any] | None:
        self._is_open = False
        outcome = await _call(self._writer.commit, timeout=self._timeout)
        self.outcome = None if outcome is None else json.loads(outcome)
        return self.outcome

    async def abort(self) -> None:
        self._is_open = False
        await _call(self._writer.abort)

    async def __aenter__(self) -> Writer:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            await self.abort()
        elif self._is_open:
            await self.commit()


class Database:
    """As :class:`volley.Database`, with the same names."""

    def __init__(self, connection: _volley.Connection, settings: dict[str, Any]):
        self._connection = connection
        self._settings = settings

    @property
    def address(self) -> str:
        return self._connection.address

    async def get(
        self, table: str, *, streams: int | None = None, timeout: float | None = None, **options: Any
    ) -> Table:
        request = command(table, options)
        return Table(await _call(self._connection.get, request, streams=streams, timeout=timeout))

    async def scan(
        self,
        table: str,
        *,
        ordered: bool = True,
        batch_rows: int | None = None,
        streams: int | None = None,
        window_bytes: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Scan:
        scan = await _call(
            self._connection.scan,
            command(table, options),
            ordered=ordered,
            batch_rows=batch_rows,
            streams=streams,
            window_bytes=window_bytes,
            timeout=timeout,
        )
        return Scan(scan, timeout)

    async def put(
        self, table: str, source: Any, *, streams: int | None = None, timeout: float | None = None, **options: Any
    ) -> dict[str, Any]:
        rows = as_rows(source)
        if rows is not None:
            request = _write_request(table, options)
            return json.loads(await _call(self._connection.put, request, rows, streams=streams, timeout=timeout))
        async with self.write(table, streams=streams, timeout=timeout, **options) as writer:
            await writer.write(source)
        if writer.outcome is None:
            raise ValueError("there are no rows, and no columns: put an empty table")
        return writer.outcome

    def write(
        self, table: str, *, streams: int | None = None, timeout: float | None = None, **options: Any
    ) -> Writer:
        return Writer(self._connection.writer(_write_request(table, options), streams=streams), timeout)

    async def sql(self, query: str, *, streams: int | None = None, timeout: float | None = None) -> Table:
        request = json.dumps({"sql": query})
        return Table(await _call(self._connection.get, request, streams=streams, timeout=timeout))

    async def execute(self, statement: str, *, timeout: float | None = None) -> int | None:
        return await _call(self._connection.execute, statement, timeout=timeout)

    async def partitions(
        self, table: str, *, min_parts: int | None = None, timeout: float | None = None, **options: Any
    ) -> list[Partition]:
        found = await _call(self._connection.partitions, command(table, options), timeout=timeout)
        return partitions_of(found, min_parts, self._settings)

    async def tables(self, prefix: str = "", *, timeout: float | None = None) -> list[dict[str, Any]]:
        return json.loads(await _call(self._connection.tables, prefix, timeout=timeout))

    async def info(self, table: str, *, timeout: float | None = None) -> dict[str, Any]:
        described, schema = await _call(self._connection.info, command(table, {}), timeout=timeout)
        stats = await self._action("get_stats", {"table": table}, timeout, repeatable=True)
        return stats | json.loads(described) | {"schema": schema}

    async def versions(self, table: str, *, timeout: float | None = None) -> list[dict[str, Any]]:
        return (await self._action("list_versions", {"table": table}, timeout, repeatable=True))["versions"]

    async def drop(self, table: str, *, timeout: float | None = None) -> None:
        await self._action("drop_table", {"table": table}, timeout)

    async def cluster(self, *, timeout: float | None = None) -> ClusterStatus:
        return ClusterStatus(await self._action("cluster_status", None, timeout, repeatable=True))

    async def _action(self, name: str, body: Any, timeout: float | None, repeatable: bool = False) -> Any:
        text = json.dumps(body)
        return json.loads(await _call(self._connection.action, name, text, repeatable=repeatable, timeout=timeout))


def _write_request(table: str, options: dict[str, Any]) -> str:
    names = ("mode", "shards", "shard_by", "replicas", "compression", "retention_s", "write_id")
    unknown = options.keys() - set(names)
    if unknown:
        raise TypeError(f"a put has no option {sorted(unknown)[0]!r}: there are {', '.join(names)}")
    return _write_command(table, *(options.get(name) for name in names))
