"""Queries that run in stages on several nodes: a cancellation ends all of them, and frees what they have."""

import concurrent.futures
import json
import re
import urllib.request

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import put, wait_until
from sql_calls import cancel, command, plan, query

ROWS = 100_000
TABLE = pa.table({"id": pa.array(range(ROWS), pa.int64())})
# Compares 10,000,000,000 pairs of rows.
ENDLESS_JOIN = "SELECT count(*) AS n FROM t a JOIN t b ON a.id * b.id < a.id - b.id - 200000"
# The library's own handler asks environment variables for proxies.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def gauge(node, name):
    with OPENER.open(f"http://{node.host}:8836/metrics", timeout=10) as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0


def is_free(node):
    """Nothing of a query is left: no query, no task of another node's, no memory."""
    return not any(gauge(node, f"volley_{name}") for name in ("queries", "query_tasks", "query_memory_bytes"))


@pytest.fixture
def sharing(own):
    """A cluster whose nodes share every query, with a table of eight shards."""
    cluster = own(coordinators=1, nodes=3, node_options=("--sql-distribute-bytes", "0", "--sql-partitions", "2"))
    put(cluster.client(), "t", TABLE, shards=8, shard_by=["id"])
    client = cluster.client(cluster.nodes[0])
    # A node whose engine still starts takes no part.
    explain = "EXPLAIN SELECT count(*) FROM t a JOIN t b ON a.id = b.id"
    wait_until(lambda: "t2 on node" in json.dumps(query(client, explain).to_pylist()), 30, "all nodes take part")
    return cluster


@pytest.mark.alone
def test_cancelled_query_ends_on_all_nodes(sharing):
    head, others = sharing.nodes[0], sharing.nodes[1:]
    client = sharing.client(head)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        info = plan(client, ENDLESS_JOIN)
        # Batch by batch: pyarrow interrupts the main thread when `read_all` is cancelled.
        reading = pool.submit(lambda: list(sharing.client(head).do_get(info.endpoints[0].ticket)))
        wait_until(lambda: all(gauge(node, "volley_query_tasks") for node in others), 30, "every node has tasks")
        assert not reading.done(), reading.exception()
        # At another member than the one that runs it.
        cancel(sharing.client(), info)
        wait_until(lambda: all(map(is_free, sharing.nodes)), 30, "nothing of the query is left")
        with pytest.raises(flight.FlightCancelledError):
            reading.result(timeout=30)
    assert query(client, "SELECT count(*) AS n FROM t a JOIN t b ON a.id = b.id").to_pylist() == [{"n": ROWS}]
