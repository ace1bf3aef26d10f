"""Connectors of the Python package: Polars, DuckDB and Dask themselves, and the order of rows for programs that train."""

import datetime
import math

import dask
import dask.dataframe
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import volley
from volley._polars_filter import where_of
from volley._row_streams import Order, rows_from

ROWS = 1_000
NOON = datetime.datetime(2026, 1, 1, 12)
UTC = datetime.timezone.utc
#: One with a sign, too, which is less than all numbers to SQL.
NANS = (float("nan"), math.copysign(float("nan"), -1.0))


def every(modulus, value):
    """Values with nulls among them."""
    return [None if at % modulus == 0 else value(at) for at in range(ROWS)]


TABLE = pa.table({
    "id": pa.array(range(ROWS), pa.int64()),
    "small": pa.array(every(7, lambda at: at % 100 - 50), pa.int8()),
    "fare": pa.array([(0.0, -0.0, NANS[at % 8 > 4], at / 8 - 20)[at % 4] for at in range(ROWS)], pa.float64()),
    "kind": pa.array(every(5, lambda at: ("ant", "it's", "größe")[at % 3]), pa.string()),
    "flag": pa.array(every(3, lambda at: at % 2 == 0), pa.bool_()),
    "day": pa.array(every(11, lambda at: NOON.date() + datetime.timedelta(days=at % 60)), pa.date32()),
    "at": pa.array(every(13, lambda at: NOON + datetime.timedelta(microseconds=at)), pa.timestamp("us")),
    "at_utc": pa.array(every(17, lambda at: NOON + datetime.timedelta(hours=at)), pa.timestamp("ms", "UTC")),
    "tag": pa.array(every(9, lambda at: f"t{at % 4}"), pa.string()).dictionary_encode(),
})
FRAME = pl.from_arrow(TABLE)
C = pl.col

#: Conditions of Polars, what the cluster is asked for, and whether Polars has to apply the rest.
PREDICATES = {
    "int": (C("id") > 990, '("id" > 990)', False),
    "mirrored": (pl.lit(990) < C("id"), '("id" > 990)', False),
    "and": ((C("small") >= -3) & (C("kind") == "it's"), """("small" >= -3) AND ("kind" = 'it''s')""", False),
    "or": ((C("id") < 3) | (C("kind") != "ant"), """(("id" < 3) OR ("kind" <> 'ant'))""", False),
    "null": (C("kind").is_null() & ~C("flag"), '("kind" IS NULL) AND (NOT "flag")', False),
    "flag": (C("flag"), '"flag"', False),
    "in": (C("id").is_in([1, 2, 999]), '("id" IN (1, 2, 999))', False),
    "float": (C("fare") > 99.5, '(("fare" > 99.5) OR isnan("fare"))', False),
    "less": (C("fare") <= -9.5, '(("fare" <= -9.5) AND (NOT isnan("fare")))', False),
    "not": (C("fare") != 1.375, '("fare" <> 1.375)', False),
    "between": (C("fare").is_between(-9.5, 1.375), None, None),
    "zero": (C("fare") >= 0.0, None, True),
    "nan": (C("fare") > float("nan"), None, True),
    "day": (C("day") < datetime.date(2026, 1, 3), """("day" < DATE '2026-01-03')""", False),
    "at": (C("at") < NOON + datetime.timedelta(microseconds=99), """("at" < '2026-01-01T12:00:00.000099')""", False),
    "utc": (C("at_utc") <= (NOON + datetime.timedelta(hours=5)).replace(tzinfo=UTC), None, None),
    "some": ((C("id") < 100) & (C("id") % 7 == 0), '("id" < 100)', True),
    "cast": (C("id").cast(pl.Float64) > 990.5, None, True),
    "text": (C("kind").str.starts_with("gr"), None, True),
    "tag": (C("tag") == "t1", None, True),
}


@pytest.fixture(scope="module")
def sample(db):
    """The name of a table with the sample in several parts."""
    name = "t/package-connectors"
    db.put(name, TABLE.slice(0, 400))
    for begin in (400, 700):
        db.put(name, TABLE.slice(begin, 300), mode="append")
    return name


