"""SQL by ADBC's driver for Flight SQL and its DBAPI: queries, metadata, prepared statements, ingest, users, cancellation."""

import concurrent.futures
import datetime
import decimal

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cluster import get, put, wait_until
from sql_calls import ENDLESS, rows, sql_name

AUTHORIZATION = "adbc.flight.sql.authorization_header"
TABLE = pa.table({
    "id": pa.array(range(2000), pa.int64()),
    "kind": pa.array([("ant", "bee", None)[i % 3] for i in range(2000)]),
    "price": pa.array([decimal.Decimal(i) / 4 for i in range(2000)], pa.decimal128(10, 2)),
    "day": pa.array([datetime.date(2026, 1, 1 + i % 28) for i in range(2000)], pa.date32()),
})


def connect(cluster, member=None, **options):
    return dbapi.connect(cluster.address(member or cluster.coordinators[0]), autocommit=True, **options)


def put_in_parts(client, name):
    """Puts TABLE as a table of several parts; returns its name in a statement."""
    put(client, name, TABLE.slice(0, 1000))
    put(client, name, TABLE.slice(1000), mode="append")
    return sql_name(name)


@pytest.fixture
def connection(shared):
    with connect(shared) as connection:
        yield connection


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def table(client, name):
    return put_in_parts(client, name)


def fetched(cursor, statement, parameters=None):
    cursor.execute(statement, parameters)
    return cursor.fetch_arrow_table()


def change(cursor, statement):
    """Runs a statement that changes tables; returns how many rows it has written. Also with drivers that send `execute` as a query."""
    cursor.executemany(statement, None)
    return cursor.rowcount


def test_execute_changes_tables_once(cursor, name):
    """The reply of a prepared statement says whether it is a query."""
    table = sql_name(name)
    cursor.execute(f"CREATE TABLE {table} (id BIGINT, kind VARCHAR)")
    cursor.execute(f"INSERT INTO {table} VALUES (1, 'ant'), (2, NULL)")
    cursor.execute(f"INSERT INTO {table} VALUES (?, ?)", (3, "bee"))
    assert fetched(cursor, f"SELECT count(*) AS n FROM {table}")["n"].to_pylist() == [3]
    cursor.execute(f"DROP TABLE {table}")
    with pytest.raises(dbapi.Error, match="there is no table"):
        fetched(cursor, f"SELECT count(*) AS n FROM {table}")


def test_queries_run_at_every_member(shared, table):
    counts = TABLE.group_by("kind").aggregate([("id", "count")]).select(["kind", "id_count"])
    for member in shared.members():
        with connect(shared, member) as connection, connection.cursor() as cursor:
            assert fetched(cursor, f"SELECT * FROM {table}").equals(TABLE)
            found = fetched(cursor, f"SELECT kind, count(*) AS n FROM {table} GROUP BY kind")
            assert rows(found) == rows(counts)
            found = fetched(cursor, f"SELECT day, id FROM {table} WHERE kind = 'bee' AND price > 450")
            mask = pc.and_kleene(pc.equal(TABLE["kind"], "bee"), pc.greater(TABLE["id"], 1800))
            assert found.equals(TABLE.filter(mask).select(["day", "id"]))
            assert fetched(cursor, f"SELECT id FROM {table} WHERE id < 0").num_rows == 0


def test_dbapi_describes_and_fetches_rows(cursor, table):
    cursor.execute(f"SELECT id, kind, price FROM {table} WHERE id < 5 ORDER BY id")
    assert [column[0] for column in cursor.description] == ["id", "kind", "price"]
    assert cursor.fetchone() == (0, "ant", decimal.Decimal("0.00"))
    assert cursor.fetchmany(2) == [(1, "bee", decimal.Decimal("0.25")), (2, None, decimal.Decimal("0.50"))]
    assert [row[0] for row in cursor.fetchall()] == [3, 4]
    assert cursor.fetchone() is None


def test_schema_of_a_query_is_known_without_running_it(cursor, table):
    schema = cursor.adbc_execute_schema(f"SELECT kind, price FROM {table} WHERE id > 3")
    assert schema.equals(TABLE.select(["kind", "price"]).schema)
    schema = cursor.adbc_execute_schema(f"SELECT max(day) AS last FROM {table}")
    assert schema.names == ["last"] and schema.types == [pa.date32()]


