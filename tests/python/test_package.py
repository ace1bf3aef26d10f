"""The Python package `volley`: puts, reads, errors, and what is left of calls that fail."""

import multiprocessing
import os
import pickle
import signal
import threading

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import volley
from volley._errors import from_code
from volley._partitions import pieces

TABLE = pa.table({"id": range(10_000), "kind": ["ant", "bee"] * 5_000, "price": [n / 4 for n in range(10_000)]})


@pytest.fixture
def table(db, name):
    assert db.put(name, TABLE)["rows"] == 10_000
    return name


def test_rows_come_back_in_every_form(db, table):
    found = db.get(table)
    assert found.to_arrow().equals(TABLE) and len(found) == 10_000 and found.column_names == TABLE.column_names
    assert found.to_pandas().equals(TABLE.to_pandas()) and found.to_polars().equals(pl.from_arrow(TABLE))
    assert (found.to_numpy()["price"] == TABLE["price"].to_numpy()).all()
    assert found.to_duckdb().filter("kind = 'bee'").count("*").fetchall() == [(5_000,)]
    assert "10,000 rows" in repr(found) and "<pre>" in found._repr_html_()
    assert db.get(table, columns="id").column_names == ["id"]
    some = db.get(table, columns=["price", "id"], where="id >= 10 AND kind = 'ant'", limit=5).to_arrow()
    assert some.column_names == ["price", "id"] and some["id"].to_pylist() == [10, 12, 14, 16, 18]


@pytest.mark.parametrize(
    "source",
    [
        TABLE.to_pandas(),
        pl.from_arrow(TABLE),
        pl.from_arrow(TABLE).lazy(),
        TABLE.to_reader(max_chunksize=999),
        {"id": np.arange(10_000), "kind": TABLE["kind"].to_pylist(), "price": np.arange(10_000) / 4},
        TABLE.to_batches(max_chunksize=4_000),
    ],
    ids=["pandas", "polars", "lazy", "reader", "dict", "list"],
)
def test_every_source_is_put(db, name, source):
    outcome = db.put(name, source, shard_by=["id"], shards=4)
    assert (outcome["version"], outcome["rows"]) == (1, 10_000)
    found = db.get(name).to_pandas().sort_values("id", ignore_index=True)
    expected = TABLE.to_pandas()
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_frames_of_different_lengths_are_one_put(db, name):
    # pandas writes the number of rows into the metadata.
    assert db.put(name, (TABLE.slice(0, rows).to_pandas() for rows in (3, 5)))["rows"] == 8
    assert db.get(name).to_arrow()["id"].to_pylist() == [0, 1, 2, 0, 1, 2, 3, 4]


def test_source_that_reads_a_scan_is_put(db, table):
    class Copy:
        def __arrow_c_stream__(self, requested_schema=None):
            # pyarrow reads without the interpreter's lock, on the thread of the put.
            return db.scan(table).to_reader().read_all().__arrow_c_stream__(requested_schema)

    assert db.put(f"{table}/copy", Copy())["rows"] == 10_000
    assert db.put(f"{table}/again", db.scan(table))["rows"] == 10_000


def test_files_are_put_by_pattern(db, name, tmp_path):
    for part in range(3):
        pq.write_table(TABLE.slice(part * 100, 100), tmp_path / f"{part}.parquet")
    assert db.put(name, str(tmp_path / "*.parquet"))["rows"] == 300
    assert db.get(name).to_arrow()["id"].to_pylist() == list(range(300))
    with pytest.raises(FileNotFoundError):
        db.put(name, str(tmp_path / "*.csv"))


def test_scan_has_batches_of_the_wanted_size(db, table):
    with db.scan(table, batch_rows=3_000) as scan:
        assert scan.info["rows"] == 10_000 and [name for name, _, _ in scan.schema.fields] == TABLE.column_names
        batches = list(scan)
    assert [batch.num_rows for batch in batches] == [3_000, 3_000, 3_000, 1_000]
    assert pa.Table.from_batches([pa.record_batch(batch) for batch in batches]).equals(TABLE)
    assert pl.DataFrame(db.scan(table).to_reader()).equals(pl.from_arrow(TABLE))
    with db.scan(table) as closed:
        next(closed)
    with pytest.raises(volley.Cancelled):
        next(closed)
    reader = closed.to_reader()
    for _ in range(2):
        with pytest.raises(pa.ArrowException, match="closed"):
            reader.read_next_batch()


