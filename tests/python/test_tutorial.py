"""Clients as tutorials and the libraries of other languages write them."""

import json

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, finish, get, put, read_endpoint, wait_until
from sql_calls import cancel

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})


def test_table_named_by_command(shared, name):
    """Puts by command, lists, reads `descriptor.command`, takes the first endpoint's ticket."""
    client = shared.client()
    writer, _ = client.do_put(flight.FlightDescriptor.for_command(name.encode()), TABLE.schema)
    writer.write_table(TABLE)
    writer.close()
    listed = {f.descriptor.command for f in client.list_flights() if f.descriptor.command}
    assert name.encode() in listed
    info = client.get_flight_info(flight.FlightDescriptor.for_command(name.encode()))
    assert info.descriptor.command == name.encode()
    assert client.do_get(info.endpoints[0].ticket).read_all().equals(TABLE)


def test_table_named_by_path(client, name):
    """Like the R client: `descriptor.path[[1]]`, the first endpoint, the original connection."""
    writer, _ = client.do_put(flight.FlightDescriptor.for_path(name.replace("/", "-")), TABLE.schema)
    writer.write_table(TABLE)
    writer.close()
    paths = [f.descriptor.path for f in client.list_flights() if f.descriptor.path]
    assert [name.replace("/", "-").encode()] in paths
    info = client.get_flight_info(flight.FlightDescriptor.for_path(name.replace("/", "-")))
    assert len(info.endpoints) == 1
    assert client.do_get(info.endpoints[0].ticket).read_all().equals(TABLE)


@pytest.mark.parametrize("listener", [None, "direct", "single"])
def test_every_location_can_be_dialled(shared, name, listener):
    """Like the official examples: `for location in endpoint.locations: connect(location)`."""
    put(shared.client(), name, TABLE)
    options = flight.FlightCallOptions(headers=[(b"x-volley-listener", listener.encode())] if listener else [])
    for member in shared.members():
        info = shared.client(member).get_flight_info(flight.FlightDescriptor.for_path(*name.split("/")), options)
        for endpoint in info.endpoints:
            assert endpoint.locations
            for location in endpoint.locations:
                with flight.connect(location) as there:
                    assert there.do_get(endpoint.ticket).read_all().equals(TABLE), location


def test_path_of_a_file_in_one_component(client, name):
    """Like the official example client's `put FILE`: the whole path is one component."""
    path = flight.FlightDescriptor.for_path(f"{name}/w.csv")
    writer, _ = client.do_put(path, TABLE.schema)
    writer.write_table(TABLE)
    writer.close()
    info = client.get_flight_info(path)
    assert info.descriptor == path
    assert client.do_get(info.endpoints[0].ticket).read_all().equals(TABLE)
    assert client.do_get(flight.Ticket(f"{name}/w.csv".encode())).read_all().equals(TABLE)
    assert client.get_schema(path).schema.equals(TABLE.schema)


def test_ticket_by_name_works_at_every_member(shared, client, name):
    put(client, name, TABLE)
    for member in shared.members():
        there = shared.client(member)
        assert there.do_get(flight.Ticket(name.encode())).read_all().equals(TABLE), member.name
        ticket = flight.Ticket(json.dumps({"table": name, "columns": ["b"], "limit": 2}).encode())
        assert there.do_get(ticket).read_all().equals(TABLE.select(["b"]).slice(0, 2)), member.name


def test_every_call_works_at_every_member(shared, name):
    for i, member in enumerate(shared.members()):
        there, table = shared.client(member), f"{name}/{i}"
        assert put(there, table, TABLE)["version"] == 1
        assert get(there, table).equals(TABLE)
        assert there.get_schema(descriptor(table)).schema.equals(TABLE.schema)
        assert [f.descriptor.path for f in there.list_flights(table.encode())] == [[p.encode() for p in table.split("/")]]
        info = there.get_flight_info(descriptor(table))
        for other in shared.members():
            for endpoint in info.endpoints:
                assert shared.client(other).do_get(endpoint.ticket).read_all().equals(TABLE)
        list(there.do_action(flight.Action("drop_table", table.encode())))
        with pytest.raises(KeyError, match=table):
            there.get_flight_info(descriptor(table))


def test_wait_and_the_actions_of_the_example_client(client, name):
    client.wait_for_available()
    list(client.do_action(flight.Action("healthcheck", b""), options=flight.FlightCallOptions(timeout=1)))
    offered = {a.type for a in client.list_actions()}
    assert {"create_table", "drop_table", "list_tables", "get_stats", "begin_write", "commit_write", "abort_write",
            "cluster_status", "healthcheck", "clear", "shutdown"} <= offered
    put(client, name, TABLE)
    assert name in json.dumps(action(client, "list_tables"))
    assert action(client, "get_stats") is not None


def test_action_takes_effect_without_reading_its_result(client, name):
    put(client, name, TABLE)
    client.do_action(flight.Action("drop_table", name.encode()))
    wait_until(lambda: not list(client.list_flights(name.encode())), 10, "the table is gone")


