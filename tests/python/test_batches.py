"""Tables that preserve batches, as pyarrow sees them: batches and `app_metadata` come back as they were put."""

import base64

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.ipc as ipc
import pytest

from cluster import action, descriptor, wait_until

SCHEMA = pa.schema([("n", pa.int64()), ("word", pa.dictionary(pa.int32(), pa.utf8()))])


def batch(at, rows):
    words = pa.array([f"word {row % 3}" for row in range(rows)], pa.utf8()).dictionary_encode()
    return pa.record_batch([pa.array(range(at, at + rows), pa.int64()), words], SCHEMA)


BATCHES = [batch(0, 5), batch(5, 0), batch(5, 1), batch(6, 400_000), batch(3, 2)]


def upload(client, where, batches):
    """Puts batches, each with its number, and reads each acknowledgement before the next batch."""
    writer, reader = client.do_put(where, SCHEMA)
    for i, each in enumerate(batches):
        writer.write_with_metadata(each, str(i).encode())
        assert reader.read().to_pybytes() == str(i).encode()
    writer.done_writing()
    assert reader.read() is None
    writer.close()


def chunks(client, ticket):
    reader = client.do_get(ticket)
    found = []
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            return found
        found.append((chunk.data, chunk.app_metadata and chunk.app_metadata.to_pybytes()))


def values(batch):
    """The columns without their dictionaries: each may have other values that no row uses."""
    return batch.schema, batch["n"].to_numpy().tobytes(), batch["word"].cast(pa.utf8())


def test_batches_and_metadata_come_back(shared, client, name):
    writer, reader = client.do_put(descriptor(name, preserve_batches=True, max_endpoints=1), SCHEMA)
    writer.done_writing()
    writer.close()
    for member in (shared.coordinators[0], shared.nodes[0]):
        upload(shared.client(member), descriptor(name), BATCHES)
        info = shared.client(member).get_flight_info(descriptor(name))
        for endpoint in info.endpoints:
            assert endpoint.locations
            for location in endpoint.locations:
                with flight.connect(location) as there:
                    found = chunks(there, endpoint.ticket)
                assert [metadata for _, metadata in found] == [str(i).encode() for i in range(len(BATCHES))]
                assert [values(data) for data, _ in found] == [values(put) for put in BATCHES]
    assert action(client, "get_stats", {"table": name})["batches"] == len(BATCHES)


def test_columns_keep_metadata_and_limit_cuts_a_batch(client, name):
    writer, _ = client.do_put(descriptor(name, preserve_batches=True, max_endpoints=1), SCHEMA)
    writer.close()
    upload(client, descriptor(name), BATCHES)
    (endpoint,) = client.get_flight_info(descriptor(name, columns=["word"], limit=8)).endpoints
    found = chunks(client, endpoint.ticket)
    assert [(data.num_rows, metadata) for data, metadata in found] == [(5, b"0"), (0, b"1"), (1, b"2"), (2, b"3")]
    assert found[0][0].schema.names == ["word"]


def open_part(cluster, word):
    """The first part whose path has this word. A node that wrote a part for others deletes it once they have it."""
    for node in cluster.nodes:
        for path in node.folder.glob("parts/**/*.arrow"):
            if word in str(path):
                try:
                    return ipc.open_file(path)
                except FileNotFoundError:
                    pass
    return None


def test_part_is_a_plain_file_that_has_the_metadata(shared, client, name):
    # With one dictionary they are in one part.
    one = batch(0, 6)
    upload(client, descriptor(name, preserve_batches=True), [one.slice(0, 5), one.slice(5, 0), one.slice(5, 1)])
    reader = wait_until(lambda: open_part(shared, name.split("/")[1]), 10, "a node has the part")
    found = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
    assert [base64.b64decode(own[b"volley.app_metadata"]) for _, own in found] == [b"0", b"1", b"2"]
    assert [each.num_rows for each, _ in found] == [5, 0, 1]


def test_metadata_without_a_batch_is_acknowledged_only(client, name):
    writer, reader = client.do_put(descriptor(name, preserve_batches=True), SCHEMA)
    writer.write_metadata(b"hello")
    assert reader.read().to_pybytes() == b"hello"
    writer.write_with_metadata(BATCHES[0], b"0")
    writer.done_writing()
    assert reader.read().to_pybytes() == b"0" and reader.read() is None
    writer.close()
    assert [metadata for _, metadata in chunks(client, flight.Ticket(name.encode()))] == [b"0"]


def test_keys_and_preserved_batches_exclude_each_other(client, name):
    writer, reader = client.do_put(descriptor(name, preserve_batches=True, shard_by="n"), SCHEMA)
    with pytest.raises(pa.ArrowInvalid, match="preserve_batches.*shard_by"):
        writer.write_batch(BATCHES[0])
        writer.done_writing()
        reader.read()
        writer.close()
