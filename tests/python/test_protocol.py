"""Flight calls without a pyarrow method, sent as bytes."""

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import descriptor, put, read_endpoint
from protobuf import SERVICE, field, fields

TABLE = pa.table({"a": [1, 2, 3]})


def channel(shared, member):
    return grpc.insecure_channel(shared.address(member).removeprefix("grpc+tcp://"))


@pytest.mark.parametrize("member", [0, 5])
def test_poll_is_complete_at_once(shared, client, name, member):
    put(client, name, TABLE)
    asked = b"\x08\x01" + b"".join(field(3, part.encode()) for part in name.split("/"))
    with channel(shared, shared.members()[member]) as there:
        poll = there.unary_unary(SERVICE + "PollFlightInfo")
        answer = fields(poll(asked, timeout=10))
        info = flight.FlightInfo.deserialize(answer[1][0])
        assert read_endpoint(client, info.endpoints[0]).equals(TABLE)
        assert 2 not in answer, "finished: no descriptor"
        assert answer[3] == [b"\0\0\0\0\0\0\xf0\x3f"], "progress 1.0"
        with pytest.raises(grpc.RpcError) as missing:
            poll(b"\x08\x01" + field(3, b"no such table"), timeout=10)
        assert missing.value.code() == grpc.StatusCode.NOT_FOUND


def test_renewed_endpoint_expires_later(client, name):
    put(client, name, TABLE)
    endpoint = client.get_flight_info(descriptor(name)).endpoints[0]
    request = field(1, field(1, field(1, endpoint.ticket.ticket)))
    (result,) = client.do_action(flight.Action("RenewFlightEndpoint", request))
    renewed = flight.FlightEndpoint.deserialize(result.body.to_pybytes())
    assert renewed.expiration_time.value >= endpoint.expiration_time.value
    put(client, name, TABLE.slice(0, 1))
    assert client.do_get(renewed.ticket).read_all().equals(TABLE)
    with pytest.raises(pa.ArrowInvalid):
        list(client.do_action(flight.Action("RenewFlightEndpoint", b"\xff\xff")))


def test_session_cookie_keeps_its_options(shared):
    text = field(1, b"value")
    setting = field(1, field(1, b"key") + field(2, text))
    with channel(shared, shared.coordinators[0]) as there:
        act = there.unary_stream(SERVICE + "DoAction")
        call = act(field(1, b"SetSessionOptions") + field(2, setting), timeout=10)
        assert fields(list(call)[0]).get(1, [b""]) == [b""], "no option was refused"
        cookie = dict(call.initial_metadata())["set-cookie"].split(";")[0]
        assert cookie.startswith("arrow_flight_session_id=")
        mine = [("cookie", cookie)]
        options = fields(list(act(field(1, b"GetSessionOptions"), timeout=10, metadata=mine))[0])[1][0]
        assert options == setting
        list(act(field(1, b"CloseSession"), timeout=10, metadata=mine))
        list(act(field(1, b"CloseSession"), timeout=10))


def test_handshake_answers_before_the_client_ends(shared):
    for member in (shared.coordinators[0], shared.nodes[0]):
        with channel(shared, member) as there:
            done = iter_until(there.stream_stream(SERVICE + "Handshake"))
            assert done, member.name


def iter_until(handshake):
    """Sends a message, reads one, and then ends the stream."""
    import queue

    out = queue.Queue()
    out.put(field(2, b""))
    call = handshake(iter(out.get, None), timeout=10)
    first = next(call)
    out.put(None)
    list(call)
    return first is not None
