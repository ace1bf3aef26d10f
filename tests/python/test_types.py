"""Tables are returned as they were put: types, nullability, metadata, values."""

import datetime
import decimal

import numpy
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import finish, descriptor, get, put
from matrix import for_release

N = 3000
INDEX = range(N)


def nulls(values):
    return [None if i % 7 == 3 else v for i, v in enumerate(values)]


def simple():
    day = datetime.date(2020, 1, 1)
    instant = datetime.datetime(2020, 1, 1)
    ints = {t: nulls([i % 100 for i in INDEX]) for t in
            (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())}
    return ints | {
        pa.float16(): nulls([numpy.float16(i % 50) for i in INDEX]),
        pa.float32(): nulls([i / 4 for i in INDEX]),
        pa.float64(): nulls([i / 8 for i in INDEX]),
        pa.bool_(): nulls([i % 3 == 0 for i in INDEX]),
        pa.null(): [None] * N,
        pa.string(): nulls([f"é{i}" * (i % 5) for i in INDEX]),
        pa.large_string(): nulls([f"x{i}" for i in INDEX]),
        pa.string_view(): nulls([f"a long enough string {i}" for i in INDEX]),
        pa.binary(): nulls([bytes([i % 256]) * (i % 9) for i in INDEX]),
        pa.large_binary(): nulls([bytes([i % 256]) * (i % 9) for i in INDEX]),
        pa.binary_view(): nulls([bytes([i % 256]) * (i % 30) for i in INDEX]),
        pa.binary(4): nulls([i.to_bytes(4, "big") for i in INDEX]),
        pa.date32(): nulls([day + datetime.timedelta(days=i) for i in INDEX]),
        pa.date64(): nulls([day + datetime.timedelta(days=i) for i in INDEX]),
        pa.time32("s"): nulls([datetime.time(i % 24, 1, 2) for i in INDEX]),
        pa.time32("ms"): nulls([datetime.time(i % 24, 1, 2) for i in INDEX]),
        pa.time64("us"): nulls([datetime.time(i % 24, 1, 2, i) for i in INDEX]),
        pa.time64("ns"): nulls([datetime.time(i % 24, 1, 2, i) for i in INDEX]),
        pa.timestamp("s"): nulls([instant + datetime.timedelta(seconds=i) for i in INDEX]),
        pa.timestamp("us", "Europe/Berlin"): nulls([instant + datetime.timedelta(seconds=i) for i in INDEX]),
        pa.timestamp("ns"): nulls([instant + datetime.timedelta(seconds=i) for i in INDEX]),
        pa.duration("ms"): nulls([datetime.timedelta(milliseconds=i) for i in INDEX]),
        pa.month_day_nano_interval(): nulls([pa.MonthDayNano([i, 1, i]) for i in INDEX]),
        pa.decimal32(7, 2): nulls([decimal.Decimal(i) / 4 for i in range(0, 4 * N, 4)]),
        pa.decimal64(15, 2): nulls([decimal.Decimal(i) for i in INDEX]),
        pa.decimal128(30, 2): nulls([decimal.Decimal(i) * 10**20 for i in INDEX]),
        pa.decimal256(60, 2): nulls([decimal.Decimal(i) * 10**40 for i in INDEX]),
        pa.list_(pa.int32()): nulls([list(range(i % 5)) for i in INDEX]),
        pa.large_list(pa.string()): nulls([[str(i)] * (i % 3) for i in INDEX]),
        pa.list_(pa.int16(), 2): nulls([[i % 9, None] for i in INDEX]),
        pa.list_view(pa.int32()): nulls([list(range(i % 4)) for i in INDEX]),
        pa.large_list_view(pa.string()): nulls([[str(i)] * (i % 3) for i in INDEX]),
        pa.struct([pa.field("a", pa.int32(), nullable=False), pa.field("b", pa.list_(pa.string()))]):
            nulls([{"a": i, "b": [str(i)] * (i % 3)} for i in INDEX]),
        pa.map_(pa.string(), pa.int32()): nulls([[(str(i), i)] * (i % 3) for i in INDEX]),
    }


def dictionary():
    return pa.array(nulls([f"v{i % 17}" for i in INDEX])).dictionary_encode()


