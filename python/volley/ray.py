"""Ray: tables of a cluster as datasets of Ray Data, and datasets as writes.

>>> dataset = volley.ray.read(db, "trips", where="fare > 10")  # doctest: +SKIP
>>> dataset.count()  # doctest: +SKIP
2
>>> volley.ray.write(db, "rides", dataset)["rows"]  # doctest: +SKIP
2
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from ._database import command
from ._partitions import Partition
from ._table import _needs

if TYPE_CHECKING:
    from ._database import Database

_datasource: Any = _needs("ray.data.datasource", "volley.ray")
_block: Any = _needs("ray.data.block", "volley.ray")


def _read_parts(parts: Sequence[Partition], schema: Any) -> Iterator[Any]:
    """The rows of parts as blocks. It runs in a worker of Ray."""
    import pyarrow

    is_empty = True
    for part in parts:
        with part.scan() as scan:
            for batch in scan:
                is_empty = False
                yield pyarrow.Table.from_batches([pyarrow.record_batch(batch)])
    if is_empty:
        yield schema.empty_table()


class VolleyDatasource(_datasource.Datasource):  # type: ignore[misc]
    """One version of a table. Workers read its parts from the nodes that have them, as themselves: with the credentials of their
    environment (``VOLLEY_USER``, ``VOLLEY_TOKEN``, ...).
    """

    def __init__(
        self,
        db: Database,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ):
        super().__init__()
        chosen = None if columns is None else list(columns)
        options: dict[str, Any] = {"columns": chosen, "where": where, "version": version}
        described, schema = db._connection.info(command(table, options), timeout=timeout)
        facts = json.loads(described)
        options["version"] = facts["version"]
        self._schema = _needs("pyarrow", "volley.ray").schema(schema)
        self._bytes: int | None = facts["bytes"]
        self._parts = db.partitions(table, timeout=timeout, **options)

    def get_name(self) -> str:
        return "Volley"

    def estimate_inmemory_data_size(self) -> int | None:
        """The bytes of the table; None is unknown."""
        return self._bytes

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[Any]:
        """A task for each part, or for several neighbours where there are more parts than tasks."""
        count = max(1, min(parallelism, len(self._parts)))
        tasks = []
        for at in range(count):
            parts = self._parts[at * len(self._parts) // count : (at + 1) * len(self._parts) // count]
            known = [part.num_rows for part in parts if part.num_rows is not None]
            rows = sum(known) if len(known) == len(parts) else None
            size = None if self._bytes is None else self._bytes // count
            metadata = _block.BlockMetadata(num_rows=rows, size_bytes=size, input_files=None, exec_stats=None)
            read = functools.partial(_read_parts, parts, self._schema)
            tasks.append(
                _datasource.ReadTask(read, metadata, schema=self._schema, per_task_row_limit=per_task_row_limit)
            )
        return tasks


def read(db: Database, table: str, *, override_num_blocks: int | None = None, **options: Any) -> Any:
    """A ``ray.data.Dataset`` of one version of a table; options are those of :class:`VolleyDatasource`."""
    data = _needs("ray.data", "volley.ray")
    return data.read_datasource(VolleyDatasource(db, table, **options), override_num_blocks=override_num_blocks)


def write(db: Database, table: str, dataset: Any, **options: Any) -> dict[str, Any]:
    """Runs a ``ray.data.Dataset``, and puts its rows as one atomic write; options are those of :meth:`volley.Database.write`.

    Rows stream through this process, block by block, so that a task that Ray runs twice adds its rows once. If a task fails for good,
    or a block has other columns than the first one, nothing is written.
    """
    with db.write(table, **options) as writer:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            # Metadata of pandas has the number of rows.
            writer.write(block.replace_schema_metadata(None))
    if writer.outcome is None:
        raise ValueError("the dataset has no blocks, and no columns: put an empty table")
    return writer.outcome
