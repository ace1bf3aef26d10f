"""PyTorch: a table as an iterable dataset of batches, shuffled by a seed, divided over ranks and workers, and continued exactly.

>>> dataset = volley.torch.TableDataset(db, "trips", batch_size=2, columns=["id", "fare"], shuffle=True, seed=7)
>>> loader = volley.torch.Loader(dataset)
>>> batches = iter(loader)
>>> sorted(next(batches))
['fare', 'id']
>>> state = loader.state_dict()  # with the checkpoint; later:
>>> loader.load_state_dict(state)
>>> sum(len(batch["id"]) for batch in loader)
2
"""

from __future__ import annotations

import copy
import hashlib
import json
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence

from ._database import command, connect
from ._errors import Conflict
from ._row_streams import Order, rows_from, share
from ._table import _needs

if TYPE_CHECKING:
    from ._database import Database
    from ._partitions import Partition

_torch: Any = _needs("torch", "volley.torch")
_data: Any = _needs("torch.utils.data", "volley.torch")

#: Seconds after which a part is read by a new ticket: an epoch may take longer than tickets last, which is 10 s at least.
_PLAN_AGE = 5.0
#: Rows that are shuffled together, if nothing else is said.
_WINDOW_ROWS = 65_536


def to_tensors(rows: Any) -> dict[str, Any]:
    """The columns of a ``pyarrow.Table``: numbers, truth values, and lists of a fixed number of them as tensors, others as lists.

    Numbers with nulls are refused: a tensor has none.
    """
    pyarrow = _needs("pyarrow", "volley.torch")
    return {name: _column(pyarrow, name, rows[name].combine_chunks()) for name in rows.column_names}


def _column(pyarrow: Any, name: str, values: Any) -> Any:
    if isinstance(values, pyarrow.ChunkedArray):
        values = pyarrow.concat_arrays(values.chunks) if values.num_chunks else pyarrow.array([], values.type)
    if isinstance(values, pyarrow.ExtensionArray):
        values = values.storage
    types = pyarrow.types
    items = values
    if types.is_fixed_size_list(values.type):
        items = values.flatten() if values.null_count == 0 else values
    if types.is_integer(items.type) or types.is_floating(items.type) or types.is_boolean(items.type):
        if items.null_count:
            raise ValueError(f"the column {name!r} has nulls, and tensors have none: leave them out by where=, or give transform=")
        # Tensors can be written to; rows of the network cannot.
        tensor = _torch.from_numpy(items.to_numpy(zero_copy_only=False).copy())
        return tensor if items is values else tensor.reshape(len(values), values.type.list_size)
    return values.to_pylist()


