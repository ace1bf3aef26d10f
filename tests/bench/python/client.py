"""A pyarrow client that runs jobs, each a line of JSON.

When a job is prepared, the client prints `{"at": "begin"}`, waits for a line, moves the data, and prints the outcome. Every job runs in a
process of its own, forked from this one: it has the libraries imported and the table to put created, and no
state of earlier jobs. Time and CPU are those of the transfer alone; a get runs three times, and the third
counts.
"""

import base64
import json
import os
import resource
import sys
import threading
import time
import urllib.request

import numpy
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pyarrow.parquet as pq

import quack
import training

# Gets before the one that counts.
WARM_UP = 2
MAX_MESSAGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Sources:
    """Tables to put, made when they are first used."""

    def __init__(self):
        self.made = {}

    def get(self, source):
        key = json.dumps(source)
        if key not in self.made:
            self.made[key] = self.make(source)
        return self.made[key]

    @staticmethod
    def make(source):
        if source["kind"] == "file":
            return pa.ipc.open_file(pa.memory_map(source["path"])).read_all()
        columns = source["columns"]
        rows = source["bytes"] // (8 * columns)
        random = numpy.random.default_rng(1)
        return pa.table({f"c{at}": random.random(rows) for at in range(columns)})


def connect(address):
    return flight.connect(f"grpc://{address}", generic_options=MAX_MESSAGE)


