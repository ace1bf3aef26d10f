"""Transactions: by ADBC's DBAPI, which has autocommit off by default, and by plain Flight calls of several clients."""

import concurrent.futures
import subprocess
import sys
import warnings

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, get, put
from identity_cluster import headers, put_schema
from sql_calls import command, rows, sql_name
from test_sql_adbc import AUTHORIZATION, change, fetched

TABLE = pa.table({"id": pa.array(range(100), pa.int64())})
# The driver puts no transaction into the command of an ingest.
JOINS = "adbc.flight.sql.rpc.call_header.x-volley-transaction"
# A client that is killed before it commits.
WRITER = """
import sys
import adbc_driver_flightsql.dbapi as dbapi

connection = dbapi.connect(sys.argv[1])
with connection.cursor() as cursor:
    for table in sys.argv[2:]:
        cursor.executemany(f"CREATE TABLE {table} AS SELECT value AS id FROM generate_series(1, 1000)", None)
print("written", flush=True)
sys.stdin.read()
"""


def connect(cluster, member=None, **options):
    """As most programs connect: autocommit is off, and nothing warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return dbapi.connect(cluster.address(member or cluster.coordinators[0]), **options)


def begin(client):
    return action(client, "begin_transaction")["transaction"]


def commit(client, transaction):
    return action(client, "commit_transaction", {"transaction": transaction})


def abort(client, transaction):
    return action(client, "abort_transaction", {"transaction": transaction})


def is_missing(client, *tables):
    for table in tables:
        with pytest.raises(KeyError):
            get(client, table)


def test_default_connection_commits_and_rolls_back(shared, client, name):
    for at, member in enumerate((shared.coordinators[1], shared.nodes[1])):
        a, b = f"{name}/a{at}", f"{name}/b{at}"
        with connect(shared, member) as connection:
            for end in (connection.rollback, connection.commit):
                with connection.cursor() as cursor:
                    assert fetched(cursor, "SELECT 1 AS one").to_pylist() == [{"one": 1}]
                    change(cursor, f"CREATE TABLE {sql_name(a)} (id BIGINT NOT NULL, kind VARCHAR)")
                    cursor.executemany(f"INSERT INTO {sql_name(a)} VALUES (?, ?)", [(i, f"k{i}") for i in range(100)])
                    assert cursor.rowcount == 100
                    assert change(cursor, f"CREATE TABLE {sql_name(b)} AS SELECT 7 AS x") == 1
                    # Not even its own.
                    with pytest.raises(dbapi.Error, match="no table"):
                        fetched(cursor, f"SELECT * FROM {sql_name(a)}")
                is_missing(client, a, b)
                end()
            # There is nothing to roll back now, and closing does not commit.
            connection.rollback()
            with connection.cursor() as cursor:
                assert change(cursor, f"INSERT INTO {sql_name(b)} VALUES (8)") == 1
        assert rows(get(client, a)) == sorted(((i, f"k{i}") for i in range(100)), key=repr)
        assert rows(get(client, b)) == [(7,)]


def test_conflict_in_one_table_rolls_back_all(shared, client, name):
    create = lambda table: f"CREATE TABLE {sql_name(f'{name}/{table}')} AS SELECT 1 AS x"
    with connect(shared) as connection, connection.cursor() as cursor:
        change(cursor, create("a"))
        change(cursor, create("b"))
        put(client, f"{name}/b", TABLE)
        with pytest.raises(dbapi.Error, match="exists"):
            connection.commit()
        is_missing(client, f"{name}/a")
        assert get(client, f"{name}/b").equals(TABLE)
        # Until it is rolled back, the driver stays in it.
        with pytest.raises(dbapi.Error, match="roll back"):
            change(cursor, create("c"))
        connection.rollback()
        change(cursor, create("d"))
        connection.commit()
        assert get(client, f"{name}/d").num_rows == 1
    is_missing(client, f"{name}/a", f"{name}/c")


def test_statement_prepared_in_a_transaction_ends_with_it(shared, client, name):
    put(client, name, TABLE)
    insert, count = f"INSERT INTO {sql_name(name)} VALUES (?)", f"SELECT count(*) AS n FROM {sql_name(name)}"
    with connect(shared) as connection:
        with connection.cursor() as cursor:
            assert fetched(cursor, count)["n"].to_pylist() == [100]
            cursor.executemany(insert, [(100,), (101,)])
            connection.commit()
            # The cursor does not prepare the same text again.
            with pytest.raises(dbapi.Error, match="prepare it again"):
                cursor.executemany(insert, [(102,)])
            assert fetched(cursor, count)["n"].to_pylist() == [102]
        with connection.cursor() as cursor:
            cursor.executemany(insert, [(103,)])
        connection.commit()
    assert sorted(get(client, name)["id"].to_pylist()) == [*range(102), 103]


def test_query_of_a_transaction_reads_what_is_committed(shared, client, name):
    put(client, name, TABLE)
    count = f"SELECT count(*) AS n FROM {sql_name(name)}"
    with connect(shared, shared.nodes[0]) as connection, connection.cursor() as cursor:
        assert change(cursor, f"INSERT INTO {sql_name(name)} VALUES (1000)") == 1
        assert fetched(cursor, count)["n"].to_pylist() == [100]
        put(client, name, TABLE, mode="append")
        assert fetched(cursor, count)["n"].to_pylist() == [200]
        assert fetched(cursor, f"SELECT id FROM {sql_name(name)} WHERE id >= 90").num_rows == 20
        assert change(cursor, f"INSERT INTO {sql_name(name)} SELECT id + 2000 FROM {sql_name(name)}") == 200
        connection.commit()
        assert fetched(cursor, count)["n"].to_pylist() == [401]


def test_ingest_of_the_driver_takes_effect_at_once(shared, client, name):
    schema, _, last = name.rpartition("/")
    with connect(shared) as connection, connection.cursor() as cursor:
        assert cursor.adbc_ingest(last, TABLE, mode="create", db_schema_name=schema) == 100
        assert get(client, name).equals(TABLE)
        connection.rollback()
    assert get(client, name).equals(TABLE)


def test_connections_share_a_transaction(shared, client, name):
    tables = [f"{name}/a", f"{name}/b"]
    members = shared.coordinators[:2] + shared.nodes[:2]

    def load(transaction, at):
        part, address = TABLE.slice(25 * at, 25), shared.address(members[at])
        with dbapi.connect(address, autocommit=True) as connection, connection.cursor(adbc_stmt_kwargs={JOINS: transaction}) as cursor:
            assert cursor.adbc_ingest("a", part, mode="create_append", db_schema_name=name) == 25
        with shared.client(members[at]) as other:
            outcome = put(other, tables[1], part, mode="create_append", transaction=transaction)
            assert outcome["rows"] == 25 and outcome["staged"]

    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        for end, committed in ((abort, False), (commit, True)):
            transaction = begin(client)
            list(pool.map(lambda at: load(transaction, at), range(len(members))))
            is_missing(client, *tables)
            ended = end(shared.client(shared.nodes[2]), transaction)
            assert (ended["committed"], sorted(ended["tables"])) == (committed, tables)
    for table in tables:
        assert get(client, table).sort_by("id").equals(TABLE)
    # As a client does whose reply was lost.
    assert commit(client, transaction)["committed"]
    with pytest.raises(flight.FlightError, match="committed already"):
        abort(client, transaction)


def test_killed_client_leaves_nothing_visible(shared, client, name):
    tables = [f"{name}/a", f"{name}/b"]
    arguments = [shared.address(shared.nodes[1]), *map(sql_name, tables)]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "written\n"
    finally:
        process.kill()
        process.communicate()
    is_missing(client, *tables)
    # What it left keeps nobody from the tables.
    put(client, tables[0], TABLE, mode="create")
    assert get(client, tables[0]).equals(TABLE)


def test_text_joins_a_transaction_by_a_header(client, name):
    put(client, name, TABLE)
    transaction = begin(client)
    options = headers(x_volley_transaction=transaction)

    def update(statement):
        descriptor = flight.FlightDescriptor.for_command(command(statement))
        writer, reader = client.do_put(descriptor, pa.schema([]), options)
        writer.done_writing()
        reader.read()
        writer.close()

    update(f"INSERT INTO {sql_name(name)} VALUES (100)")
    update(f"CREATE TABLE {sql_name(f'{name}/copy')} AS SELECT * FROM {sql_name(name)}")
    with pytest.raises(NotImplementedError, match="autocommit"):
        update(f"DROP TABLE {sql_name(name)}")
    for read, why in (("SELECT count(*) FROM {}", "x-volley-transaction"), ("SELECT * FROM {}", 'option "transaction"')):
        with pytest.raises(pa.ArrowInvalid, match=f"{why} has no effect"):
            client.do_get(flight.Ticket(command(read.format(sql_name(name)))), options).read_all()
    assert get(client, name).num_rows == 100
    commit(client, transaction)
    assert (get(client, name).num_rows, get(client, f"{name}/copy").num_rows) == (101, 100)


def test_modes_of_puts_into_one_table(client, name):
    transaction = begin(client)
    refuse = lambda **options: put_schema(client, name, TABLE.schema, transaction=transaction, **options)
    with pytest.raises(KeyError):
        refuse(mode="append")
    for mode in ("create", "append", "create_append"):
        assert put(client, name, TABLE, mode=mode, transaction=transaction)["staged"]
    for mode, why in (("create", "exists already"), ("replace", "created already")):
        with pytest.raises((flight.FlightError, pa.ArrowException), match=why):
            refuse(mode=mode)
    with pytest.raises(pa.ArrowInvalid, match="transaction"):
        refuse(mode="append", write_id="w")
    commit(client, transaction)
    assert get(client, name).num_rows == 300


def test_transaction_is_of_its_principal(secured, name):
    ana, bob = (secured.add_user(("writer", name)) for _ in range(2))
    with secured.client(user=ana) as one, secured.client(secured.nodes[0], user=bob) as other:
        transaction = begin(one)
        put(one, f"{name}/t", TABLE, transaction=transaction)
        for refused in (commit, abort):
            with pytest.raises(KeyError):
                refused(other, transaction)
        with pytest.raises(KeyError):
            put_schema(other, f"{name}/u", TABLE.schema, transaction=transaction)
        commit(one, transaction)
    assert secured.rows(f"{name}/t").equals(TABLE)


def test_commit_needs_the_rights_of_its_moment(secured, name):
    ana = secured.add_user(("writer", name))
    login = {AUTHORIZATION: f"Bearer {secured.session(ana)}"}
    with connect(secured, db_kwargs=login) as connection, connection.cursor() as cursor:
        change(cursor, f"CREATE TABLE {sql_name(f'{name}/t')} AS SELECT 1 AS x")
        secured.revoke(f"user:{ana}", "writer", name)
        with pytest.raises(dbapi.Error, match="rolled back"):
            connection.commit()
        secured.grant(f"user:{ana}", "writer", name)
        secured.settle()
        with pytest.raises(dbapi.Error, match="rolled back"):
            connection.commit()
        connection.rollback()
    is_missing(secured.client(), f"{name}/t")
