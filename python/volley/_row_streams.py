"""The order in which programs that train read a table: shuffled by a seed, divided over streams, and continued at the row where it was
left. It needs no PyTorch.

A table's parts are put in an order: their own, or one that the seed and the epoch decide. Each stream has an equal share of the rows of
that order. With shuffling, a stream is cut into windows of some ten thousand rows, and the rows of each are put in an order that the
seed, the epoch, the stream and the number of the window decide. So a row of a stream has a place, and a stream can begin at any place:
parts before it are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, Sequence

from ._partitions import Partition


@dataclass(frozen=True)
class Order:
    """What decides the order of an epoch, and the stream that is read."""

    shuffle: bool
    seed: int
    epoch: int
    window_rows: int
    #: This stream, and how many there are.
    stream: int
    streams: int


def part_order(count: int, order: Order) -> list[int]:
    """The parts of a table in the order of an epoch; the same for all streams."""
    import numpy

    if not order.shuffle:
        return list(range(count))
    return numpy.random.default_rng([order.seed, order.epoch]).permutation(count).tolist()


def share(counts: Sequence[int | None], order: Order) -> tuple[list[int], int, int | None]:
    """What a stream reads: parts in their order, how many rows of them it passes over, and how many it reads then.

    If the rows of the parts are known, each stream has the same number; less than one row for each stream is left out. Else, as with a
    condition, streams have parts in turn, and read all of their rows: None.
    """
    parts = part_order(len(counts), order)
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return parts[order.stream :: order.streams], 0, None
    rows = sum(known) // order.streams
    return parts, order.stream * rows, rows


def _pieces(
    parts: Sequence[Partition], chosen: Sequence[int], skip: int, scan: Callable[[Partition], Any]
) -> Iterator[Any]:
    """The rows of parts, after some that are passed over, as tables of pyarrow."""
    import pyarrow

    for at in chosen:
        count = parts[at].num_rows
        if count is not None and skip >= count:
            skip -= count
            continue
        with scan(parts[at]) as batches:
            for batch in batches:
                table = pyarrow.Table.from_batches([pyarrow.record_batch(batch)])
                passed = min(skip, table.num_rows)
                skip -= passed
                if passed < table.num_rows:
                    yield table.slice(passed)


def _sized(pieces: Iterator[Any], rows: int, most: int | None) -> Iterator[Any]:
    """The same rows in tables of ``rows`` rows, the last of which may have fewer; ``most`` rows in all."""
    import pyarrow

    waiting: list[Any] = []
    count = 0
    for piece in pieces:
        if most is not None:
            piece = piece.slice(0, most)
            most -= piece.num_rows
        waiting.append(piece)
        count += piece.num_rows
        while count >= rows:
            joined = pyarrow.concat_tables(waiting)
            yield joined.slice(0, rows)
            waiting, count = [joined.slice(rows)], count - rows
        if most == 0:
            break
    if count:
        yield pyarrow.concat_tables(waiting)


def _windows(
    parts: Sequence[Partition],
    chosen: Sequence[int],
    first: int,
    rows: int | None,
    position: int,
    order: Order,
    scan: Callable[[Partition], Any],
) -> Iterator[Any]:
    """The rows of a stream from a place on, window after window, each shuffled."""
    import numpy

    number, passed = divmod(position, order.window_rows)
    begin = number * order.window_rows
    left = None if rows is None else rows - begin
    for window in _sized(_pieces(parts, chosen, first + begin, scan), order.window_rows, left):
        generator = numpy.random.default_rng([order.seed, order.epoch, order.stream, number])
        yield window.take(generator.permutation(window.num_rows)).slice(passed)
        number, passed = number + 1, 0


def rows_from(
    parts: Sequence[Partition], position: int, batch_rows: int, order: Order, scan: Callable[[Partition], Any]
) -> Iterator[Any]:
    """The rows of a stream from its row ``position`` on, as tables of ``batch_rows`` rows, the last of which may have fewer.

    ``scan`` reads a part. About a window of rows is in memory, and a batch of the network.
    """
    chosen, first, rows = share([part.num_rows for part in parts], order)
    if rows is not None and position >= rows:
        return
    if order.shuffle:
        tables = _windows(parts, chosen, first, rows, position, order, scan)
        yield from _sized(tables, batch_rows, None)
    else:
        left = None if rows is None else rows - position
        yield from _sized(_pieces(parts, chosen, first + position, scan), batch_rows, left)
