"""Parquet of hostile writers, put by HTTP: processes of their own decode it, and the member stays small and alive."""

import pathlib
import threading

import pyarrow as pa
import pytest

from cluster import get, wait_until
from hostile_parquet import MIB, PARQUET, file, huge_page, many_rows, shared_value
from http_calls import call

BODY_BYTES = 16 * MIB
# What the member may take besides what it has at rest.
SPARE = 256 * MIB


class PeakMemory:
    """Samples the anonymous memory of a member inside a `with` block."""

    def __init__(self, member):
        self.member, self.peak, self.done = member, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _sample(self):
        while not self.done.wait(0.02):
            self.peak = max(self.peak, self.member.memory_anonymous())


def children(pid):
    """The processes that a process has started and that have not ended."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(text)
    return found


@pytest.mark.alone
def test_hostile_parquet_takes_no_memory_of_a_member(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--max-http-body-bytes", str(BODY_BYTES)))
    node = cluster.nodes[0]
    pid, resting = node.process.pid, node.memory_anonymous()
    for make, why in ((shared_value, "Arrow stream"), (many_rows, "max_http_body_bytes"), (huge_page, "http_parquet_memory_bytes")):
        body = make()
        assert len(body) < 4 * MIB, make
        with PeakMemory(node) as memory:
            detail = call(cluster, "PUT", "/api/v1/data/hostile", body=body, content_type=PARQUET).problem(413, "RESOURCE_EXHAUSTED")
        assert why in detail, detail
        assert memory.peak < resting + SPARE, (make, memory.peak // MIB)
    wait_until(lambda: not children(pid), 30, "the decoding processes have ended")
    assert node.alive() and node.process.pid == pid
    rows = pa.table({"id": pa.array(range(1_000), pa.int64())})
    assert call(cluster, "PUT", "/api/v1/data/good", body=file(rows), content_type=PARQUET).status == 200
    with cluster.client() as client:
        assert get(client, "good") == rows
        with pytest.raises(KeyError, match="no table"):
            get(client, "hostile")


def test_parquet_beyond_the_budget_of_processes_is_refused(own):
    """A process counts with a quarter of what it may take."""
    options = ("--http-memory-bytes", str(64 * MIB), "--http-parquet-memory-bytes", str(512 * MIB))
    cluster = own(coordinators=1, nodes=1, node_options=options)
    body = file(pa.table({"id": pa.array([1], pa.int64())}))
    answer = call(cluster, "PUT", "/api/v1/data/t", body=body, content_type=PARQUET)
    assert "http_memory_bytes" in answer.problem(507, "RESOURCE_EXHAUSTED")
    assert children(cluster.nodes[0].process.pid) == []
