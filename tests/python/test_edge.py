"""What a client may send in unusual ways: gzip channels, long options, metadata that is not text."""

import json
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import descriptor, finish, put

TABLE = pa.table({"i": pa.array(range(200_000), pa.int64()), "s": pa.array(["same text"] * 200_000)})
GZIP = [("grpc.default_compression_algorithm", 2), ("grpc.default_compression_level", 3)]


@pytest.fixture
def gzip_clients(shared):
    clients = [flight.connect(shared.address(member), generic_options=GZIP) for member in shared.members()]
    yield clients
    for client in clients:
        client.close()


def test_gzip_channel_works_for_every_call(gzip_clients, name):
    for at, client in enumerate(gzip_clients):
        table = f"{name}/{at}"
        put(client, table, TABLE, shard_by=["i"], shards=3)
        listed = {b"/".join(f.descriptor.path or []) or f.descriptor.command for f in client.list_flights()}
        assert table.encode() in listed
        info = client.get_flight_info(descriptor(table))
        assert client.get_schema(descriptor(table)).schema.equals(TABLE.schema)
        rows = [client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints]
        assert pa.concat_tables(rows).sort_by("i").equals(TABLE)
        assert client.do_get(flight.Ticket(table.encode())).read_all().num_rows == TABLE.num_rows
        assert list(client.list_actions())
        [reply] = client.do_action(flight.Action("get_stats", json.dumps({"table": table}).encode()))
        assert json.loads(reply.body.to_pybytes())
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b'{"exchange": "echo"}'))
        with writer:
            writer.begin(TABLE.schema)
            writer.write_batch(TABLE.to_batches()[0])
            writer.done_writing()
            assert reader.read_all().num_rows == TABLE.to_batches()[0].num_rows


def test_gzip_batch_is_bounded_by_the_message_limit(gzip_clients, name):
    """Zeros shrink a thousand times; what arrives is stored as it was sent."""
    zeros = pa.table({"z": pa.array([0] * 4_000_000, pa.int64())})
    for client in gzip_clients[-1:]:
        put(client, name, zeros, chunk=4_000_000)
        assert client.do_get(flight.Ticket(name.encode())).read_all().equals(zeros)


@pytest.mark.parametrize("table", ["field", "schema"])
def test_metadata_that_is_not_utf8_is_named(shared, name, table):
    bad = {b"the key": b"\xff\xfe"}
    field = pa.field("column", pa.int64(), metadata=bad if table == "field" else None)
    schema = pa.schema([field], metadata=bad if table == "schema" else None)
    for member in shared.members():
        with pytest.raises(pa.ArrowInvalid, match=f"(?s)^{'.*column' if table == 'field' else '.*schema'}.*the key.*UTF-8"):
            writer, reader = shared.client(member).do_put(descriptor(name), schema)
            writer.write_table(pa.table({"column": [1]}, schema=schema))
            finish(writer, reader)


@pytest.mark.alone
def test_wide_type_is_refused_at_once(shared, name):
    wide = pa.struct([(f"a_rather_long_name_{at}", pa.string()) for at in range(500)])
    for member in shared.members():
        start = time.monotonic()
        with pytest.raises(pa.ArrowInvalid, match="wide.*left out"):
            writer, reader = shared.client(member).do_put(descriptor(name, shard_by=["wide"]), pa.schema([("wide", wide)]))
            finish(writer, reader)
        assert time.monotonic() - start < 3, member.name


def test_session_option_with_an_invalid_value_is_named(client):
    """The value that the integration scenario `session_options` wants refused."""
    action = flight.Action("nonsense_action", b"")
    with pytest.raises(NotImplementedError, match="nonsense_action"):
        list(client.do_action(action))
