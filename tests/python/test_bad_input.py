"""Invalid requests of clients get the right error, and nothing is stored."""

import os

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, finish, get, put

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})


@pytest.mark.parametrize("member", [0, 4])
def test_unknown_table_is_named(shared, member):
    client = shared.client(shared.members()[member])
    for call in (
        lambda: client.get_flight_info(descriptor("no/such table")),
        lambda: client.get_schema(descriptor("no/such table")),
        lambda: client.do_get(flight.Ticket(b"no/such table")).read_all(),
        lambda: action(client, "drop_table", b"no/such table"),
        lambda: put(client, "no/such table", TABLE, mode="append"),
    ):
        with pytest.raises(KeyError, match="no/such table"):
            call()


@pytest.mark.parametrize("command, word", [
    (b"", "empty"), (b"a//b", "empty component"), (b"x" * 2000, "1,024"), (b"\xff", "UTF-8"),
    (b'{"table": "a", "colums": ["a"]}', "colums"), (b'{"limit": 3}', "table"), (b'{"table": "a"', "JSON"),
    (b'{"table": "a", "limit": -1}', "-1"),
])
def test_bad_name_or_option_is_named(client, command, word):
    with pytest.raises(pa.ArrowInvalid, match=word):
        client.get_flight_info(flight.FlightDescriptor.for_command(command))
    with pytest.raises(pa.ArrowInvalid, match=word):
        writer, reader = client.do_put(flight.FlightDescriptor.for_command(command), TABLE.schema)
        writer.write_table(TABLE)
        finish(writer, reader)


def test_unknown_column_or_version_is_named(client, name):
    put(client, name, TABLE)
    with pytest.raises(pa.ArrowInvalid, match="nope"):
        client.get_flight_info(descriptor(name, columns=["a", "nope"]))
    with pytest.raises(KeyError, match="99"):
        client.get_flight_info(descriptor(name, version=99))


@pytest.mark.parametrize("put_schema, field", [
    (pa.schema([("a", pa.float64()), ("b", pa.string())]), "a"),
    (pa.schema([("a", pa.int64()), ("c", pa.string())]), "b"),
    (pa.schema([("a", pa.int64())]), "b"),
    (pa.schema([("a", pa.int64()), ("b", pa.float64())]), "b"),
])
def test_append_with_other_schema_names_the_first_field(client, name, put_schema, field):
    put(client, name, TABLE)
    with pytest.raises(pa.ArrowInvalid, match=f'"{field}"'):
        put(client, name, put_schema.empty_table(), mode="append")
    assert get(client, name).equals(TABLE)


def test_append_may_have_other_schema_metadata(client, name):
    put(client, name, TABLE.replace_schema_metadata({"pandas": "1"}))
    put(client, name, TABLE.replace_schema_metadata({"pandas": "2"}), mode="append")
    assert get(client, name).num_rows == 6


def test_unusable_key_column_is_refused(client, name):
    with pytest.raises(pa.ArrowInvalid, match="nope"):
        put(client, name, TABLE, shard_by=["nope"])
    with pytest.raises(pa.ArrowInvalid, match="List"):
        put(client, name, pa.table({"l": [[1]]}), shard_by=["l"])
    with pytest.raises(KeyError):
        client.get_flight_info(descriptor(name))


def test_create_of_existing_table_is_refused(client, name):
    put(client, name, TABLE, mode="create")
    with pytest.raises(pa.ArrowException, match="exists"):
        put(client, name, TABLE, mode="create")


def test_garbage_and_forged_tickets_are_refused(shared, client, name):
    put(client, name, TABLE)
    ticket = client.get_flight_info(descriptor(name)).endpoints[0].ticket.ticket
    for member in (shared.coordinators[0], shared.nodes[0]):
        there = shared.client(member)
        with pytest.raises(flight.FlightUnauthorizedError, match="signature"):
            there.do_get(flight.Ticket(ticket[:-1] + bytes([ticket[-1] ^ 1]))).read_all()
        for garbage in (b"", ticket[:20], b"\x00\x01\x02", os.urandom(50)):
            with pytest.raises((pa.ArrowInvalid, KeyError)):
                there.do_get(flight.Ticket(garbage)).read_all()
        assert there.do_get(flight.Ticket(ticket)).read_all().equals(TABLE)


def test_actions_outside_of_clusters_are_refused(client):
    for name in ("clear", "shutdown"):
        with pytest.raises(flight.FlightUnauthorizedError):
            action(client, name)
    with pytest.raises((NotImplementedError, pa.ArrowInvalid), match="no_such"):
        action(client, "no_such_action")
    with pytest.raises(pa.ArrowInvalid, match="tabel"):
        action(client, "drop_table", {"tabel": "x"})


def test_malformed_flight_sql_is_refused(client):
    # Its type URL is one byte longer than it says.
    any_message = b"\x0a\x42type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery\x12\x00"
    with pytest.raises(pa.ArrowInvalid, match="SQL"):
        client.get_flight_info(flight.FlightDescriptor.for_command(any_message))


def test_requests_and_tickets_over_their_limits_are_refused(shared):
    """16 MiB and 8 MiB; a smaller one is read, and refused for what it says."""
    for member in (shared.coordinators[0], shared.nodes[0]):
        with shared.client(member) as client:
            for call, limit in (
                (lambda size: action(client, "list_tables", b" " * size), 16 << 20),
                (lambda size: client.get_flight_info(flight.FlightDescriptor.for_command(b"x" * size)), 16 << 20),
                (lambda size: client.do_get(flight.Ticket(b"x" * size)).read_all(), 8 << 20),
            ):
                with pytest.raises(pa.ArrowInvalid, match=f"resource exhausted.* over the limit of {limit}"):
                    call(limit + 1)
                try:
                    call(limit - 1_000)
                except (pa.ArrowException, flight.FlightError, KeyError) as error:
                    assert "over the limit" not in str(error), error
