"""Shuffled batches of a table, as programs that train read them: by the Python package of Volley, by Lance, and by WebDataset, each in its
own way. Lance and WebDataset read files of this machine, which are written when they are first needed.

| library | order | where it begins |
|---|---|---|
| Volley | parts by a seed, rows within windows of 65,536, which stream | at any row: earlier parts are not read, and less than a window is dropped |
| Lance | all rows by a seed, taken by their numbers | at any row |
| WebDataset | shards by a seed, rows by a buffer of 65,536 | at its first row: earlier ones are read and dropped |
"""

import os

import numpy

#: Rows of a batch, and rows that are shuffled together.
BATCH, WINDOW = 256, 65_536
SEED = 7
#: Rows of a shard of WebDataset.
SHARD = 10_000


def volley_batches(job, table):
    import volley
    from volley._row_streams import Order, rows_from

    db = volley.connect(job["addresses"], timeout=10)
    parts = db.partitions(job["table"])
    order = Order(shuffle=True, seed=SEED, epoch=0, window_rows=WINDOW, stream=0, streams=1)
    # With new tickets: an epoch may take longer than tickets last.
    return lambda position: rows_from(
        parts, position, BATCH, order, lambda part: db.partitions(job["table"])[part.index].scan(db)
    )


def lance_batches(job, table):
    import lance

    path = os.path.join(job["folder"], "rows.lance")
    if not os.path.exists(path):
        lance.write_dataset(table, path)
    dataset = lance.dataset(path)
    order = numpy.random.default_rng(SEED).permutation(table.num_rows)
    return lambda position: (
        dataset.take(order[at : at + BATCH].tolist()) for at in range(position, table.num_rows, BATCH)
    )


def webdataset_batches(job, table):
    import webdataset

    folder = os.path.join(job["folder"], "rows.webdataset")
    if not os.path.exists(folder):
        os.mkdir(folder)
        rows = numpy.stack([column.to_numpy() for column in table.columns], axis=1)
        with webdataset.ShardWriter(os.path.join(folder, "%06d.tar"), maxcount=SHARD, verbose=0) as writer:
            for at, row in enumerate(rows):
                writer.write({"__key__": f"{at:09}", "npy": row})
    shards = sorted(os.path.join(folder, name) for name in os.listdir(folder))

    def stream(position):
        samples = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=SEED).shuffle(WINDOW).decode()
        batch = []
        for at, (row,) in enumerate(samples.to_tuple("npy")):
            if at < position:
                continue
            batch.append(row)
            if len(batch) == BATCH:
                yield numpy.stack(batch)
                batch = []
        if batch:
            yield numpy.stack(batch)

    return stream


LIBRARIES = {"volley": volley_batches, "lance": lance_batches, "webdataset": webdataset_batches}


def train(job, table, measured):
    """Reads an epoch; or, if it begins at a later row, the first batch, as a call whose time counts."""
    stream = LIBRARIES[job["library"]](job, table)

    def resume():
        assert len(next(iter(stream(job["position"])))) == BATCH, "the first batch is not whole"
        return {"calls": 1}

    def epoch():
        rows = size = 0
        for batch in stream(0):
            rows, size = rows + len(batch), size + batch.nbytes
        assert rows == table.num_rows, f"{rows} rows were read instead of {table.num_rows}"
        return {"rows": rows, "bytes": size}

    if not job["position"]:
        return measured(epoch)
    outcome = measured(resume)
    return outcome | {"p50": outcome["seconds"], "p99": outcome["seconds"]}
