"""Whose addresses a client is told: pyarrow behind a single port, and asking for a listener."""

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import put

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})
REUSE = "arrow-flight-reuse-connection://?"


def asking(listener):
    return flight.FlightCallOptions(headers=[(b"x-volley-listener", listener.encode())])


def info(client, name, listener):
    return client.get_flight_info(flight.FlightDescriptor.for_path(*name.split("/")), asking(listener))


def read(endpoint):
    with flight.connect(endpoint.locations[0]) as client:
        return client.do_get(endpoint.ticket).read_all()


@pytest.mark.parametrize("way, endpoints", [("proxy", 4), ("single", 1)])
def test_behind_one_port_all_comes_through_it(shared, name, way, endpoints):
    put(shared.client(), name, TABLE, shards=4, shard_by=["i"])
    for coordinator in shared.coordinators:
        told = info(shared.client(coordinator), name, way).endpoints
        assert len(told) == endpoints
        for endpoint in told:
            uris = [location.uri.decode() for location in endpoint.locations]
            assert uris == [shared.address(coordinator), REUSE]
        rows = pa.concat_tables([read(endpoint) for endpoint in told])
        assert rows.sort_by("i").equals(TABLE)


def test_a_node_hands_the_wish_on(shared, name):
    put(shared.client(), name, TABLE)
    [endpoint] = info(shared.client(shared.nodes[0]), name, "single").endpoints
    assert endpoint.locations[0].uri.decode() in {shared.address(c) for c in shared.coordinators}
    assert read(endpoint).equals(TABLE)


def test_a_listener_that_there_is_not_is_named(shared, name):
    put(shared.client(), name, TABLE)
    with pytest.raises(pa.ArrowInvalid, match='no listener "nowhere".*proxy'):
        info(shared.client(), name, "nowhere")
