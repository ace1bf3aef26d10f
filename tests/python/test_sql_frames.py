"""Data frames by SQL: Polars reads and writes through a connection of ADBC; DuckDB queries what ADBC reads, and ADBC ingests what
DuckDB gives."""

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from cluster import get
from sql_calls import rows, sql_name
from test_sql_adbc import TABLE, connect, put_in_parts

BEES = pl.col("kind") == "bee"


@pytest.fixture(params=["coordinator", "node"])
def connection(request, shared):
    members = {"coordinator": shared.coordinators[2], "node": shared.nodes[0]}
    with connect(shared, members[request.param]) as connection:
        yield connection


@pytest.fixture
def table(client, name):
    return put_in_parts(client, name)


def test_polars_reads_tables_and_queries(connection, table):
    whole = pl.from_arrow(TABLE)
    assert pl.read_database(f"SELECT * FROM {table}", connection).equals(whole)
    statement = f"SELECT id, price FROM {table} WHERE kind = ? AND id >= ? ORDER BY id"
    found = pl.read_database(statement, connection, execute_options={"parameters": ("bee", 1000)})
    assert found.equals(whole.filter(BEES & (pl.col("id") >= 1000)).select("id", "price"))
    nothing = pl.read_database(f"SELECT * FROM {table} WHERE id < 0", connection)
    assert nothing.is_empty() and nothing.schema == whole.schema


def test_polars_reads_batches_of_a_table(connection, table):
    frames = list(pl.read_database(f"SELECT id, day FROM {table}", connection, iter_batches=True))
    assert len(frames) >= 2, "one of each part"
    assert pl.concat(frames).equals(pl.from_arrow(TABLE).select("id", "day"))


def test_polars_writes_and_appends_to_tables(connection, client, name):
    schema, _, last = name.rpartition("/")
    frame = pl.from_arrow(TABLE)
    assert frame.write_database(f"{schema}.{last}", connection) == 2000
    with pytest.raises(Exception, match="exists"):
        frame.write_database(f"{schema}.{last}", connection)
    assert frame.filter(BEES).write_database(f"{schema}.{last}", connection, if_table_exists="append") == 667
    assert pl.from_arrow(get(client, name)).sort("id").equals(pl.concat([frame, frame.filter(BEES)]).sort("id"))
    assert frame.head(5).write_database(f"{schema}.{last}", connection, if_table_exists="replace") == 5
    assert pl.read_database(f"SELECT * FROM {sql_name(name)}", connection).sort("id").equals(frame.head(5))


def test_duckdb_queries_what_adbc_reads(connection, table):
    with connection.cursor() as cursor, duckdb.connect() as duck:
        cursor.execute(f"SELECT id, kind, day FROM {table} WHERE id >= 500")
        duck.register("found", cursor.fetch_record_batch())
        counts = duck.execute("SELECT kind, count(*)::BIGINT AS n, max(day) AS last FROM found GROUP BY kind").to_arrow_table()
    expected = TABLE.slice(500).group_by("kind").aggregate([("id", "count"), ("day", "max")])
    assert rows(counts) == rows(expected.select(["kind", "id_count", "day_max"]))


def test_adbc_ingests_what_duckdb_gives(connection, client, name):
    schema, _, last = name.rpartition("/")
    with connection.cursor() as cursor, duckdb.connect() as duck:
        reader = duck.execute("SELECT range AS id, 'duck ' || range AS name FROM range(3000)").to_arrow_reader()
        assert cursor.adbc_ingest(last, reader, mode="create", db_schema_name=schema) == 3000
        cursor.execute(f"SELECT count(*) AS n, max(name) AS last FROM {sql_name(name)}")
        assert cursor.fetchall() == [(3000, "duck 999")]
    found = get(client, name).sort_by("id")
    assert found["id"].to_pylist() == list(range(3000))
    assert pa.types.is_int64(found.schema.field("id").type)