@pytest.fixture
def reads(db, monkeypatch):
    """The options of reads."""
    found, scan = [], db.scan
    monkeypatch.setattr(db, "scan", lambda table, **options: found.append(options) or scan(table, **options))
    return found


@pytest.mark.parametrize("case", PREDICATES)
def test_polars_selects_the_same_rows(db, sample, case):
    predicate, condition, has_rest = PREDICATES[case]
    expected = FRAME.filter(predicate)
    assert volley.polars.scan_volley(db, sample).filter(predicate).collect().equals(expected)
    if has_rest is not None:
        where, rest = where_of(predicate, db[sample].schema.fields)
        assert (where, rest is not None) == (condition, has_rest)


def test_polars_reads_only_what_a_query_needs(db, sample, reads):
    frame = volley.polars.scan_volley(db, sample)
    assert reads == []
    found = frame.filter(C("id") >= 998).select("kind").collect()
    assert found["kind"].to_list() == TABLE["kind"].to_pylist()[998:]
    assert set(reads[0]["columns"]) <= {"id", "kind"} and reads[0]["where"] == '("id" >= 998)'
    assert frame.head(5).select("id").collect()["id"].to_list() == [0, 1, 2, 3, 4]
    assert (reads[1]["limit"], reads[1]["columns"]) == (5, ["id"])
    assert frame.select(pl.len()).collect().item() == ROWS
    assert frame.head(10).filter(C("id") >= 8).collect()["id"].to_list() == [8, 9]
    assert frame.filter(C("id") >= 8).head(2).collect()["id"].to_list() == [8, 9]
    assert frame.filter(C("id") >= 8).sort("id", descending=True).head(2).collect()["id"].to_list() == [999, 998]
    assert frame.filter(C("id") < 0).collect().equals(FRAME.clear())


def test_polars_frame_stays_at_its_version(db, name):
    db.put(name, {"id": [1, 2]})
    frame = volley.polars.scan_volley(db, name)
    db.put(name, {"id": [3]}, mode="append")
    assert frame.collect()["id"].to_list() == [1, 2]
    assert volley.polars.scan_volley(db, name).collect().height == 3
    with pytest.raises(volley.TableNotFound):
        volley.polars.scan_volley(db, "no/such/table")


def test_duckdb_reads_only_the_columns_of_a_query(db, sample, reads):
    connection = duckdb.connect()
    relation = volley.duckdb.scan(db, sample, where="id < 10", connection=connection)
    assert relation.filter("small >= -45").aggregate("sum(id)").fetchall() == [(5 + 6 + 8 + 9,)]
    assert set(reads[-1]["columns"]) <= {"id", "small"} and reads[-1]["where"] == "id < 10"
    volley.duckdb.register(connection, db, sample, name="rides")
    assert connection.sql("SELECT count(*), count(kind) FROM rides").fetchall() == [(1_000, 800)]
    assert connection.sql("SELECT id FROM rides ORDER BY id DESC LIMIT 2").fetchall() == [(999,), (998,)]
    trips = db[sample]
    assert duckdb.sql("SELECT count(*) FROM trips").fetchall() == [(1_000,)] and trips.name == sample


def test_duckdb_refuses_a_table_with_other_columns(db, name):
    connection = duckdb.connect()
    db.put(name, {"id": [1, 2]})
    volley.duckdb.register(connection, db, name, name="rides")
    db.put(name, {"id": [3]}, mode="append")
    assert connection.sql("SELECT sum(id) FROM rides").fetchall() == [(6,)]
    db.put(name, {"id": ["one"]})
    with pytest.raises(Exception, match="register it again"):
        connection.sql("SELECT min(id) FROM rides").fetchall()


def test_dask_reads_parts(db, sample):
    # Compactions make versions with fewer parts.
    version = db.info(sample)["version"]
    frame = volley.dask.read(db, sample, columns=["id", "kind"], version=version)
    assert frame.npartitions == len(db.partitions(sample, version=version)) and list(frame.columns) == ["id", "kind"]
    assert frame["id"].sum().compute() == sum(range(ROWS))
    some = volley.dask.read(db, sample, where="id < 5").compute()
    assert sorted(some["id"]) == [0, 1, 2, 3, 4]
    assert len(volley.dask.read(db, sample, where="id < 0").compute()) == 0


