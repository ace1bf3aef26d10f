"""SQL by plain Flight calls: queries at every member, versions, cancellation, statements that change tables, errors."""

import concurrent.futures
import json
import re

import grpc
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pytest

from cluster import get, put, wait_until
from sql_calls import ENDLESS, cancel, command, plan, query, rows, sql_name, update
from protobuf import SERVICE, field

TABLE = pa.table({
    "id": pa.array(range(3000), pa.int64()),
    "kind": pa.array([("ant", "bee", "cat", None)[i % 4] for i in range(3000)]),
    "price": pa.array([i / 8 for i in range(3000)], pa.float64()),
})
KINDS = pa.table({"kind": ["ant", "bee", "dog"], "legs": pa.array([6, 6, 4], pa.int32())})
SUMS = "SELECT kind, count(*) AS n, sum(price) AS total FROM {} GROUP BY kind"


def sums(table):
    groups = table.group_by("kind").aggregate([("id", "count"), ("price", "sum")])
    return rows(groups.select(["kind", "id_count", "price_sum"]))


@pytest.fixture
def put_table(client, name):
    """A table of several parts; its name in a statement."""
    put(client, name, TABLE.slice(0, 1000))
    for start in (1000, 2000):
        put(client, name, TABLE.slice(start, 1000), mode="append")
    return sql_name(name)


def test_query_gives_the_same_at_every_member(shared, put_table):
    for member in shared.members():
        client = shared.client(member)
        assert rows(query(client, SUMS.format(put_table))) == sums(TABLE)
        # The statement as a ticket, and in a header.
        ticket = flight.Ticket(command(SUMS.format(put_table)))
        assert rows(client.do_get(ticket).read_all()) == sums(TABLE)
        options = flight.FlightCallOptions(headers=[(b"x-volley-sql", SUMS.format(put_table).encode())])
        [endpoint] = client.get_flight_info(flight.FlightDescriptor.for_path("none"), options).endpoints
        assert rows(client.do_get(endpoint.ticket).read_all()) == sums(TABLE)


def test_ticket_of_a_query_is_redeemed_by_every_member(shared, put_table):
    info = plan(shared.client(), SUMS.format(put_table))
    [endpoint] = info.endpoints
    assert (info.total_records, info.total_bytes) == (-1, -1) and endpoint.expiration_time is not None
    for member in shared.members():
        assert rows(shared.client(member).do_get(endpoint.ticket).read_all()) == sums(TABLE)


def test_schema_call_and_echoed_descriptor_belong_to_the_statement(shared, put_table):
    for member in (shared.coordinators[1], shared.nodes[0]):
        client = shared.client(member)
        for statement in (SUMS.format(put_table), f"SELECT price, id FROM {put_table} WHERE id > 3"):
            info = plan(client, statement)
            assert info.descriptor.command == command(statement)
            found = client.get_schema(flight.FlightDescriptor.for_command(command(statement))).schema
            assert found.equals(info.schema, check_metadata=True)


def test_plain_select_has_the_endpoints_of_a_read(shared, client, put_table):
    whole = plan(client, f"SELECT * FROM {put_table}")
    assert whole.total_records == 3000 and whole.ordered
    assert all(len(endpoint.locations) == 2 for endpoint in whole.endpoints), "two replicas"
    assert query(client, f"SELECT * FROM {put_table}").equals(TABLE)
    for member in shared.members():
        found = query(shared.client(member), f"SELECT price, id FROM {put_table} WHERE kind = 'bee' AND id >= 100")
        mask = pc.and_(pc.equal(TABLE["kind"], "bee"), pc.greater_equal(TABLE["id"], 100))
        assert found.equals(TABLE.filter(mask).select(["price", "id"]))


def test_limit_gives_so_many_rows_from_one_endpoint(client, put_table):
    for statement, count in (
        (f"SELECT * FROM {put_table} WHERE price >= 0 LIMIT 1500", 1500),
        (f"SELECT id FROM {put_table} WHERE id < 7 LIMIT 100", 7),
        (f"SELECT id FROM {put_table} LIMIT 1200", 1200),
    ):
        assert len(plan(client, statement).endpoints) == 1 or "WHERE" not in statement
        found = query(client, statement)
        assert found.num_rows == count
        assert found.equals(TABLE.select(found.column_names).slice(0, count)), "the first rows, in order"


