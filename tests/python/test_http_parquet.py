"""Parquet of hostile writers, put by HTTP: processes of their own decode it, and the member stays small and alive."""

import io
import pathlib
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import get, wait_until
from http_calls import call

MIB = 1 << 20
PARQUET = "application/vnd.apache.parquet"
BODY_BYTES = 16 * MIB
# What the member may take besides what it has at rest.
SPARE = 256 * MIB


def file(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False, **options)
    return sink.getvalue()


def shared_value():
    """A million rows that share one value of 16 MiB."""
    keys = pa.Array.from_buffers(pa.int32(), 1 << 20, [None, pa.py_buffer(bytes(4 << 20))])
    column = pa.DictionaryArray.from_arrays(keys, pa.array(["x" * (16 * MIB)]))
    return file(pa.table({"s": column}), dictionary_pagesize_limit=1 << 30)


def many_rows():
    """64 MiB of text in some kilobytes."""
    return file(pa.table({"s": pa.repeat("x" * 1024, 1 << 16)}))


def huge_page():
    """A page whose header says that it decompresses to 2 GiB."""
    # So large that its size has five bytes in the header, as that of 2 GiB has.
    body = bytearray(file(pa.table({"b": pa.array([bytes(200 * MIB)])}), use_dictionary=False))
    header = pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).data_page_offset
    # Thrift's compact protocol: the type 0, then the size, as variable-length zigzag.
    assert body[header:header + 3] == b"\x15\x00\x15"
    body[header + 3:header + 8] = b"\xfe\xff\xff\xff\x0f"
    return bytes(body)


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
    assert "http_memory_bytes" in answer.problem(429, "RESOURCE_EXHAUSTED")
    assert children(cluster.nodes[0].process.pid) == []