def test_dask_keeps_large_integers_beside_nulls(db, name):
    large = 2**53 + 1
    db.put(name, pa.table({"id": pa.array([large, None], pa.int64()), "small": pa.array([7, 8], pa.uint8())}))
    frame = volley.dask.read(db, name)
    found = frame.compute()
    assert found["id"].dropna().tolist() == [large] and found["small"].tolist() == [7, 8]
    assert list(map(str, frame.dtypes)) == list(map(str, found.dtypes)) == ["Int64", "UInt8"]
    volley.dask.write(db, name, frame)
    assert db.get(name).to_arrow()["id"].to_pylist() == [large, None]


def test_dask_refuses_columns_that_the_schema_lacks(db, name):
    frame = dask.dataframe.from_pandas(pd.DataFrame({"id": [1, 2], "kind": ["ant", "bee"]}), npartitions=1)
    with pytest.raises(ValueError, match="no column 'kind'"):
        volley.dask.write(db, name, frame, schema=pa.schema([("id", pa.int64())]))
    with pytest.raises(volley.TableNotFound):
        db.get(name)


def test_dask_writes_all_partitions_or_none(db, name):
    rows = pd.DataFrame({"id": range(100), "kind": ["ant"] * 100})
    frame = dask.dataframe.from_pandas(rows, npartitions=4)
    outcome = volley.dask.write(db, name, frame, shard_by=["id"])
    assert (outcome["version"], outcome["rows"]) == (1, 100)
    assert sorted(db.get(name).to_pandas()["id"]) == list(range(100))

    def failing(part):
        if 50 in set(part["id"]):
            raise LookupError("row 50 is bad")
        return part

    with pytest.raises(LookupError, match="row 50"):
        volley.dask.write(db, name, frame.map_partitions(failing, meta=frame._meta), mode="append")
    assert len(db.get(name)) == 100


def stream(db, parts, batch_rows=64, position=0, **order):
    """The ids of a stream, batch by batch."""
    chosen = {"shuffle": True, "seed": 7, "epoch": 0, "window_rows": 150, "stream": 0, "streams": 1} | order
    tables = rows_from(parts, position, batch_rows, Order(**chosen), lambda part: part.scan(db))
    return [table["id"].to_pylist() for table in tables]


def joined(batches):
    return [value for batch in batches for value in batch]


def test_row_streams_are_shuffled_and_divided(db, sample):
    parts = db.partitions(sample, columns=["id"])
    assert joined(stream(db, parts, shuffle=False)) == list(range(ROWS))
    found = joined(stream(db, parts))
    assert sorted(found) == list(range(ROWS)) and found != sorted(found)
    assert found == joined(stream(db, parts)) and found != joined(stream(db, parts, epoch=1))
    assert found != joined(stream(db, parts, seed=8))
    for shuffle in (False, True):
        shares = [joined(stream(db, parts, shuffle=shuffle, stream=at, streams=3)) for at in range(3)]
        assert [len(one) for one in shares] == [333] * 3 and len(set(joined(shares))) == 999
    # With a condition nobody knows the rows of the parts.
    some = db.partitions(sample, columns=["id"], where="id % 2 = 0")
    shares = [joined(stream(db, some, stream=at, streams=2)) for at in range(2)]
    assert sorted(joined(shares)) == list(range(0, ROWS, 2))


@pytest.mark.parametrize("where", [None, "id % 2 = 0"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_row_streams_continue_at_any_batch(db, sample, shuffle, where):
    parts = db.partitions(sample, columns=["id"], where=where)
    batches = stream(db, parts, shuffle=shuffle, stream=1, streams=2)
    assert all(len(batch) == 64 for batch in batches[:-1])
    for begun in (0, 1, 3, len(batches) - 1, len(batches)):
        position = sum(map(len, batches[:begun]))
        rest = stream(db, parts, shuffle=shuffle, stream=1, streams=2, position=position)
        assert joined(rest) == joined(batches[begun:])