def test_join_order_and_empty_results(client, name, put_table):
    put(client, f"{name}/kinds", KINDS)
    kinds = sql_name(f"{name}/kinds")
    found = query(client, f"""
        SELECT k.kind, k.legs, count(t.id) AS n FROM {kinds} k LEFT JOIN {put_table} t ON t.kind = k.kind
        GROUP BY k.kind, k.legs ORDER BY k.kind DESC""")
    assert found.to_pylist() == [
        {"kind": "dog", "legs": 4, "n": 0}, {"kind": "bee", "legs": 6, "n": 750}, {"kind": "ant", "legs": 6, "n": 750}
    ]
    none = query(client, f"SELECT kind, sum(price) AS total FROM {put_table} WHERE id < 0 GROUP BY kind")
    assert none.num_rows == 0 and none.column_names == ["kind", "total"]


def test_table_is_found_by_each_spelling(client, name):
    table = f"{name}/Upper Case"
    put(client, table, TABLE.slice(0, 3))
    for spelling in (sql_name(table), f'"{table}"', f'volley."{name}"."Upper Case"'):
        assert query(client, f"SELECT count(*) AS n FROM {spelling}")["n"].to_pylist() == [3], spelling
    with pytest.raises(KeyError):
        query(client, f'SELECT count(*) FROM "{name}".Upper')


def test_table_that_exists_in_another_case_is_named(client, name):
    put(client, f"{name}/Upper", TABLE.slice(0, 3))
    folded = f'"{name}".Upper'
    expected = f'there is no table "{name}/upper": did you mean "{name}/Upper"'
    for statement in ("SELECT * FROM {}", "SELECT id FROM {} WHERE id > 1", "SELECT count(*) FROM {}", "DESCRIBE {}"):
        with pytest.raises(KeyError, match=re.escape(expected)):
            query(client, statement.format(folded))
        with pytest.raises(KeyError, match=re.escape(expected)):
            client.do_get(flight.Ticket(command(statement.format(folded)))).read_all()
    for statement in ("INSERT INTO {} SELECT * FROM {}", "INSERT INTO {} (id) VALUES (1)", "DROP TABLE {}"):
        with pytest.raises(KeyError, match=re.escape(expected)):
            update(client, statement.replace("{}", folded))
    with pytest.raises(KeyError, match=re.escape(expected)):
        client.get_schema(flight.FlightDescriptor.for_path(name, "upper"))
    assert query(client, f'SELECT count(*) AS n FROM "{name}"."Upper"')["n"].to_pylist() == [3]


def test_column_that_exists_in_another_case_is_named(client, name):
    put(client, name, pa.table({"Price": [1.5], "id": [7]}))
    table = sql_name(name)
    for statement in ("SELECT Price FROM {}", "SELECT id FROM {} WHERE Price > 1", "SELECT sum(Price) FROM {}"):
        with pytest.raises(pa.ArrowInvalid, match='did you mean .*"Price"'):
            query(client, statement.format(table))
    with pytest.raises(pa.ArrowInvalid, match='did you mean "Price"'):
        update(client, f"INSERT INTO {table} (Price) VALUES (2)")


def test_pinned_version_outlives_a_replace(shared, client, name, put_table):
    planned = [plan(client, SUMS.format(put_table)), plan(client, f"SELECT * FROM {put_table} WHERE id >= 0")]
    put(client, name, TABLE.slice(0, 10))
    assert rows(query(client, SUMS.format(put_table))) == sums(TABLE.slice(0, 10))
    for member in shared.members():
        there = shared.client(member)
        engine, plain = (pa.concat_tables([there.do_get(e.ticket).read_all() for e in info.endpoints]) for info in planned)
        assert rows(engine) == sums(TABLE) and plain.equals(TABLE)


