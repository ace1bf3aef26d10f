"""A filter that nodes apply, beside the same filter in a client that has fetched the whole table, at several selectivities, in turns.

    cargo build --release --bins
    VOLLEY_BIN_DIR=target/release .venv/bin/python tests/bench/python/filters_beside_fetch.py --mib 1024 --rounds 5

The statement is `SELECT c1, c2, c3 FROM reference WHERE c0 > q`, over a table of 64 float64 columns. The values of c0 have no order, so
statistics exclude nothing, and nodes look at every row. Starts a coordinator and nodes, and prints a table in Markdown: the median of the
rates with the lowest and the highest, the median of the ratios to the full fetch within the rounds, and the processor time of the
servers. Input is what the statement has to look at: the four columns that it names. docs/performance.md says what the rows are.
"""

import argparse
import concurrent.futures
import pathlib
import statistics
import sys
import time

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "python"))
from cluster import Cluster, descriptor, put  # noqa: E402
from http_beside_flight import cpu_seconds  # noqa: E402
from sql_calls import plan  # noqa: E402

TABLE, COLUMNS, BATCH_ROWS = "reference", 64, 65_536
FILTERED, SELECTED = "c0", ["c1", "c2", "c3"]
# Shares of the rows. Values are at least 0 and below 1, so those above 1 - s are about the share s of them.
SELECTIVITIES = [0.001, 0.01, 0.1, 0.5, 1.0]
# Up to this share a filter at the nodes has to be faster than a full fetch.
GOAL_UP_TO = 0.5
FULL_FETCH = "full fetch, filter in the client"
STREAMS = 4


class Contenders:
    """The ways to get the rows; each returns them as a table."""

    def __init__(self, cluster):
        self.client = cluster.client(cluster.nodes[0])
        self.adbc = dbapi.connect(cluster.address(cluster.nodes[0]), autocommit=True)
        self.pool = concurrent.futures.ThreadPoolExecutor(STREAMS)
        # One connection to each node.
        self.nodes = {cluster.address(node): cluster.client(node) for node in cluster.nodes}

    def all(self):
        yield FULL_FETCH, self.fetch_all
        yield "fetch of four columns, filter in the client", self.fetch_columns
        yield "filter at the nodes, pyarrow", self.by_pyarrow
        yield "filter at the nodes, ADBC", self.by_adbc

    def fetch_all(self, bound):
        return selected(self._read(self.client.get_flight_info(descriptor(TABLE))), bound)

    def fetch_columns(self, bound):
        info = self.client.get_flight_info(descriptor(TABLE, columns=[FILTERED, *SELECTED]))
        return selected(self._read(info), bound)

    def by_pyarrow(self, bound):
        return self._read(plan(self.client, statement(bound)))

    def by_adbc(self, bound):
        with self.adbc.cursor() as cursor:
            cursor.execute(statement(bound))
            return cursor.fetch_arrow_table()

    def close(self):
        self.adbc.close()
        self.pool.shutdown()

    def _read(self, info):
        """All endpoints in parallel, each from its first location; their rows in order."""
        return pa.concat_tables(self.pool.map(self._read_endpoint, info.endpoints))

    def _read_endpoint(self, endpoint):
        uris = [location.uri.decode() for location in endpoint.locations]
        there = next((self.nodes[uri] for uri in uris if uri in self.nodes), self.client)
        return there.do_get(endpoint.ticket).read_all()


def statement(bound):
    return f"SELECT {', '.join(SELECTED)} FROM {TABLE} WHERE {FILTERED} > {bound!r}"


def bound_of(selectivity):
    """The value that rows must exceed; all rows do at 1."""
    return 1 - selectivity if selectivity < 1 else -1.0


def selected(table, bound):
    return table.filter(pc.greater(table[FILTERED], bound)).select(SELECTED)


def measure(cluster, table, rounds):
    """Rows, rates and processor times of each way by selectivity, by round; the first round is compared, and not counted."""
    contenders, measured = Contenders(cluster), {}
    input_bytes = table.select([FILTERED, *SELECTED]).nbytes
    try:
        for selectivity in SELECTIVITIES:
            bound = bound_of(selectivity)
            expected = selected(table, bound)
            for number in range(rounds + 1):
                for name, work in contenders.all():
                    begun, before = time.monotonic(), cpu_seconds(cluster)
                    found = work(bound)
                    seconds, used = time.monotonic() - begun, cpu_seconds(cluster) - before
                    check(name, selectivity, found, expected, values=number == 0)
                    if number:
                        rates, cpu = measured.setdefault((selectivity, name), (found.num_rows, [], []))[1:]
                        rates.append(input_bytes / 1e9 / seconds)
                        cpu.append(used)
    finally:
        contenders.close()
    return measured


def check(name, selectivity, found, expected, values):
    """Every way has to give the same rows."""
    wrong = found.num_rows != expected.num_rows or found.column_names != SELECTED
    if wrong or values and not all(found[column].equals(expected[column]) for column in SELECTED):
        raise RuntimeError(f"{name}, {selectivity:.1%}: {found.num_rows} rows that differ from the {expected.num_rows} selected ones")


def ratios(measured, selectivity, name):
    """The rates of a way as multiples of those of the full fetch, round by round."""
    return [a / b for a, b in zip(measured[selectivity, name][1], measured[selectivity, FULL_FETCH][1])]


def report(measured):
    """The lines of the table, and of the goal."""
    yield "| selectivity | way | rows | GB/s of input | × full fetch | servers' CPU, s |"
    yield "|---|---|---|---|---|---|"
    missed = []
    for (selectivity, name), (rows, rates, cpu) in measured.items():
        ratio = statistics.median(ratios(measured, selectivity, name))
        rate = f"{statistics.median(rates):.3f} ({min(rates):.3f}–{max(rates):.3f})"
        yield f"| {selectivity:.1%} | {name} | {rows} | {rate} | {ratio:.2f} | {statistics.median(cpu):.2f} |"
        if name.startswith("filter at the nodes") and selectivity <= GOAL_UP_TO and ratio <= 1:
            missed.append(f"{name} at {selectivity:.1%}")
    yield ""
    yield f"goal: faster than a full fetch up to {GOAL_UP_TO:.0%}: {'missed by ' + ', '.join(missed) if missed else 'met'}"


def reference(mib):
    """Random values in [0, 1), the same in each run."""
    rows = max(mib * 2**20 // (8 * COLUMNS), 1)
    return pa.table({f"c{at}": pc.random(rows, initializer=at) for at in range(COLUMNS)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1_024, help="the size of the table [1024]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count [5]")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the cluster [1]")
    options = parser.parse_args()
    table = reference(options.mib)
    cluster = Cluster(coordinators=1, nodes=options.nodes)
    try:
        put(cluster.client(), TABLE, table, chunk=BATCH_ROWS)
        about = f"{COLUMNS} float64 columns, {table.nbytes / 1e9:.2f} GB, {options.nodes} nodes, {options.rounds} rounds"
        print(f"{table.num_rows} rows of {about}\n")
        print("\n".join(report(measure(cluster, table, options.rounds))))
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
