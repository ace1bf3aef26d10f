"""SQL and rights: hidden columns and tables, tickets of queries, statements that change tables, filters."""

import json
import re

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import sql_calls
from cluster import descriptor, put, without_request_id
from identity_cluster import ADMIN, refusal_of
from sql_calls import command, plan, rows, sql_name, update

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [1.5, 2.5, 3.5]})


def read_here(client, endpoint):
    """Reads an endpoint where it was planned: the credentials are this client's."""
    return client.do_get(endpoint.ticket).read_all()


def query(client, statement):
    return sql_calls.query(client, statement, read=read_here)


def get(client, name, **options):
    info = client.get_flight_info(descriptor(name, **options))
    return pa.concat_tables([read_here(client, endpoint) for endpoint in info.endpoints])


def error_of(call, name):
    """The kind of error of a call, and its text without a name and without what gRPC adds."""
    try:
        call()
    except (flight.FlightError, pa.ArrowException, KeyError, NotImplementedError) as error:
        text = without_request_id(str(error).partition("gRPC client debug context")[0])
        return type(error), re.sub(rf"\b{name}\b", "NAME", text)
    raise AssertionError("no error")


def test_hidden_column_is_like_a_missing_one(secured, name):
    put(secured.client(), name, TABLE)
    ana, table = secured.add_user(("reader", name, ["a", "c"])), sql_name(name)
    for member in secured.members():
        client = secured.client(member, user=ana)
        assert query(client, f"SELECT * FROM {table}").equals(TABLE.select(["a", "c"]))
        assert query(client, f"SELECT * FROM {table} WHERE c > 2").equals(TABLE.select(["a", "c"]).slice(1))
        assert query(client, f"SELECT count(*) AS n, max(a) AS m FROM {table}").to_pylist() == [{"n": 3, "m": 3}]
        schema, _, last = name.rpartition("/")
        columns = query(client, f"""SELECT column_name FROM information_schema.columns
            WHERE table_schema = '{schema}' AND table_name = '{last}' ORDER BY column_name""")
        assert columns["column_name"].to_pylist() == ["a", "c"]
        for statement in (
            "SELECT {} FROM " + table, "SELECT max({}) FROM " + table, "SELECT a FROM " + table + " WHERE {} = 'y'",
            "SELECT count(*) FROM " + table + " t JOIN " + table + " u ON t.{} = u.{}", "SELECT a FROM " + table + " ORDER BY {}",
        ):
            hidden, missing = (
                error_of(lambda: query(client, statement.format(column, column)), column) for column in ("b", "q")
            )
            assert hidden == missing, statement
        for text in ("b = 'y'", "a > 1 AND b IS NOT NULL", "CASE WHEN b = 'x' THEN true ELSE false END"):
            hidden, missing = (
                error_of(lambda: get(client, name, where=text.replace("b ", f"{column} ")), column) for column in ("b", "q")
            )
            assert hidden == missing and hidden[0] is pa.ArrowInvalid and "no such column" in hidden[1], hidden


def test_hidden_table_is_like_a_missing_one(secured, name):
    put(secured.client(), f"{name}/hidden", TABLE)
    put(secured.client(), f"{name}/seen", TABLE)
    ana = secured.add_user(("reader", f"{name}/seen"))
    for member in secured.members():
        client = secured.client(member, user=ana)
        shown = query(client, f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{name}'")
        assert shown["table_name"].to_pylist() == ["seen"]
        assert "hidden" not in str(query(client, "SHOW TABLES").to_pylist())
        for statement in (
            "SELECT * FROM {}", "SELECT * FROM {} WHERE a > 1", "SELECT count(*) FROM {}", "DESCRIBE {}", "EXPLAIN SELECT * FROM {}",
            "SELECT count(*) FROM {} JOIN " + sql_name(f"{name}/seen") + " s USING (a)", "SELECT count(*) FROM {} FOR VERSION AS OF 1",
        ):
            found = []
            for table in ("hidden", "absent"):
                found.append(error_of(lambda: query(client, statement.format(sql_name(f"{name}/{table}"))), table))
            assert found[0] == found[1] and issubclass(found[0][0], KeyError), statement
        for table in ("hidden", "absent"):
            with pytest.raises(KeyError, match="there is no table"):
                get(client, f"{name}/{table}", where="a > 1")


def test_query_ticket_of_another_principal_is_refused(secured, name):
    put(secured.client(), name, TABLE, shareable_tickets=True)
    ana, eve = secured.add_user(("reader", name)), secured.add_user(("reader", name))
    [endpoint] = plan(secured.client(user=ana), f"SELECT count(*) AS n FROM {sql_name(name)}").endpoints
    for member in secured.members():
        for user in (eve, ADMIN):
            with pytest.raises(flight.FlightUnauthorizedError):
                secured.client(member, user=user).do_get(endpoint.ticket).read_all()
        with pytest.raises(flight.FlightUnauthenticatedError):
            secured.client(member, user=None).do_get(endpoint.ticket).read_all()
        assert secured.client(member, user=ana).do_get(endpoint.ticket).read_all()["n"].to_pylist() == [3]


def test_revoked_right_ends_tickets_of_queries_and_filters(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name))
    client = secured.client(user=ana)
    infos = [plan(client, f"SELECT max(a) AS m FROM {sql_name(name)}"), client.get_flight_info(descriptor(name, where="a > 1"))]
    secured.revoke(f"user:{ana}", "reader", name)
    for member in secured.members():
        for info in infos:
            with pytest.raises((KeyError, flight.FlightUnauthorizedError)):
                secured.client(member, user=ana).do_get(info.endpoints[0].ticket).read_all()