def unions():
    types = pa.array([i % 2 for i in INDEX], pa.int8())
    dense = pa.UnionArray.from_dense(
        types, pa.array([i // 2 for i in INDEX], pa.int32()), [pa.array(range(N)), pa.array(["x"] * N)])
    sparse = pa.UnionArray.from_sparse(types, [pa.array(range(N)), pa.array([str(i) for i in INDEX])])
    return {"dense": dense, "sparse": sparse}


def run_ends():
    ends = pa.array(range(10, N + 10, 10), pa.int32())
    return pa.RunEndEncodedArray.from_arrays(ends, pa.array(nulls([f"r{i}" for i in range(N // 10)])))


def everything():
    columns = {f"c{i}": pa.array(v, t) for i, (t, v) in enumerate(simple().items())}
    columns |= unions() | {"dict": dictionary(), "runs": run_ends()}
    columns["struct of dict"] = pa.StructArray.from_arrays([dictionary(), pa.array(INDEX)], ["d", "i"])
    columns["list of dict"] = pa.ListArray.from_arrays(pa.array(range(N + 1), pa.int32()), dictionary())
    return pa.table(columns)


@pytest.mark.parametrize(
    "options", [{}, for_release({"shards": 3}), {"compression": "lz4"}, for_release({"compression": "zstd"})]
)
def test_every_type_is_returned_unchanged(client, name, options):
    table = everything()
    put(client, name, table, chunk=1000, **options)
    back = get(client, name)
    assert back.schema.equals(table.schema, check_metadata=True)
    for column in table.column_names:
        assert back[column].to_pylist() == table[column].to_pylist(), column
    assert back.equals(table)
    back.validate(full=True)


def test_every_type_is_kept_in_a_keyed_table(client, name):
    table = everything().append_column("key", pa.array(INDEX))
    put(client, name, table, chunk=700, shards=4, shard_by=["key"])
    back = get(client, name)
    assert back.schema.equals(table.schema, check_metadata=True)
    order = sorted(INDEX, key=back["key"].to_pylist().__getitem__)
    for column in table.column_names:
        values = back[column].to_pylist()
        assert [values[i] for i in order] == table[column].to_pylist(), column


@pytest.mark.parametrize(
    "columns", [["runs"], for_release(["dict", "c3"]), ["list of dict", "dense", "c10"], for_release(["c0", "struct of dict"])]
)
def test_selected_columns_are_returned_unchanged(client, name, columns):
    table = everything()
    put(client, name, table, chunk=1000)
    back = get(client, name, columns=columns)
    assert back.schema.equals(table.select(columns).schema, check_metadata=True)
    for column in columns:
        assert back[column].to_pylist() == table[column].to_pylist(), column


def test_limit_ends_within_a_batch(client, name):
    table = everything()
    put(client, name, table, chunk=1000)
    back = get(client, name, limit=1234)
    assert back.num_rows == 1234
    for column in table.column_names:
        assert back[column].to_pylist() == table[column][:1234].to_pylist(), column


def test_metadata_and_nullability_are_kept(client, name):
    schema = pa.schema(
        [
            pa.field("a", pa.int32(), nullable=False, metadata={b"unit": b"m"}),
            pa.field("u", pa.uuid()),
            pa.field("s", pa.struct([pa.field("x", pa.string(), nullable=False, metadata={b"k": b"v"})])),
        ],
        metadata={b"owner": b"tests", b"z": b"1", b"b": b"2"},
    )
    storage = pa.array([bytes(range(16))] * 3, pa.binary(16))
    arrays = [pa.array([1, 2, 3], pa.int32()), pa.ExtensionArray.from_storage(pa.uuid(), storage),
              pa.array([{"x": "1"}] * 3, schema.field("s").type)]
    table = pa.table(arrays, schema=schema)
    put(client, name, table)
    assert client.get_flight_info(descriptor(name)).schema.equals(schema, check_metadata=True)
    assert client.get_schema(descriptor(name)).schema.equals(schema, check_metadata=True)
    back = get(client, name)
    assert back.schema.equals(schema, check_metadata=True)
    assert back.equals(table)


def test_dictionary_may_be_replaced_in_a_stream(client, name):
    schema = pa.schema([("d", pa.dictionary(pa.int8(), pa.string())), ("i", pa.int32())])
    batches = [
        pa.record_batch([pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array([f"a{k}", f"b{k}"])),
                         pa.array([k, k, k], pa.int32())], schema=schema)
        for k in range(5)
    ]
    writer, reader = client.do_put(descriptor(name), schema)
    for batch in batches:
        writer.write_batch(batch)
    finish(writer, reader)
    expected = [v for batch in batches for v in batch.column(0).to_pylist()]
    assert get(client, name)["d"].to_pylist() == expected
    assert client.do_get(flight.Ticket(name.encode())).read_all()["d"].to_pylist() == expected


def test_table_without_rows_or_columns_is_kept(client, name):
    schema = pa.schema([("a", pa.int32()), ("d", pa.dictionary(pa.int8(), pa.string()))])
    outcome = put(client, name + "/rows", schema.empty_table())
    assert outcome["rows"] == 0
    assert get(client, name + "/rows").equals(schema.empty_table())

    writer, reader = client.do_put(descriptor(name + "/schema"), schema)
    assert finish(writer, reader)["rows"] == 0
    assert get(client, name + "/schema").schema.equals(schema)

    writer, reader = client.do_put(descriptor(name + "/batches"), pa.schema([("a", pa.int32())]))
    for values in ([], [1, 2], [], [3]):
        writer.write_batch(pa.record_batch([pa.array(values, pa.int32())], names=["a"]))
    finish(writer, reader)
    assert get(client, name + "/batches")["a"].to_pylist() == [1, 2, 3]

    no_columns = pa.table({"x": [1, 2, 3]}).select([])
    put(client, name + "/columns", no_columns)
    assert get(client, name + "/columns").num_columns == 0


def test_order_is_kept_over_blocks_and_streams(shared, client, name):
    table = pa.table({"i": pa.array(range(2_000_000), pa.int64()), "s": pa.array(["x" * 60] * 2_000_000)})
    put(client, name, table, chunk=100_000)
    info = client.get_flight_info(descriptor(name))
    assert info.ordered and len(info.endpoints) > 1
    assert get(client, name)["i"].equals(table["i"])
    for member in shared.members():
        one = shared.client(member).do_get(flight.Ticket(name.encode())).read_all()
        assert one["i"].equals(table["i"]), member.name


def test_unique_dictionary_values_are_stored_once(shared, client, name):
    texts = [f"a text of its own {i:040}" for i in range(60_000)]
    table = pa.table({"k": pa.array(range(60_000)), "d": pa.array(texts).dictionary_encode()})
    outcome = put(client, name, table, chunk=7000, shards=6, shard_by=["k"])
    assert outcome["bytes"] < 1.5 * table.nbytes, "each shard has the values of its rows only"
    back = get(client, name).sort_by("k")
    assert back["d"].to_pylist() == texts
    assert client.do_get(flight.Ticket(name.encode())).read_all().sort_by("k")["d"].to_pylist() == texts
    part = next(p for node in shared.nodes for p in node.folder.glob(f"parts/*{name.split('/')[-1]}*/*/*.arrow"))
    stored = pa.ipc.open_file(part).read_all()
    assert stored["d"].to_pylist() == [texts[k] for k in stored["k"].to_pylist()]


def test_large_dictionary_is_read_in_messages_of_4_mib(client, name):
    texts = [f"{i:060}" for i in range(250_000)]
    table = pa.table({"d": pa.array(texts).dictionary_encode()})
    put(client, name, table)
    info = client.get_flight_info(descriptor(name))
    with flight.connect(info.endpoints[0].locations[0].uri,
                        generic_options=[("grpc.max_receive_message_length", 4 << 20)]) as stock:
        back = stock.do_get(flight.Ticket(name.encode())).read_all()
    assert back["d"].to_pylist() == texts
    assert back["d"].cast(pa.string()).equals(pa.chunked_array([texts]))


def test_shared_values_are_not_multiplied(client, name):
    text = "x" * (3 << 20)
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([40], pa.int32()), pa.array([text]))
    for suffix, options in (("blocks", {}), ("keyed", {"shards": 2, "shard_by": ["k"]})):
        outcome = put(client, f"{name}/{suffix}", pa.table({"k": range(40), "runs": runs}), **options)
        # A few copies at most: each message of each shard needs the value. One for each row would be 120 MB.
        assert outcome["bytes"] < 20 << 20, suffix
        back = get(client, f"{name}/{suffix}")
        assert back.num_rows == 40 and set(back["runs"].to_pylist()) == {text}


def test_named_shards_are_used_from_1_mib_each(client, name):
    table = pa.table({"i": pa.array(range(786_432))})
    put(client, name, table, chunk=50_000, shards=6)
    info = client.get_flight_info(descriptor(name))
    assert len(info.endpoints) >= 6 and info.ordered
    assert get(client, name).equals(table)


@pytest.mark.parametrize("options", [{}, {"shards": 3, "shard_by": ["k"]}])
def test_types_without_bytes_pass_every_path(client, name, options):
    empty = {"b": pa.array([b""] * 30, pa.binary(0)), "l": pa.array([[]] * 30, pa.list_(pa.int8(), 0)),
             "s": pa.array([{}] * 30, pa.struct([])), "n": pa.nulls(30)}
    nested = {f"{key} in a struct": pa.StructArray.from_arrays([values], ["x"]) for key, values in empty.items()}
    nested |= {f"{key} in a list": pa.ListArray.from_arrays(pa.array(range(31), pa.int32()), values)
               for key, values in empty.items()}
    table = pa.table({"k": range(30)} | empty | nested)
    put(client, name, table, chunk=7, **options)
    assert get(client, name).sort_by("k").to_pylist() == table.to_pylist()
    assert get(client, name, limit=11).num_rows == 11
    for column in table.column_names:
        assert get(client, name, columns=[column]).num_rows == 30, column
