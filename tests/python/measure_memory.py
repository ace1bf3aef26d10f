"""Measures the anonymous memory of every member while a much larger table is put and read.

    VOLLEY_BIN_DIR=target/release .venv/bin/python tests/python/measure_memory.py [--gb 8] [--streams 32]

Prints, for each step, the highest RssAnon seen of each role and the limit (256 MiB and 8 MiB per open
stream); exits with 1 if any member was over it.
"""

import argparse
import concurrent.futures
import sys
import threading
import time

import numpy
import pyarrow as pa
import pyarrow.flight as flight

from cluster import Cluster, descriptor, finish

MIB = 1 << 20
COLUMNS = 64


class Watch:
    """Samples the members' anonymous memory inside a `with` block."""

    def __init__(self, cluster):
        self.cluster, self.peak, self.done = cluster, {}, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self):
        while not self.done.wait(0.1):
            for member in self.cluster.members():
                self.peak[member.name] = max(self.peak.get(member.name, 0), member.memory_anonymous())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def batch_of(rows):
    values = numpy.random.default_rng(1).random(rows)
    return pa.record_batch([pa.array(values)] * COLUMNS, names=[f"c{i}" for i in range(COLUMNS)])


def put(uri, name, batch, count):
    client = flight.connect(uri)
    writer, reader = client.do_put(descriptor(name), batch.schema)
    for _ in range(count):
        writer.write_batch(batch)
    return finish(writer, reader)


def drain(uri, ticket):
    rows = 0
    for chunk in flight.connect(uri).do_get(ticket):
        rows += chunk.data.num_rows
    return rows


def step(cluster, what, streams, work):
    begin = time.monotonic()
    with Watch(cluster) as watch:
        rows = work()
    seconds = time.monotonic() - begin
    limit = 256 * MIB + 8 * MIB * streams
    node = max(v for k, v in watch.peak.items() if k.startswith("node"))
    coordinator = max(v for k, v in watch.peak.items() if k.startswith("coordinator"))
    within = max(node, coordinator) <= limit
    size = rows * COLUMNS * 8
    print(f"{what:<44} {size / 1e9:6.2f} GB {seconds:7.1f} s {size / 1e9 / seconds:6.2f} GB/s   "
          f"node {node / MIB:5.0f} MiB  coordinator {coordinator / MIB:5.0f} MiB  limit {limit / MIB:5.0f} MiB  "
          f"{'ok' if within else 'OVER'}", flush=True)
    return within


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--gb", type=float, default=8)
    arguments.add_argument("--streams", type=int, default=32)
    asked = arguments.parse_args()
    cluster = Cluster(coordinators=1, nodes=3)
    small, large = batch_of(128), batch_of(32 * 1024)
    count = int(asked.gb * 1e9 / large.nbytes * COLUMNS) // COLUMNS
    entry = cluster.address(cluster.nodes[0])
    every = [cluster.address(node) for node in cluster.nodes]
    pool = concurrent.futures.ThreadPoolExecutor(asked.streams)
    rows = large.num_rows * count

    def put_many():
        each = int(asked.gb * 1e9 / 8 / asked.streams / (small.num_rows * COLUMNS * 8))
        jobs = [pool.submit(put, every[i % 3], f"many/{i}", small, each) for i in range(asked.streams)]
        return sum(job.result()["rows"] for job in jobs)

    def get_many():
        ticket = flight.Ticket(b'{"table": "big", "limit": %d}' % (rows // 8))
        return sum(pool.map(lambda i: drain(every[i % 3], ticket), range(asked.streams)))

    good = step(cluster, "put, 1 stream, batches of 16 MiB", 1, lambda: put(entry, "big", large, count)["rows"])
    good &= step(cluster, "get, 1 stream from a node that holds some parts", 1, lambda: drain(entry, flight.Ticket(b"big")))
    good &= step(cluster, "get, 1 stream through a coordinator", 1,
                 lambda: drain(cluster.address(cluster.coordinators[0]), flight.Ticket(b"big")))
    good &= step(cluster, f"put, {asked.streams} streams, batches of 64 KiB", asked.streams, put_many)
    good &= step(cluster, f"get, {asked.streams} streams", asked.streams, get_many)
    cluster.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