def test_fewer_columns_end_a_filter_on_the_others(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name))
    info = secured.client(user=ana).get_flight_info(descriptor(name, where="b = 'y'", columns=["a"]))
    secured.grant(f"user:{ana}", "reader", name, ["a"])
    secured.settle()
    for member in secured.members():
        with pytest.raises((flight.FlightUnauthorizedError, pa.ArrowInvalid)):
            secured.client(member, user=ana).do_get(info.endpoints[0].ticket).read_all()


def test_changes_need_the_roles_of_puts_and_drops(secured, name):
    put(secured.client(), f"{name}/t", TABLE)
    reader, writer, owner = (secured.add_user((role, name)) for role in ("reader", "writer", "owner"))
    table, new = sql_name(f"{name}/t"), sql_name(f"{name}/new")
    outside = sql_name(f"{name}_old")
    for member in (secured.coordinators[0], secured.nodes[0]):
        of = lambda user: secured.client(member, user=user)
        for user, statement, role in (
            (reader, f"INSERT INTO {table} SELECT * FROM {table}", "writer"),
            (reader, f"CREATE TABLE {new} AS SELECT 1 AS one", "writer"),
            (reader, f"DROP TABLE {table}", "owner"),
            (writer, f"DROP TABLE {table}", "owner"),
            (owner, f"CREATE TABLE {outside} (a INT)", "writer"),
        ):
            refused = refusal_of(lambda: update(of(user), statement))
            assert isinstance(refused, flight.FlightUnauthorizedError) and role in str(refused), (statement, refused)
        assert get(of(reader), f"{name}/t").equals(TABLE)
        assert update(of(writer), f"CREATE TABLE {new} AS SELECT a FROM {table} WHERE a > 1") == 2
        assert rows(get(of(reader), f"{name}/new")) == [(2,), (3,)]
        assert update(of(owner), f"DROP TABLE {new}") == 0
    # Rows that one may not read cannot be copied.
    mixed = secured.add_user(("writer", f"{name}/mine"))
    mine = sql_name(f"{name}/mine")
    for statement in (f"CREATE TABLE {mine} AS SELECT * FROM {table}", f"CREATE TABLE {mine} AS SELECT count(*) AS n FROM {table}"):
        with pytest.raises(KeyError, match="there is no table"):
            update(secured.client(user=mixed), statement)


def test_nobody_runs_statements_in_a_cluster_with_users(secured, name):
    for member in secured.members():
        client = secured.client(member, user=None)
        for call in (
            lambda: query(client, "SELECT 1 AS one"),
            lambda: client.do_get(flight.Ticket(command("SELECT 1 AS one"))).read_all(),
            lambda: update(client, f"CREATE TABLE {sql_name(name)} (a INT)"),
            lambda: list(client.do_action(flight.Action("CreatePreparedStatement", b""))),
            lambda: client.do_get(flight.Ticket(json.dumps({"table": name, "where": "a > 1"}).encode())).read_all(),
        ):
            assert isinstance(refusal_of(call), flight.FlightUnauthenticatedError)


def test_queries_are_audited_with_their_tables(secured, name):
    put(secured.client(), name, TABLE)
    ana = secured.add_user(("reader", name))
    query(secured.client(user=ana), f"SELECT count(*) AS n FROM {sql_name(name)}")
    lines = secured.wait_audited(principal=ana, operation="DoGet")
    assert any(name in json.dumps(line) for line in lines), lines