def test_write_is_visible_at_its_end_only(db, name):
    with db.write(name) as writer:
        writer.write(TABLE.slice(0, 10))
        writer.write(TABLE.slice(10, 10).to_batches())
        assert name not in [found["table"] for found in db.tables(name)]
    assert (writer.outcome["version"], writer.outcome["rows"]) == (1, 20)
    with pytest.raises(ZeroDivisionError), db.write(name, mode="append") as writer:
        writer.write(TABLE)
        1 / 0
    with pytest.raises(volley.InvalidArgument, match="other columns"), db.write(name, mode="append") as writer:
        writer.write(TABLE)
        writer.write(TABLE.drop_columns("kind"))
    assert len(db.get(name)) == 20 and len(db.versions(name)) == 1


def test_failing_source_leaves_nothing(db, name):
    def rows():
        yield TABLE
        raise LookupError("row 7 is bad")

    with pytest.raises(LookupError, match="row 7"):
        db.put(name, rows())
    with pytest.raises(volley.InvalidArgument, match="row 7"):
        batches = (batch for one in rows() for batch in one.to_batches())
        db.put(name, pa.RecordBatchReader.from_batches(TABLE.schema, batches))
    assert db.tables(name) == []


def test_errors_are_of_kinds_that_programs_catch(db, table):
    with pytest.raises(KeyError) as missing:
        db.get("no/such/table")
    assert isinstance(missing.value, volley.TableNotFound) and missing.value.code == "NOT_FOUND"
    assert str(missing.value) and not str(missing.value).startswith("'")
    assert len(missing.value.request_id) == 16 and str(missing.value).endswith(f" (request {missing.value.request_id})")
    for wrong in (lambda: db.get(table, columns=["nothing"]), lambda: db.put(table, TABLE, mode="replcae")):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(volley.SchemaMismatch, match="kind"):
        db.put(table, TABLE.drop_columns("kind"), mode="append")
    with pytest.raises(volley.AlreadyExists):
        db.put(table, TABLE, mode="create")
    with pytest.raises(TypeError, match="no rows"):
        db.put(table, 7)
    with pytest.raises(ConnectionError):
        volley.connect("127.0.0.1:1")
    with pytest.raises(ValueError, match="no user") as wrong:
        volley.connect("127.0.0.1:1", password="secret")
    assert wrong.value.remedy == "give user=, or set VOLLEY_USER" and wrong.value.request_id is None


def test_remedy_is_the_clause_that_says_what_to_do():
    def remedy(text, request=None):
        return from_code(3, text, None, request).remedy

    assert remedy("the write has ended: begin another one (request 00ff)", "00ff") == "begin another one"
    assert remedy("too large: 9 bytes; send less: or split it") == "send less: or split it"
    assert remedy('there is no table "a: drop b\\"; use c": did you mean "x"?') == 'did you mean "x"?'
    assert remedy("no leader: the cluster may come back") is None and remedy("") is None


def test_timeout_ends_a_put_without_a_trace(db, name):
    goes_on = threading.Event()

    def rows():
        yield TABLE.to_batches()[0]
        goes_on.wait(60)

    try:
        with pytest.raises(TimeoutError):
            db.put(name, pa.RecordBatchReader.from_batches(TABLE.schema, rows()), timeout=1)
    finally:
        goes_on.set()
    assert db.tables(name) == []


