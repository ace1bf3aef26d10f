"""Arrow over HTTP beside Flight: the same table, read and written by one client in one stream, in turns.

    cargo build --release --bins
    VOLLEY_BIN_DIR=target/release .venv/bin/python tests/bench/python/http_beside_flight.py --mib 1024 --rounds 5

Starts a coordinator and a node, and prints a table in Markdown: the median of the rates with the lowest and the highest, in GB of plain
Arrow a second; the median of the ratios to Flight within the rounds; and the processor time of the servers for each GB. The client is
this process, so what it decodes is part of each time. docs/performance.md says what the rows are.
"""

import argparse
import http.client
import os
import pathlib
import statistics
import sys
import time

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "python"))
from cluster import Cluster, put  # noqa: E402

COLUMNS, BATCH_ROWS = 8, 65_536
READ, WRITTEN = "bench/read", "bench/written"
ARROW = "application/vnd.apache.arrow.stream"
SECONDS = 3_600
TICKS = os.sysconf("SC_CLK_TCK")


class Contenders:
    """The ways to read and to write; each returns the rows that went over."""

    def __init__(self, cluster, table):
        [self.node] = cluster.nodes
        self.table, self.flight = table, cluster.client(self.node)

    def all(self):
        """Name, what it is measured beside, and the way."""
        yield "get, Flight", None, self.flight_get
        yield "get, HTTP, Arrow stream", "get, Flight", self.http_get
        yield "get, HTTP, Arrow stream in zstd", "get, Flight", self.http_get_compressed
        yield "get, HTTP, Parquet", "get, Flight", self.http_get_parquet
        yield "get, HTTP, CSV, not parsed", "get, Flight", self.http_get_csv
        yield "put, Flight", None, self.flight_put
        yield "put, HTTP, Arrow stream", "put, Flight", self.http_put

    def flight_get(self):
        return self.flight.do_get(flight.Ticket(READ.encode())).read_all().num_rows

    def flight_put(self):
        return put(self.flight, WRITTEN, self.table, chunk=BATCH_ROWS, retention_s=10)["rows"]

    def http_get(self):
        return self._request("GET", {"accept": ARROW}, lambda response: pa.ipc.open_stream(response).read_all().num_rows)

    def http_get_compressed(self):
        read = lambda response: pa.ipc.open_stream(pa.CompressedInputStream(pa.PythonFile(response, "r"), "zstd")).read_all().num_rows
        return self._request("GET", {"accept": ARROW, "accept-encoding": "zstd"}, read)

    def http_get_parquet(self):
        read = lambda response: pq.read_table(pa.BufferReader(response.read())).num_rows
        return self._request("GET", {"accept": "application/vnd.apache.parquet"}, read)

    def http_get_csv(self):
        # Without the header.
        return self._request("GET", {"accept": "text/csv"}, lambda response: response.read().count(b"\n") - 1)

    def http_put(self):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table, max_chunksize=BATCH_ROWS)
        body = memoryview(sink.getvalue())
        self._request("PUT", {"content-type": ARROW}, lambda response: response.read(), body)
        return self.table.num_rows

    def _request(self, method, headers, read, body=None):
        connection = http.client.HTTPConnection(self.node.host, 8836, timeout=SECONDS)
        target = f"{WRITTEN}?retention_s=10" if method == "PUT" else READ
        try:
            connection.request(method, f"/api/v1/data/{target}", body=body, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{method} {headers}: {response.status} {response.read()[:500]!r}")
            return read(response)
        finally:
            connection.close()


def cpu_seconds(cluster):
    """The processor time of all servers."""
    total = 0
    for member in cluster.members():
        stat = pathlib.Path(f"/proc/{member.process.pid}/stat").read_text()
        # User and system time, after the name of the program, which may have spaces.
        total += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return total / TICKS


def measure(cluster, table, rounds):
    """The rates and the processor times of each way, by round; the first round is not counted."""
    rates, cpu, contenders = {}, {}, Contenders(cluster, table)
    for number in range(rounds + 1):
        for name, _, work in contenders.all():
            begun, before = time.monotonic(), cpu_seconds(cluster)
            rows = work()
            seconds, used = time.monotonic() - begun, cpu_seconds(cluster) - before
            if rows != table.num_rows:
                raise RuntimeError(f"{name}: {rows} rows in place of {table.num_rows}")
            if number:
                rates.setdefault(name, []).append(table.nbytes / 1e9 / seconds)
                cpu.setdefault(name, []).append(used / (table.nbytes / 1e9))
    return rates, cpu, [(name, beside) for name, beside, _ in contenders.all()]


def report(rates, cpu, names):
    """The lines of the table."""
    yield "| way | GB/s | × Flight | servers' CPU, s/GB |"
    yield "|---|---|---|---|"
    for name, beside in names:
        own = rates[name]
        ratio = statistics.median(a / b for a, b in zip(own, rates[beside or name]))
        rate = f"{statistics.median(own):.3f} ({min(own):.3f}–{max(own):.3f})"
        yield f"| {name} | {rate} | {ratio:.2f} | {statistics.median(cpu[name]):.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1_024, help="the size of the table [1024]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count [5]")
    options = parser.parse_args()
    rows = options.mib * 2**20 // (8 * COLUMNS)
    table = pa.table({f"c{at}": pa.array(range(at, at + rows), pa.int64()) for at in range(COLUMNS)})
    cluster = Cluster(coordinators=1, nodes=1)
    try:
        put(cluster.client(), READ, table, chunk=BATCH_ROWS)
        print(f"{rows} rows of {COLUMNS} int64 columns, {table.nbytes / 1e9:.2f} GB, {options.rounds} rounds\n")
        print("\n".join(report(*measure(cluster, table, options.rounds))))
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