def test_partitions_are_read_one_by_one(cursor, table):
    for statement in (f"SELECT * FROM {table} WHERE id >= 500", f"SELECT * FROM {table} WHERE id >= 500 ORDER BY id"):
        partitions, schema = cursor.adbc_execute_partitions(statement)
        assert schema.equals(TABLE.schema)
        parts = []
        for partition in partitions:
            cursor.adbc_read_partition(partition)
            parts.append(cursor.fetch_arrow_table())
        assert pa.concat_tables(parts).equals(TABLE.slice(500))


def test_info_names_the_server(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Volley" and info["vendor_version"]
    assert connection.adbc_get_table_types() == ["TABLE"]


def objects(connection, **filters):
    """Catalog → schema → table → columns; None where the depth ends."""
    found = {}
    for catalog in connection.adbc_get_objects(**filters).read_all().to_pylist():
        schemas = found[catalog["catalog_name"]] = {}
        for schema in catalog["catalog_db_schemas"] or ():
            tables = schemas[schema["db_schema_name"]] = {}
            for table in schema["db_schema_tables"] or ():
                assert table["table_type"] == "TABLE"
                columns = table["table_columns"]
                tables[table["table_name"]] = columns and [column["column_name"] for column in columns]
    return found


def test_objects_are_listed_to_each_depth_with_filters(connection, client, name, table):
    put(client, f"{name}/a/x", TABLE.select(["id"]))
    schema, _, last = name.rpartition("/")
    assert list(objects(connection, depth="catalogs")) == ["volley"]
    schemas = objects(connection, depth="db_schemas", db_schema_filter=f"{name}%")["volley"]
    assert list(schemas) == [f"{name}/a"]
    tables = objects(connection, depth="tables", db_schema_filter=schema, table_name_filter=last)["volley"][schema]
    assert list(tables) == [last]
    tables = objects(connection, db_schema_filter=f"{name}/%", table_types_filter=["TABLE"])["volley"][f"{name}/a"]
    assert tables == {"x": ["id"]}
    whole = objects(connection, db_schema_filter=schema, table_name_filter=last)["volley"][schema][last]
    assert whole == TABLE.column_names
    assert connection.adbc_get_table_schema(last, db_schema_filter=schema).equals(TABLE.schema)
    with pytest.raises(dbapi.Error):
        connection.adbc_get_table_schema("nothing_here", db_schema_filter=schema)


def test_prepared_query_runs_with_each_value(cursor, table):
    statement = f"SELECT id FROM {table} WHERE id >= ? AND kind = ? ORDER BY id LIMIT 3"
    for start, kind in ((0, "ant"), (1000, "bee"), (1990, "ant")):
        wanted = [i for i in range(start, 2000) if TABLE["kind"][i].as_py() == kind][:3]
        assert fetched(cursor, statement, (start, kind))["id"].to_pylist() == wanted
    assert fetched(cursor, f"SELECT $2 AS two, $1 AS one FROM {table} LIMIT 1", (1, "x")).to_pylist() == [{"two": "x", "one": 1}]
    with pytest.raises(dbapi.Error):
        fetched(cursor, statement, (1,))


def test_prepared_statement_tells_its_parameters(cursor, table):
    assert len(cursor.adbc_prepare(f"SELECT id FROM {table} WHERE id >= ? AND kind = ?")) == 2
    assert not cursor.adbc_prepare(f"SELECT id FROM {table}")


def test_insert_with_parameters_writes_all_rows_or_none(cursor, client, name):
    table = sql_name(name)
    change(cursor, f"CREATE TABLE {table} (id BIGINT NOT NULL, kind VARCHAR)")
    cursor.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(i, f"k{i}") for i in range(100)])
    assert cursor.rowcount == 100
    assert rows(get(client, name)) == sorted(((i, f"k{i}") for i in range(100)), key=repr)
    with pytest.raises(dbapi.Error, match="id"):
        cursor.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(1, "x"), (None, "y")])
    assert get(client, name).num_rows == 100
    change(cursor, f"DROP TABLE {table}")
    with pytest.raises(KeyError):
        get(client, name)


def test_statement_that_changes_tells_its_rows(cursor, client, name, table):
    copy = sql_name(f"{name}/copy")
    assert change(cursor, f"CREATE TABLE {copy} AS SELECT * FROM {table} WHERE id < 10") == 10
    assert change(cursor, f"INSERT INTO {copy} SELECT * FROM {table} WHERE id >= 1990") == 10
    assert sorted(get(client, f"{name}/copy")["id"].to_pylist()) == [*range(10), *range(1990, 2000)]