def test_sql_and_the_catalog(db, table):
    sql = ".".join(f'"{part}"' for part in table.split("/"))
    assert db.sql(f"SELECT count(*) AS n FROM {sql} WHERE kind = 'ant'").to_arrow()["n"].to_pylist() == [5_000]
    assert db.execute(f"INSERT INTO {sql} VALUES (10000, 'cat', 1.5)") == 1
    info = db.info(table)
    assert (info["version"], info["rows"]) == (2, 10_001) and info["schema"] == db[table].schema
    assert info["descriptor"] == "path"
    assert [version["version"] for version in db.versions(table)][:1] == [2]
    assert len(db[table].get(version=1)) == 10_000 and "10001 rows" in repr(db[table])
    assert db.cluster()["nodes"] and "<svg" in db.cluster()._repr_html_()
    db.drop(table)
    with pytest.raises(volley.TableNotFound):
        db.info(table)


def test_partitions_are_read_elsewhere(db, name):
    db.put(name, TABLE, shard_by=["id"], shards=4)
    parts = db.partitions(name)
    assert len(parts) > 1 and sum(part.num_rows for part in parts) == 10_000
    sent = pickle.loads(pickle.dumps(parts))
    assert pa.concat_tables(part.read() for part in sent).sort_by("id").equals(TABLE)
    assert sent[0].read(db).num_rows == parts[0].num_rows


def test_parts_are_cut_into_ranges_of_rows(db, name):
    db.put(name, TABLE)
    parts = pickle.loads(pickle.dumps(db.partitions(name, min_parts=7)))
    assert [part.index for part in parts] == list(range(7)) and {part.num_rows for part in parts} == {1_428, 1_429}
    assert pa.concat_tables(part.read(db) for part in parts).equals(TABLE)
    with parts[3].scan(db, batch_rows=1_000) as scan:
        assert scan.info["rows"] == parts[3].num_rows
        assert [batch.num_rows for batch in scan] == [1_000, parts[3].num_rows - 1_000]
    for more in ({}, {"where": "id < 5"}):
        assert len(db.partitions(name, min_parts=1, **more)) == 1
    with pytest.raises(ValueError, match="cannot be cut into 2"):
        db.partitions(name, where="id < 5", min_parts=2)
    with pytest.raises(ValueError, match="at least 1"):
        db.partitions(name, min_parts=0)
    db.put(name, TABLE.slice(0, 3))
    assert [part.num_rows for part in db.partitions(name, min_parts=9)] == [1, 1, 1]
    db.put(name, TABLE.slice(0, 0))
    assert [part.num_rows for part in db.partitions(name, min_parts=9)] in ([], [0])


def test_largest_endpoints_are_cut_first():
    assert pieces([100, 10, 0], 3) == [1, 1, 1]
    assert pieces([100, 10, 0], 5) == [3, 1, 1]
    assert pieces([100, 60], 6) == [4, 2]
    assert pieces([2, 1], 100) == [2, 1] and pieces([], 3) == []


def test_near_nodes_are_preferred(shared, table, monkeypatch):
    address = shared.address(shared.coordinators[0])
    for places in ("192.0.2.0/24,.zone-a.example", ["192.0.2.0/24", "n1"], []):
        assert len(volley.connect(address, prefer=places, timeout=30).get(table)) == 10_000
    with pytest.raises(ValueError, match="is no place to prefer"):
        volley.connect(address, prefer="192.0.2.0/33")
    monkeypatch.setenv("VOLLEY_PREFER", "n1:8816")
    with pytest.raises(volley.InvalidArgument, match='"n1:8816" is no place'):
        volley.connect(address)


def test_threads_share_a_connection(db, table):
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(db.get(table)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10_000] * 8


def _count(db, table, queue):
    queue.put(len(db.get(table)))


def test_forked_child_connects_again(db, table):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_count, args=(db, table, queue))
    child.start()
    assert queue.get(timeout=60) == 10_000
    child.join(timeout=30)
    assert child.exitcode == 0 and len(db.get(table)) == 10_000


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also in a process that was started in the background of a shell."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_interrupt_ends_a_put_without_a_trace(db, name, interruptible):
    started, goes_on = threading.Event(), threading.Event()

    def rows():
        yield TABLE.to_batches()[0]
        started.set()
        goes_on.wait(60)

    def interrupt():
        started.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            db.put(name, pa.RecordBatchReader.from_batches(TABLE.schema, rows()))
    finally:
        goes_on.set()
        thread.join()
    assert db.tables(name) == []