def test_ticket_of_a_dropped_table_never_reads_the_next_one(shared, client, name):
    put(client, name, TABLE)
    table = sql_name(name)
    planned = plan(client, SUMS.format(table)), plan(client, f"SELECT id FROM {table} WHERE id > 5")
    of_version = plan(client, SUMS.format(f"{table} FOR VERSION AS OF 1"))
    update(client, f"DROP TABLE {table}")
    put(client, name, TABLE.slice(0, 10))
    for member in shared.members():
        there = shared.client(member)
        engine, plain, old = (
            pa.concat_tables([there.do_get(e.ticket).read_all() for e in info.endpoints])
            for info in (*planned, of_version)
        )
        assert rows(engine) == rows(old) == sums(TABLE) and plain.num_rows == TABLE.num_rows - 6
        assert rows(query(there, SUMS.format(f"{table} FOR VERSION AS OF 1"))) == sums(TABLE.slice(0, 10))


def test_two_versions_of_a_table_are_joined(client, name, put_table):
    put(client, name, TABLE.slice(0, 10))
    found = query(client, f"""
        SELECT (SELECT count(*) FROM {put_table} FOR VERSION AS OF 1) AS one,
               (SELECT count(*) FROM {put_table} FOR VERSION AS OF 3) AS three,
               (SELECT count(*) FROM {put_table}) AS newest""")
    assert found.to_pylist() == [{"one": 1000, "three": 3000, "newest": 10}]
    assert query(client, f"SELECT * FROM {put_table} FOR VERSION AS OF 1").equals(TABLE.slice(0, 1000))
    with pytest.raises(KeyError, match="version"):
        query(client, f"SELECT count(*) FROM {put_table} FOR VERSION AS OF 99")


def test_query_survives_a_stopped_node(own):
    cluster = own(coordinators=1, nodes=3)
    put(cluster.client(), "t", TABLE, shards=3, shard_by=["id"])
    assert rows(query(cluster.client(), SUMS.format("t"))) == sums(TABLE)
    cluster.nodes[0].kill()
    for member in (cluster.coordinators[0], *cluster.nodes[1:]):
        client = cluster.client(member)
        assert rows(query(client, SUMS.format("t"))) == sums(TABLE)
        assert sorted(query(client, "SELECT id FROM t WHERE kind = 'cat'")["id"].to_pylist()) == list(range(2, 3000, 4))