def test_ingest_creates_appends_and_replaces(shared, name):
    schema, _, last = name.rpartition("/")
    for member in (shared.coordinators[1], shared.nodes[1]):
        client = shared.client(member)
        with connect(shared, member) as connection, connection.cursor() as cursor:
            def ingest(rows, mode):
                return cursor.adbc_ingest(last, rows, mode=mode, db_schema_name=schema)

            with pytest.raises(dbapi.Error):
                ingest(TABLE, "append")
            assert ingest(TABLE.slice(0, 10), "create") == 10
            with pytest.raises(dbapi.Error, match="exists"):
                ingest(TABLE, "create")
            assert ingest(TABLE.slice(10, 10), "append") == 10
            assert ingest(TABLE.slice(20, 10).to_reader(), "create_append") == 10
            assert get(client, name).sort_by("id").equals(TABLE.slice(0, 30))
            assert ingest(TABLE.slice(5, 5), "replace") == 5
            assert get(client, name).equals(TABLE.slice(5, 5))
            change(cursor, f"DROP TABLE {sql_name(name)}")
            assert ingest(TABLE, "create_append") == 2000
            assert get(client, name).sort_by("id").equals(TABLE)
            # The driver sends nothing at all for a table without a batch.
            assert ingest(TABLE.to_batches()[0].slice(0, 0), "replace") == 0
            assert get(client, name).equals(TABLE.slice(0, 0))
            # Last: a cursor keeps the name of the catalog for its later ingests.
            with pytest.raises(dbapi.Error, match="catalog"):
                cursor.adbc_ingest(last, TABLE, mode="create", catalog_name="other", db_schema_name=schema)
            change(cursor, f"DROP TABLE {sql_name(name)}")


def test_ingest_keeps_names_as_they_are(cursor, client, name):
    assert cursor.adbc_ingest("Upper Case", TABLE, mode="create", db_schema_name=name) == 2000
    assert get(client, f"{name}/Upper Case").sort_by("id").equals(TABLE)


ERRORS = {
    "several statements": ("SELECT 1; SELECT 2", "one at a time"),
    "missing table": ("SELECT count(*) FROM nothing_here", "nothing_here"),
    "column of another name": ("SELECT sum(prise) FROM {}", "(?i)did you mean"),
    "delete": ("DELETE FROM {}", "CREATE OR REPLACE TABLE"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_statement_says_why(cursor, table, case):
    statement, why = ERRORS[case]
    with pytest.raises(dbapi.Error, match=why):
        fetched(cursor, statement.format(table))


def test_cursor_is_cancelled(connection):
    with connection.cursor() as cursor, concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(fetched, cursor, ENDLESS)

        def cancelled():
            cursor.adbc_cancel()
            return reading.done()

        wait_until(cancelled, 30, "the query ends")
        assert isinstance(reading.exception(), dbapi.Error), reading


def test_users_log_in_and_see_what_they_may(secured, name):
    put(secured.client(), f"{name}/seen", TABLE)
    put(secured.client(), f"{name}/hidden", TABLE)
    ana = secured.add_user(("reader", f"{name}/seen", ["id", "kind"]))
    for login in (
        {AUTHORIZATION: f"Bearer {secured.token(ana)}"},
        {AUTHORIZATION: f"Bearer {secured.session(ana)}"},
        {"username": ana, "password": secured.passwords[ana]},
    ):
        secured.settle()
        for member in (secured.coordinators[0], secured.nodes[0]):
            with connect(secured, member, db_kwargs=login) as connection, connection.cursor() as cursor:
                assert fetched(cursor, f"SELECT * FROM {sql_name(name + '/seen')}").equals(TABLE.select(["id", "kind"]))
                assert objects(connection, db_schema_filter=f"{name}%")["volley"] == {name: {"seen": ["id", "kind"]}}
                with pytest.raises(dbapi.Error, match="hidden"):
                    fetched(cursor, f"SELECT count(*) FROM {sql_name(name + '/hidden')}")
                with pytest.raises(dbapi.Error):
                    fetched(cursor, f"SELECT max(price) FROM {sql_name(name + '/seen')}")
                with pytest.raises(dbapi.Error, match="writer"):
                    cursor.adbc_ingest("seen", TABLE.select(["id", "kind"]), mode="append", db_schema_name=name)
    with pytest.raises(dbapi.Error):
        with connect(secured, db_kwargs={AUTHORIZATION: "Bearer nobody"}) as connection, connection.cursor() as cursor:
            fetched(cursor, "SELECT 1")