def measured(work):
    """What `work` returns, with its seconds and the CPU seconds of this process; waits for the start."""
    os.write(sys.stdout.fileno(), b'{"at": "begin"}\n')
    os.read(sys.stdin.fileno(), 64)
    begin, cpu = time.monotonic(), cpu_seconds()
    outcome = work()
    return outcome | {"seconds": time.monotonic() - begin, "cpu": cpu_seconds() - cpu}


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def in_threads(jobs):
    """Runs all jobs at once; returns their results in order."""
    if len(jobs) == 1:
        return [jobs[0]()]
    results = [None] * len(jobs)

    def run(at):
        try:
            results[at] = jobs[at]()
        except BaseException as error:
            results[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def action(client, call):
    return list(client.do_action(flight.Action(call["name"], json.dumps(call["body"]).encode())))


def put(job, sources):
    table, streams = sources.get(job["source"]), job["streams"]
    clients = [connect(stream["address"]) for stream in streams]
    for client in clients:
        client.wait_for_available(10)
    bounds = [table.num_rows * at // len(streams) for at in range(len(streams) + 1)]

    def one(at):
        descriptor = flight.FlightDescriptor.for_command(json.dumps(streams[at]["descriptor"]))
        writer, reader = clients[at].do_put(descriptor, table.schema)
        rows = table if len(streams) == 1 else table.slice(bounds[at], bounds[at + 1] - bounds[at])
        writer.write_table(rows, max_chunksize=job["batch_rows"])
        writer.done_writing()
        while reader.read() is not None:
            pass
        writer.close()

    def work():
        in_threads([lambda at=at: one(at) for at in range(len(streams))])
        if job["commit"]:
            action(clients[0], job["commit"])
        return {"bytes": table.nbytes, "rows": table.num_rows}

    return measured(work)


def get(job, sources):
    streams = job["streams"]
    clients = {fetch["address"]: None for stream in streams for fetch in stream}
    for address in clients:
        clients[address] = connect(address)
        clients[address].wait_for_available(10)

    def one(stream):
        tickets = [(clients[fetch["address"]], flight.Ticket(base64.b64decode(fetch["ticket"]))) for fetch in stream]
        return [client.do_get(ticket).read_all() for client, ticket in tickets]

    def all_at_once():
        return sum(in_threads([lambda stream=stream: one(stream) for stream in streams]), [])

    # The first gets are slow: memory is used for the first time, and the C library has not yet adapted its thresholds.
    for _ in range(WARM_UP):
        tables = all_at_once()
        if job["expect"]:
            check(tables, sources.get(job["expect"]), len(streams) > 1)
        tables.clear()

    def work():
        tables.extend(all_at_once())
        summed(tables, job)
        return {"bytes": sum(t.nbytes for t in tables), "rows": sum(t.num_rows for t in tables)}

    return measured(work)


def summed(tables, job):
    """The sum of a column, if the job has one, which reads all its values."""
    return sum(pc.sum(table[job["sum"]]).as_py() for table in tables) if job.get("sum") else None


def anonymous():
    """Bytes of anonymous memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


def check(tables, source, any_order):
    """The rows must be those of the put; for parallel streams only their number is compared."""
    rows = sum(t.num_rows for t in tables)
    assert rows == source.num_rows, f"{rows} rows arrived instead of {source.num_rows}"
    if not any_order:
        got = pa.concat_tables(tables)
        assert got.equals(source.select(got.column_names)), "other rows arrived than were put"


def drain(job, sources):
    """Reads all streams at once without keeping the rows."""

    def one(stream):
        rows = size = 0
        for fetch in stream:
            with connect(fetch["address"]) as client:
                for chunk in client.do_get(flight.Ticket(base64.b64decode(fetch["ticket"]))):
                    rows, size = rows + chunk.data.num_rows, size + chunk.data.nbytes
        return rows, size

    def work():
        counts = in_threads([lambda stream=stream: one(stream) for stream in job["streams"]])
        return {"rows": sum(rows for rows, _ in counts), "bytes": sum(size for _, size in counts)}

    return measured(work)


def package_put(job, sources):
    """A put by the Python package of Volley."""
    import volley

    table = pa.Table.from_batches(sources.get(job["source"]).to_batches(max_chunksize=job["batch_rows"]))
    db = volley.connect(job["addresses"], timeout=10)

    def work():
        rows = db.put(job["table"], table, **job["options"])["rows"]
        assert rows == table.num_rows, f"{rows} rows were put instead of {table.num_rows}"
        return {"bytes": table.nbytes, "rows": rows}

    return measured(work)


def package_get(job, sources):
    """A get by the Python package of Volley."""
    import volley

    db = volley.connect(job["addresses"], timeout=10, local=job["local"])
    kept = []

    def work():
        kept.append(db.get(job["table"]))
        assert len(kept[0]) == job["rows"], f"{len(kept[0])} rows arrived instead of {job['rows']}"
        if job["sum"]:
            summed([kept[0].to_arrow()], job)
        return {"rows": len(kept[0])}

    # As those of pyarrow: memory is used for the first time.
    for _ in range(WARM_UP):
        work()
        kept.clear()
    before = anonymous()
    outcome = measured(work)
    # What counts the bytes reads all of them.
    return outcome | {"anonymous": max(anonymous() - before, 0), "bytes": kept[0].nbytes}


def download(job, sources):
    """A Parquet file over HTTP, decoded to a table."""

    def work():
        with urllib.request.urlopen(job["url"]) as reply:
            table = pq.read_table(pa.BufferReader(reply.read()))
        assert table.num_rows == job["rows"], f"{table.num_rows} rows arrived instead of {job['rows']}"
        return {"rows": table.num_rows, "bytes": job["bytes"]}

    return measured(work)


def read_quack(job, sources):
    """A table of DuckDB by its protocol Quack."""
    db = quack.connect()

    def work():
        table = quack.read(db, job["uri"])
        assert table.num_rows == job["rows"], f"{table.num_rows} rows arrived instead of {job['rows']}"
        return {"rows": table.num_rows, "bytes": job["bytes"]}

    return measured(work)


def train(job, sources):
    """Shuffled batches, as programs that train read them."""
    return training.train(job, sources.get(job["source"]), measured)


JOBS = {
    "put": put,
    "get": get,
    "drain": drain,
    "package_put": package_put,
    "package_get": package_get,
    "train": train,
    "download": download,
    "quack": read_quack,
}


def forked(job, sources):
    """Runs a job in a child of this process."""
    child = os.fork()
    if child == 0:
        try:
            outcome = JOBS[job["do"]](job, sources)
        except BaseException as error:
            outcome = {"error": f"{type(error).__name__}: {error}"[:2000]}
        os.write(sys.stdout.fileno(), json.dumps(outcome).encode() + b"\n")
        # The child need not close its connections and pools.
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(json.dumps({"error": f"the client ended with status {status}"}), flush=True)


def main():
    sources = Sources()
    # Lines are not read ahead, because a child reads from the same input.
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if job["do"] == "forget":
            sources.made.clear()
            print("{}", flush=True)
            continue
        for source in (job.get("source"), job.get("expect")):
            if source:
                sources.get(source)
        forked(job, sources)


main()
