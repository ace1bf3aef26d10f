"""Readers that cannot decompress, such as plain Java and JavaScript clients: the option and header `decompress`."""

import json

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import descriptor, get, put
from matrix import for_release
from test_types import everything

HEADER = ("x-volley-decompress", "true")
PLAIN = flight.FlightCallOptions(headers=[tuple(text.encode() for text in HEADER)])


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def body_of(message):
    """The field `data_body` (1000) of a FlightData, whose fields all have a length."""
    at, body = 0, b""
    while at < len(message):
        tag, at = varint(message, at)
        length, at = varint(message, at)
        if tag >> 3 == 1000:
            body = message[at:at + length]
        at += length
    return body


def bodies(address, ticket, *headers):
    """The bodies of a stream's messages as they are on the wire. gRPC refuses messages over 4 MiB, as stock clients do."""
    with grpc.insecure_channel(address.removeprefix("grpc+tcp://").removeprefix("grpc://")) as channel:
        call = channel.unary_stream("/arrow.flight.protocol.FlightService/DoGet")
        return [body_of(message) for message in call(ticket.serialize(), metadata=headers)]


def plain_and_compressed(client, name, table, codec, chunk=None):
    """Puts a table uncompressed and compressed; returns both names."""
    put(client, f"{name}/plain", table, chunk=chunk, compression="none")
    put(client, f"{name}/{codec}", table, chunk=chunk, compression=codec)
    return f"{name}/plain", f"{name}/{codec}"


def ticket(name, **options):
    return flight.Ticket(json.dumps({"table": name} | options).encode())


@pytest.mark.parametrize("codec", ["lz4", for_release("zstd")])
def test_option_and_header_give_plain_bodies(shared, client, name, codec):
    table = everything()
    plain, compressed = plain_and_compressed(client, name, table, codec, chunk=1000)
    for member in shared.members():
        address = shared.address(member)
        want = bodies(address, ticket(plain))
        assert sum(map(len, bodies(address, ticket(compressed)))) < sum(map(len, want)), "compressed by default"
        assert bodies(address, ticket(compressed, decompress=True)) == want, member.name
        assert bodies(address, ticket(compressed), HEADER) == want, member.name
        [asked] = client.get_flight_info(descriptor(compressed, decompress=True)).endpoints
        assert bodies(address, asked.ticket) == want, member.name
        # The header applies to a ticket that was given without the option, and does not take the option away.
        [unasked] = client.get_flight_info(descriptor(compressed)).endpoints
        assert bodies(address, unasked.ticket) != want, member.name
        assert bodies(address, unasked.ticket, HEADER) == want, member.name
        assert bodies(address, asked.ticket, (HEADER[0], "false")) == want, member.name
    path = flight.FlightDescriptor.for_path(*compressed.split("/"))
    [by_header] = client.get_flight_info(path, PLAIN).endpoints
    assert bodies(shared.address(shared.nodes[0]), by_header.ticket) == want
    assert client.get_schema(path, PLAIN).schema.equals(table.schema)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_decompressed_rows_are_those_that_were_put(client, name, codec):
    table = everything()
    put(client, name, table, chunk=1000, shards=3, compression=codec)
    assert get(client, name, decompress=True).equals(table)
    columns = ["list of dict", "dense", "c10", "dict"]
    back = get(client, name, decompress=True, columns=columns, limit=1234)
    assert back.schema.equals(table.select(columns).schema, check_metadata=True)
    for column in columns:
        assert back[column].to_pylist() == table[column][:1234].to_pylist(), column
    assert client.do_get(flight.Ticket(name.encode()), PLAIN).read_all().equals(table)


@pytest.mark.parametrize("codec", [for_release("lz4"), "zstd"])
def test_decompressed_messages_fit_stock_clients(shared, client, name, codec):
    """A message of 30 MB that compresses to some 100 KB; `bodies` receives at most 4 MiB in one message."""
    table = pa.table({"s": ["the same text again and again " * 10] * 100_000,
                      "d": pa.array([f"{i % 1000:01000}" for i in range(100_000)]).dictionary_encode()})
    plain, compressed = plain_and_compressed(client, name, table, codec)
    address = shared.address(shared.nodes[0])
    want = bodies(address, ticket(plain))
    assert sum(map(len, want)) > 30_000_000 > 10 * sum(map(len, bodies(address, ticket(compressed))))
    assert bodies(address, ticket(compressed, decompress=True)) == want


def test_total_bytes_of_decompressed_tables_are_unknown(client, name):
    plain, compressed = plain_and_compressed(client, name, pa.table({"i": range(1000)}), "lz4")
    for table, known in ((plain, True), (compressed, False)):
        info = client.get_flight_info(descriptor(table, decompress=True))
        assert (info.total_bytes > 0) == known and info.total_records == 1000
        assert client.get_flight_info(descriptor(table)).total_bytes > 0


def test_wrong_values_and_directions_are_named(shared, client, name):
    put(client, name, pa.table({"i": [1]}), compression="lz4")
    signed = client.get_flight_info(descriptor(name)).endpoints[0].ticket
    for value in ("yes", 1, [True]):
        with pytest.raises(pa.ArrowInvalid, match='option "decompress": true or false is expected'):
            client.get_flight_info(descriptor(name, decompress=value))
    for member in shared.members():
        there = shared.client(member)
        for header in (b"1", b"yes", b""):
            options = flight.FlightCallOptions(headers=[(HEADER[0].encode(), header)])
            for request in (flight.Ticket(name.encode()), signed):
                with pytest.raises(pa.ArrowInvalid, match='option "decompress": true or false is expected'):
                    there.do_get(request, options).read_all()
    with pytest.raises(pa.ArrowInvalid, match='"decompress" has no effect on a put.*a read'):
        put(client, f"{name}/x", pa.table({"i": [1]}), decompress=True)