def test_writer_gets_a_result_after_each_batch(client, name):
    writer, reader = client.do_put(descriptor(name), TABLE.schema)
    for i in range(5):
        writer.write_with_metadata(TABLE.to_batches()[0], f"batch {i}".encode())
        assert reader.read().to_pybytes() == f"batch {i}".encode()
    outcome = finish(writer, reader)
    assert outcome["rows"] == 15 and outcome["version"] == 1 and outcome["table"] == name


def test_metadata_only_message_is_accepted(client, name):
    writer, reader = client.do_put(descriptor(name), TABLE.schema)
    writer.write_metadata(b"hello")
    writer.write_table(TABLE)
    writer.write_metadata(b"bye")
    assert finish(writer, reader)["rows"] == 3


def test_exchange_echoes(shared):
    for member in (shared.coordinators[0], shared.nodes[0]):
        client = shared.client(member)
        command = flight.FlightDescriptor.for_command(b'{"exchange": "echo"}')
        writer, reader = client.do_exchange(command)
        with writer:
            writer.begin(TABLE.schema)
            for i, batch in enumerate(TABLE.to_batches(max_chunksize=1)):
                writer.write_with_metadata(batch, str(i).encode())
                chunk = reader.read_chunk()
                assert chunk.data.equals(batch) and chunk.app_metadata.to_pybytes() == str(i).encode()
            writer.done_writing()
            with pytest.raises(StopIteration):
                reader.read_chunk()
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"nonsense"))
        with pytest.raises(pa.ArrowInvalid, match="echo"):
            writer.begin(TABLE.schema)
            writer.done_writing()
            reader.read_chunk()


def test_max_endpoints_gives_one_endpoint(client, name):
    big = pa.table({"i": pa.array(range(3_000_000), pa.int64()), "s": ["x" * 50] * 3_000_000})
    put(client, name, big, chunk=200_000)
    assert len(client.get_flight_info(descriptor(name)).endpoints) > 1
    info = client.get_flight_info(descriptor(name, max_endpoints=1))
    assert len(info.endpoints) == 1
    assert client.do_get(info.endpoints[0].ticket).read_all()["i"].equals(big["i"])
    options = flight.FlightCallOptions(headers=[(b"x-volley-max-endpoints", b"1")])
    assert len(client.get_flight_info(descriptor(name), options).endpoints) == 1


def test_authenticate_without_users_succeeds(client):
    pair = client.authenticate_basic_token("anyone", "anything")
    assert pair[0] == b"authorization" and pair[1].startswith(b"Bearer ")
    list(client.list_flights(options=flight.FlightCallOptions(headers=[pair])))


def test_parallel_write_is_committed_as_one(shared, client, name):
    begun = action(client, "begin_write", {"table": name, "mode": "create"})
    assert begun["nodes"] and begun["write_id"]
    for i, uri in enumerate(begun["nodes"]):
        with flight.connect(uri) as node:
            put(node, name, pa.table({"i": [i] * 10}), write_id=begun["write_id"])
    with pytest.raises(KeyError):
        client.get_flight_info(descriptor(name))
    outcome = action(client, "commit_write", {"write_id": begun["write_id"]})
    assert outcome["rows"] == 10 * len(begun["nodes"])
    assert "repeated" not in outcome
    for member in shared.members():
        again = action(shared.client(member), "commit_write", {"write_id": begun["write_id"]})
        assert again == {**outcome, "repeated": True}
    assert sorted(get(client, name)["i"].to_pylist()) == sorted(i for i in range(len(begun["nodes"])) for _ in range(10))


def test_aborted_write_leaves_nothing(client, name):
    begun = action(client, "begin_write", {"table": name})
    put(client, name, TABLE, write_id=begun["write_id"])
    action(client, "abort_write", {"write_id": begun["write_id"]})
    with pytest.raises(KeyError):
        client.get_flight_info(descriptor(name))
    with pytest.raises(flight.FlightError):
        action(client, "commit_write", {"write_id": begun["write_id"]})
    with pytest.raises((flight.FlightError, pa.ArrowException), match="begin another write"):
        put(client, name, TABLE, write_id=begun["write_id"])
    with pytest.raises(KeyError):
        client.get_flight_info(descriptor(name))


def test_repeated_write_id_takes_effect_once(shared, client, name):
    put(client, name, TABLE)
    first = put(client, name, TABLE, mode="append", write_id=name.replace("/", "-"))
    again = put(shared.client(shared.nodes[2]), name, TABLE, mode="append", write_id=name.replace("/", "-"))
    assert again == first | {"repeated": True}
    assert get(client, name).num_rows == 6


def test_cancelled_ticket_is_refused(shared, client, name):
    put(client, name, TABLE)
    info = client.get_flight_info(descriptor(name))
    cancel(client, info)
    # The nodes get the cancellation a moment later.
    def refused():
        try:
            read_endpoint(client, info.endpoints[0])
        except flight.FlightCancelledError as error:
            return name in str(error)
    wait_until(refused, 10, "the ticket is refused")
