"""Tables that expire: the option ttl_s of puts and CREATE TABLE, and temporary tables of ADBC."""

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, get, put, wait_until
from sql_calls import query, sql_name, update

TABLE = pa.table({"id": pa.array(range(5), pa.int64())})
HEADER = adbc_driver_flightsql.StatementOptions.RPC_CALL_HEADER_PREFIX.value
REFUSED = (flight.FlightError, pa.ArrowException, KeyError)


def stats(client, name):
    return action(client, "get_stats", {"table": name})


def is_gone(client, name):
    try:
        client.get_flight_info(flight.FlightDescriptor.for_path(*name.split("/")))
    except REFUSED as error:
        assert "there is no table" in str(error), error
        return str(error)
    return None


def wait_until_gone(client, name):
    """The error of a read once the table is dropped: a second after its time, or two."""
    return wait_until(lambda: is_gone(client, name), 60, f"{name} expires")


def test_table_expires_after_its_last_write_and_comes_back(client, name):
    put(client, name, TABLE, ttl_s=5)
    assert "volley restore" in wait_until_gone(client, name)
    assert action(client, "restore_version", {"table": name})["undropped"]
    assert get(client, name).equals(TABLE), "for another 5 s"


def test_time_to_live_is_an_option_of_the_table(client, name):
    table = sql_name(name)
    update(client, f"CREATE TABLE {table} (id BIGINT) WITH (ttl_s = 3600)")
    update(client, f"INSERT INTO {table} VALUES (1), (2)")
    first = stats(client, name)
    assert first["ttl_s"] == 3600 and first["rows"] == 2
    put(client, name, TABLE, mode="append", ttl_s=3600)
    later = stats(client, name)
    assert later["expires_ms"] == later["changed_ms"] + 3_600_000 >= first["expires_ms"]
    with pytest.raises(REFUSED, match="ttl_s = 3600.*append"):
        put(client, name, TABLE, mode="append", ttl_s=60)
    put(client, name, TABLE)
    assert stats(client, name)["ttl_s"] == 3600, "a replace keeps what it does not name"
    update(client, f"CREATE OR REPLACE TABLE {table} WITH (ttl_s = 0) AS SELECT * FROM {table}")
    lasting = stats(client, name)
    assert lasting["ttl_s"] is None and lasting["expires_ms"] is None and lasting["rows"] == 5
    for wrong in ("-1", "'soon'", "10000000000"):
        with pytest.raises(REFUSED, match="ttl_s"):
            update(client, f"CREATE TABLE {table} (id BIGINT) WITH (ttl_s = {wrong})")


def test_put_that_takes_longer_than_the_table_lives_is_committed(client, name):
    put(client, name, TABLE, ttl_s=3600)
    write = action(client, "begin_write", {"table": name, "mode": "append"})["write_id"]
    put(client, name, TABLE, mode="append", write_id=write)
    put(client, name, TABLE, ttl_s=1)
    # Another table, which is created later, expires meanwhile.
    put(client, f"{name}-b", TABLE, ttl_s=1)
    wait_until_gone(client, f"{name}-b")
    assert action(client, "commit_write", {"write_id": write})["rows"] == 5
    wait_until_gone(client, name)


@pytest.fixture
def cursor(shared):
    with dbapi.connect(shared.address(shared.nodes[0]), autocommit=True) as connection, connection.cursor() as cursor:
        yield cursor


def test_temporary_ingest_makes_a_table_that_expires(client, cursor, name):
    schema, last = name.split("/")
    where = {"db_schema_name": schema, "temporary": True}
    assert cursor.adbc_ingest(last, TABLE, mode="create", **where) == 5
    assert stats(client, name)["ttl_s"] == 3600
    assert cursor.adbc_ingest(last, TABLE, mode="append", **where) == 5
    assert cursor.adbc_ingest(last, TABLE, mode="create_append", **where) == 5
    assert get(client, name).num_rows == 15, "any connection sees it, by its name"
    assert cursor.adbc_ingest(last, TABLE, mode="replace", **where) == 5
    told = stats(client, name)
    assert told["ttl_s"] == 3600 and told["rows"] == 5
    with pytest.raises(dbapi.Error, match="exists already"):
        cursor.adbc_ingest(last, TABLE, mode="create", **where)
    # An ingest that is not temporary changes no option, as any append.
    cursor.adbc_ingest(last, TABLE, mode="append", db_schema_name=schema)
    assert stats(client, name)["ttl_s"] == 3600


def test_temporary_ingest_leaves_other_tables_alone(client, cursor, name):
    put(client, name, TABLE)
    schema, last = name.split("/")
    for mode in ("append", "replace", "create_append"):
        with pytest.raises(dbapi.Error, match="not temporary"):
            cursor.adbc_ingest(last, TABLE, mode=mode, db_schema_name=schema, temporary=True)
    told = stats(client, name)
    assert told["ttl_s"] is None and told["version"] == 1


def test_temporary_ingest_can_name_its_time(shared, client, name):
    schema, last = name.split("/")
    ingest = {"db_schema_name": schema, "temporary": True}
    with dbapi.connect(shared.address(shared.coordinators[0]), autocommit=True) as connection:
        with connection.cursor(adbc_stmt_kwargs={f"{HEADER}x-volley-ttl-s": "0"}) as cursor:
            with pytest.raises(dbapi.Error, match="ttl_s = 0"):
                cursor.adbc_ingest(last, TABLE, **ingest)
        with connection.cursor(adbc_stmt_kwargs={f"{HEADER}x-volley-ttl-s": "1"}) as cursor:
            assert cursor.adbc_ingest(last, TABLE, **ingest) == 5
    wait_until_gone(client, name)


def test_setting_says_how_long_temporary_tables_live(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--temporary-table-ttl-s", "7"))
    with dbapi.connect(cluster.address(cluster.nodes[0]), autocommit=True) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("t", TABLE, temporary=True)
    assert stats(cluster.client(), "t")["ttl_s"] == 7
    assert query(cluster.client(), "SELECT count(*) AS n FROM t")["n"].to_pylist() == [5]