def test_cancelled_query_ends_and_frees_its_place(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--max-concurrent-queries", "1"))
    client = cluster.client()
    put(client, "t", TABLE)
    info = plan(client, ENDLESS)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # Batch by batch: pyarrow interrupts the main thread when `read_all` is cancelled.
        reading = pool.submit(lambda: list(cluster.client().do_get(info.endpoints[0].ticket)))

        def refused():
            assert not reading.done(), reading.exception()
            try:
                query(client, SUMS.format("t"))
            except pa.ArrowInvalid as error:
                # The limit of one client, or of all.
                return "the most that" in str(error)
            return False

        wait_until(refused, 30, "the long query takes the only place")
        cancel(client, info)
        with pytest.raises(flight.FlightCancelledError):
            reading.result(timeout=30)

    def served():
        try:
            return rows(query(client, SUMS.format("t"))) == sums(TABLE)
        except pa.ArrowInvalid:
            return False

    wait_until(served, 30, "the place is free")


def test_query_ends_with_its_reader(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--max-concurrent-queries", "1"))
    client = cluster.client()
    put(client, "t", TABLE)
    reader = client.do_get(plan(client, ENDLESS).endpoints[0].ticket)
    reader.cancel()

    def served():
        try:
            return query(client, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [3000]
        except pa.ArrowInvalid:
            return False

    wait_until(served, 30, "the place of the query is free")


def test_long_query_ends_at_its_time_limit(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--statement-timeout-s", "5"))
    put(cluster.client(), "t", TABLE)
    with pytest.raises(flight.FlightTimedOutError):
        query(cluster.client(), ENDLESS)


def test_changes_are_atomic_writes_with_a_count(shared, name):
    table, copy = sql_name(name), sql_name(f"{name}/copy")
    for member in (shared.coordinators[1], shared.nodes[1]):
        client = shared.client(member)
        create = f"CREATE TABLE {table} (id BIGINT NOT NULL, kind VARCHAR, price DOUBLE) WITH (shards = 2, shard_by = 'id')"
        assert update(client, create) == 0
        with pytest.raises((flight.FlightError, pa.ArrowException), match="exists"):
            update(client, create)
        assert update(client, create.replace("TABLE", "TABLE IF NOT EXISTS", 1)) == 0
        assert update(client, f"INSERT INTO {table} VALUES (1, 'ant', 0.5), (2, NULL, 3)") == 2
        assert update(client, f"INSERT INTO {table} (kind, id) SELECT 'bee', id + 10 FROM {table}") == 2
        expected = [(1, "ant", 0.5), (11, "bee", None), (12, "bee", None), (2, None, 3.0)]
        assert rows(query(client, f"SELECT * FROM {table}")) == sorted(expected, key=repr)
        # A value that does not fit: nothing of the statement is written.
        for bad in (f"INSERT INTO {table} VALUES (3, 'x', 1.0), (NULL, 'y', 2.0)", f"INSERT INTO {table} (id) VALUES (2.5)"):
            with pytest.raises(pa.ArrowInvalid, match="id"):
                update(client, bad)
        assert query(client, f"SELECT count(*) AS n FROM {table}")["n"].to_pylist() == [4]
        assert update(client, f"CREATE TABLE {copy} AS SELECT id, kind FROM {table} WHERE kind = 'bee'") == 2
        assert rows(get(client, f"{name}/copy")) == [(11, "bee"), (12, "bee")]
        assert update(client, f"CREATE OR REPLACE TABLE {copy} AS SELECT 1 AS one") == 1
        assert get(client, f"{name}/copy").to_pylist() == [{"one": 1}]
        for dropped in (table, copy):
            assert update(client, f"DROP TABLE {dropped}") == 0
        with pytest.raises(KeyError):
            update(client, f"DROP TABLE {table}")
        assert update(client, f"DROP TABLE IF EXISTS {table}") == 0


def test_lists_of_tables_and_columns(client, name, put_table):
    schema, _, last = name.rpartition("/")
    where = f"WHERE table_schema = '{schema}' AND table_name = '{last}'"
    listed = query(client, f"SELECT table_catalog, table_name FROM information_schema.tables {where}")
    assert listed.to_pylist() == [{"table_catalog": "volley", "table_name": last}]
    columns = query(client, f"SELECT column_name FROM information_schema.columns {where} ORDER BY ordinal_position")
    assert columns["column_name"].to_pylist() == TABLE.column_names
    assert last in str(query(client, "SHOW TABLES").to_pylist())
    assert query(client, f"DESCRIBE {put_table}").num_rows == 3


def test_explain_shows_the_version_that_is_read(client, put_table):
    for statement in ("EXPLAIN", "EXPLAIN ANALYZE"):
        text = str(query(client, f"{statement} SELECT kind FROM {put_table} WHERE id > 2900").to_pylist())
        assert "PartScanExec" in text and "version" in text and "2900" in text, text


ERRORS = {
    "no statement": ("", pa.ArrowInvalid, "no statement"),
    "syntax": ("SELEC 1", (pa.ArrowInvalid, NotImplementedError), "(?i)selec"),
    "several statements": ("SELECT 1; SELECT 2", pa.ArrowInvalid, "one at a time"),
    "missing table": ("SELECT count(*) FROM nothing_here", KeyError, "nothing_here"),
    "column of another name": ("SELECT sum(prise) FROM {}", pa.ArrowInvalid, "(?i)did you mean.*price"),
    "column of another name in a filter": ("SELECT * FROM {} WHERE prise > 1", pa.ArrowInvalid, "(?i)did you mean.*price"),
    "delete": ("DELETE FROM {}", NotImplementedError, "CREATE OR REPLACE TABLE"),
    "update": ("UPDATE {} SET id = 1", NotImplementedError, "CREATE OR REPLACE TABLE"),
    "truncate": ("TRUNCATE TABLE {}", NotImplementedError, "mode replace"),
    "alter": ("ALTER TABLE {} ADD COLUMN x INT", NotImplementedError, "CREATE OR REPLACE TABLE"),
    "transaction": ("BEGIN", NotImplementedError, "autocommit"),
    "setting": ("SET x = 1", NotImplementedError, "SET"),
    "copy": ("COPY {} TO 'x.csv'", NotImplementedError, "volley get"),
    "change in a call that reads": ("DROP TABLE {}", pa.ArrowInvalid, "do_put"),
    "division by zero": ("SELECT 1 / (id - id) AS x FROM {}", pa.ArrowInvalid, "(?i)zero"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_statement_says_what_to_do(shared, put_table, case):
    statement, kind, why = ERRORS[case]
    for member in (shared.coordinators[0], shared.nodes[2]):
        with pytest.raises(kind, match=why):
            query(shared.client(member), statement.format(put_table))


def test_query_in_a_call_that_changes_is_refused(client, put_table):
    with pytest.raises(pa.ArrowInvalid, match="only reads"):
        update(client, f"SELECT * FROM {put_table}")
    with pytest.raises(NotImplementedError, match="CREATE OR REPLACE TABLE"):
        update(client, f"DELETE FROM {put_table}")


def test_options_beside_a_statement_are_refused(client, put_table):
    for extra in ({"limit": 3}, {"table": "x"}, {"where": "id > 1"}):
        mixed = json.dumps({"sql": f"SELECT * FROM {put_table}"} | extra)
        with pytest.raises(pa.ArrowInvalid, match=next(iter(extra))):
            client.get_flight_info(flight.FlightDescriptor.for_command(mixed))
    options = flight.FlightCallOptions(headers=[(b"x-volley-limit", b"3")])
    described = flight.FlightDescriptor.for_command(command(SUMS.format(put_table)))
    with pytest.raises(pa.ArrowInvalid, match="x-volley-limit"):
        client.get_flight_info(described, options)


def test_forged_ticket_of_a_query_is_refused(shared, put_table):
    ticket = bytearray(plan(shared.client(), SUMS.format(put_table)).endpoints[0].ticket.ticket)
    ticket[-1] ^= 1
    for member in (shared.coordinators[2], shared.nodes[3]):
        with pytest.raises((flight.FlightError, pa.ArrowInvalid)):
            shared.client(member).do_get(flight.Ticket(bytes(ticket))).read_all()


def test_ticket_of_a_query_is_not_renewed_but_that_of_a_filter_is(client, put_table):
    [endpoint] = plan(client, SUMS.format(put_table)).endpoints
    with pytest.raises(pa.ArrowInvalid, match="get_flight_info again"):
        list(client.do_action(flight.Action("RenewFlightEndpoint", field(1, endpoint.serialize()))))
    info = plan(client, f"SELECT id FROM {put_table} WHERE id >= 0 LIMIT 10")
    [reply] = client.do_action(flight.Action("RenewFlightEndpoint", field(1, info.endpoints[0].serialize())))
    renewed = flight.FlightEndpoint.deserialize(reply.body.to_pybytes())
    assert client.do_get(renewed.ticket).read_all()["id"].to_pylist() == list(range(10))


def test_result_larger_than_a_message_arrives_whole(client, put_table):
    found = query(client, f"SELECT a.id * 3000 + b.id AS n, a.kind FROM {put_table} a, {put_table} b WHERE b.id < 300")
    assert found.num_rows == 900_000 and pc.count_distinct(found["n"]).as_py() == 900_000


def test_messages_of_results_are_within_the_limit_of_clients(shared, client, name):
    """gRPC refuses larger ones than 4 MiB, unless a client says otherwise."""
    put(client, name, pa.table({"id": pa.array(range(1_000_000), pa.int64())}))
    table = sql_name(name)
    for statement in (
        f"SELECT id FROM {table}", f"SELECT id FROM {table} WHERE id >= 0", f"SELECT id + 1 AS n FROM {table}",
        "SELECT value, repeat('x', 5000) AS x FROM generate_series(1, 2000)",
    ):
        for member in (shared.coordinators[0], shared.nodes[0]):
            with grpc.insecure_channel(shared.address(member).removeprefix("grpc+tcp://")) as there:
                messages = there.unary_stream(SERVICE + "DoGet")(field(1, command(statement)), timeout=60)
                sizes = [len(message) for message in messages]
            assert max(sizes) <= 4 << 20 and sum(sizes) > 7 << 20, (statement, member.name)
