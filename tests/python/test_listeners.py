"""The locations that clients get: behind a single port, and for a requested listener."""

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import finish, put

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})


def asking(listener):
    return flight.FlightCallOptions(headers=[(b"x-volley-listener", listener.encode())])


def info(client, name, listener):
    return client.get_flight_info(flight.FlightDescriptor.for_path(*name.split("/")), asking(listener))


def read(endpoint):
    with flight.connect(endpoint.locations[0]) as client:
        return client.do_get(endpoint.ticket).read_all()


@pytest.mark.parametrize("way, endpoints", [("proxy", 4), ("single", 1)])
def test_proxy_listener_serves_all_endpoints(shared, name, way, endpoints):
    put(shared.client(), name, TABLE, shards=4, shard_by=["i"])
    for coordinator in shared.coordinators:
        returned = info(shared.client(coordinator), name, way).endpoints
        assert len(returned) == endpoints
        for endpoint in returned:
            uris = [location.uri.decode() for location in endpoint.locations]
            assert uris == [shared.address(coordinator)]
        rows = pa.concat_tables([read(endpoint) for endpoint in returned])
        assert rows.sort_by("i").equals(TABLE)


def test_node_forwards_the_requested_listener(shared, name):
    put(shared.client(), name, TABLE)
    [endpoint] = info(shared.client(shared.nodes[0]), name, "single").endpoints
    assert endpoint.locations[0].uri.decode() in {shared.address(c) for c in shared.coordinators}
    assert read(endpoint).equals(TABLE)


def test_unknown_listener_is_named(shared, name):
    put(shared.client(), name, TABLE)
    with pytest.raises(pa.ArrowInvalid, match='no listener "nowhere".*proxy'):
        info(shared.client(), name, "nowhere")


def put_with_listener(client, name, listener):
    return finish(*client.do_put(flight.FlightDescriptor.for_path(*name.split("/")), TABLE.schema, asking(listener)))


def test_unknown_listener_of_a_put_is_named_by_every_member(shared, name):
    for member in shared.members():
        with shared.client(member) as client:
            with pytest.raises(pa.ArrowInvalid, match='no listener "nowhere".*proxy'):
                put_with_listener(client, name, "nowhere")
            with pytest.raises(KeyError):
                info(client, name, "proxy")
    for member in shared.members():
        with shared.client(member) as client:
            assert put_with_listener(client, name, "proxy")["rows"] == 0
