"""The locations that clients get: behind a single port, and for a requested listener."""

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


def test_proxy_listener_without_address_reuses_the_connection(shared, name):
    put(shared.client(), name, TABLE, shards=4, shard_by=["i"])
    for coordinator in shared.coordinators:
        client = shared.client(coordinator)
        returned = info(client, name, "proxy").endpoints
        assert len(returned) == 4
        assert {location.uri.decode() for endpoint in returned for location in endpoint.locations} == {REUSE}
        rows = pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in returned])
        assert rows.sort_by("i").equals(TABLE)


def test_single_listener_serves_one_endpoint_itself(shared, name):
    put(shared.client(), name, TABLE, shards=4, shard_by=["i"])
    for coordinator in shared.coordinators:
        [endpoint] = info(shared.client(coordinator), name, "single").endpoints
        assert [location.uri.decode() for location in endpoint.locations] == [shared.address(coordinator)]
        assert read(endpoint).sort_by("i").equals(TABLE)


def test_node_forwards_the_requested_listener(shared, name):
    put(shared.client(), name, TABLE)
    [endpoint] = info(shared.client(shared.nodes[0]), name, "single").endpoints
    assert endpoint.locations[0].uri.decode() in {shared.address(c) for c in shared.coordinators}
    assert read(endpoint).equals(TABLE)


def test_unknown_listener_is_named(shared, name):
    put(shared.client(), name, TABLE)
    with pytest.raises(pa.ArrowInvalid, match='no listener "nowhere".*proxy'):
        info(shared.client(), name, "nowhere")
