"""Rows are in the shards of docs/partitioning.md, computed by a second implementation."""

import datetime
import decimal

import pyarrow as pa
import pytest

import golden_partition as golden
from cluster import descriptor, put, read_endpoint

N = 400
SHARDS = 5


def test_python_partitioning_has_the_golden_values():
    assert golden.rust_golden() == golden.GOLDEN


KEYS = {
    "int32": (pa.array(range(-200, 200), pa.int32()), golden.integer),
    "uint64": (pa.array([2**64 - 1 - i for i in range(N)], pa.uint64()), golden.integer),
    "float32": (pa.array([i / 4 for i in range(N)], pa.float32()), golden.floating),
    "decimal": (pa.array([decimal.Decimal(i) / 4 for i in range(N)], pa.decimal128(10, 2)),
                lambda v: golden.decimal(int(v * 100), 2)),
    "date": (pa.array([datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(N)]),
             lambda v: golden.integer((v - datetime.date(1970, 1, 1)).days)),
    "string": (pa.array([f"clé {i}" for i in range(N)]), golden.sized),
    "string view": (pa.array([f"a key beyond the inline bytes {i}" for i in range(N)], pa.string_view()), golden.sized),
    "dictionary": (pa.array([f"v{i % 50}" for i in range(N)]).dictionary_encode(), golden.sized),
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_are_in_the_shards_the_client_computes(client, name, kind):
    array, encode = KEYS[kind]
    with_nulls = pa.array([None if i % 9 == 0 else v for i, v in enumerate(array.to_pylist())], array.type)
    table = pa.table({"key": with_nulls, "second": pa.array([i % 3 for i in range(N)], pa.int8())})
    put(client, name, table, shards=SHARDS, shard_by=["second", "key"])
    found, rows = set(), 0
    for endpoint in client.get_flight_info(descriptor(name)).endpoints:
        part = read_endpoint(client, endpoint)
        shards = {
            golden.shard(SHARDS, golden.integer(s), golden.NULL if k is None else encode(k))
            for s, k in zip(part["second"].to_pylist(), part["key"].to_pylist())
        }
        assert len(shards) == 1, shards
        assert not shards & found
        found |= shards
        rows += part.num_rows
    assert rows == N and found == set(range(SHARDS))