class TableDataset(_data.IterableDataset):  # type: ignore[misc]
    """Batches of one version of a table. Use it with ``DataLoader(dataset, batch_size=None)``, torchdata's ``StatefulDataLoader``,
    or :class:`Loader`, which needs no processes of workers.

    - ``shuffle``: parts in an order that seed and epoch decide, and rows within windows of ``window_rows`` rows. Rows that are put next
      to each other stay about so near: put a table in a random order once if that is not enough.
    - Ranks (of ``torch.distributed``, or ``rank`` and ``world_size``) and workers of a DataLoader read equal shares, so that all have the
      same number of batches: less than one row for each of them is left out. With ``where`` they have parts in turn, and not the same
      number of rows.
    - ``version``: the newest by default. It stays this version, which must not expire while it is read: put a table for training with a
      ``retention_s`` as long as a run, since writes and compactions replace versions.
    - ``transform``: what makes a batch of a ``pyarrow.Table``; :func:`to_tensors` by default.
    - Processes that do not fork connect again, with the credentials of their environment.
    """

    def __init__(
        self,
        db: Database,
        table: str,
        *,
        batch_size: int,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        window_rows: int = _WINDOW_ROWS,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        transform: Callable[[Any], Any] = to_tensors,
        timeout: float | None = None,
    ):
        super().__init__()
        if batch_size < 1 or window_rows < 1:
            raise ValueError("batch_size and window_rows must be at least 1")
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size belong together: give both, or none")
        self._db: Database | None = db
        self._settings, self._table, self._timeout = db._settings, table, timeout
        self._columns = None if columns is None else list(columns)
        self._where = where
        self._batch_size, self._drop_last, self._transform = batch_size, drop_last, transform
        self._shuffle, self._seed, self._window_rows = shuffle, seed, window_rows
        self._ranks = _ranks() if rank is None or world_size is None else (rank, world_size)
        options = {"columns": self._columns, "where": where, "version": version}
        described, _ = db._connection.info(command(table, options), timeout=timeout)
        #: The version of the table that is read.
        self.version: int = json.loads(described)["version"]
        self._epoch = self._position = self._begin = 0
        self._shape = _fingerprint(self._plan())

    def _plan(self) -> list[Partition]:
        """The parts, with tickets that have just been made."""
        if self._db is None:
            self._db = connect(**self._settings)
        return self._db.partitions(
            self._table, columns=self._columns, where=self._where, version=self.version, timeout=self._timeout
        )

    def _known_plan(self) -> list[Partition]:
        """The same parts, with new tickets."""
        parts = self._plan()
        if _fingerprint(parts) != self._shape:
            raise Conflict(
                f"version {self.version} of {self._table} has other parts than this dataset began with: the table was dropped and "
                "made again; begin with a new dataset"
            )
        return parts

    def _order(self) -> Order:
        worker = _data.get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        (rank, ranks), epoch = self._ranks, self._epoch
        stream, streams = rank * workers + number, ranks * workers
        return Order(self._shuffle, self._seed, epoch, self._window_rows, stream, streams)

    def __iter__(self) -> Iterator[Any]:
        parts, order = self._known_plan(), self._order()
        planned = time.monotonic()

        def scan(part: Partition) -> Any:
            nonlocal parts, planned
            if time.monotonic() - planned > _PLAN_AGE:
                parts, planned = self._known_plan(), time.monotonic()
            return parts[part.index].scan(self._db, timeout=self._timeout)

        # Only a state that was loaded begins elsewhere than at the first row.
        self._position, self._begin = self._begin, 0
        for rows in rows_from(parts, self._position, self._batch_size, order, scan):
            if rows.num_rows < self._batch_size and self._drop_last:
                break
            # The state after a batch is that of its receiver.
            self._position += rows.num_rows
            yield self._transform(rows)
        self._epoch, self._position = self._epoch + 1, 0

    def __len__(self) -> int:
        """The batches of a stream, if the rows of the parts are known."""
        _, _, rows = share([part.num_rows for part in self._plan()], self._order())
        if rows is None:
            raise TypeError("the number of rows is not known, as with where=")
        return rows // self._batch_size if self._drop_last else -(-rows // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is of this epoch. Without it each iteration to the end is followed by the next epoch, except in
        processes of workers, which begin with the epoch of the dataset that they were made from.
        """
        self._epoch, self._begin, self._position = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the current iteration is, of this stream. It is small, and can be stored as JSON."""
        order = self._order()
        return {
            "table": self._table,
            "version": self.version,
            "parts": self._shape,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "window_rows": self._window_rows,
            "stream": order.stream,
            "streams": order.streams,
            "epoch": self._epoch,
            "position": self._position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration continues there, with the very rows that are left. The dataset must be as it was: the same version of the
        same table, seed, window and number of streams.
        """
        own = self.state_dict()
        for name in own:
            if name not in ("epoch", "position") and own[name] != state.get(name):
                raise Conflict(
                    f"the state is of a dataset with {name} {state.get(name)!r}, not {own[name]!r}: make the dataset as it was, "
                    "also with its version="
                )
        self._epoch, self._position, self._begin = state["epoch"], state["position"], state["position"]

    def __getstate__(self) -> dict[str, Any]:
        # Another process connects by itself.
        return self.__dict__ | {"_db": None}


class Loader:
    """Batches of a dataset, read by a thread while the program works: the client decodes outside of the interpreter's lock.

    ``prefetch`` batches wait. The state is that of the batches that were delivered, not of those that wait.
    """

    def __init__(self, dataset: TableDataset, *, prefetch: int = 2):
        self._dataset = dataset
        self._prefetch = max(prefetch, 1)
        self._state = dataset.state_dict()

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        items: queue.SimpleQueue[tuple[str, Any, dict[str, Any]]] = queue.SimpleQueue()
        # One batch may wait before the reader does.
        slots, is_closed = threading.Semaphore(self._prefetch - 1), threading.Event()
        # Its own, so that an iteration that was left and not ended yet changes nothing.
        dataset = copy.copy(self._dataset)
        dataset._db = self._dataset._db
        dataset.load_state_dict(self._state)

        def read() -> None:
            batches = iter(dataset)
            try:
                for batch in batches:
                    items.put(("batch", batch, dataset.state_dict()))
                    slots.acquire()
                    if is_closed.is_set():
                        return
                items.put(("end", None, dataset.state_dict()))
            except BaseException as error:  # It is raised where the batches are read.
                items.put(("error", error, {}))
            finally:
                batches.close()  # type: ignore[attr-defined]

        thread = threading.Thread(target=read, name="volley-loader", daemon=True)
        thread.start()
        try:
            while True:
                kind, item, state = items.get()
                if kind == "error":
                    raise item
                self._state = state
                if kind == "end":
                    return
                slots.release()
                yield item
        finally:
            is_closed.set()
            slots.release()
            thread.join()

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`TableDataset.set_epoch`."""
        self._dataset.set_epoch(epoch)
        self._state = self._dataset.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Where the program is; see :meth:`TableDataset.state_dict`."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`TableDataset.load_state_dict`."""
        self._dataset.load_state_dict(state)
        self._state = dict(state)


def _ranks() -> tuple[int, int]:
    distributed = _torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _fingerprint(parts: Sequence[Partition]) -> str:
    """How many rows the parts have: the places of rows depend on it."""
    return hashlib.sha256(json.dumps([part.num_rows for part in parts]).encode()).hexdigest()[:16]
