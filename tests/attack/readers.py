"""A reader who asks for more than it reads."""

import socket
import threading

from attack import Attack, check_text, tally
from attack_cluster import READ_TABLE
from protobuf import field
from raw_flight import CODES
from raw_http2 import CANCEL, MAX_WINDOW, RST_STREAM, RawConnection, frame

DO_GET = "/arrow.flight.protocol.FlightService/DoGet"
# How a member may refuse the excess.
EXCESS = {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
STREAMS_EACH = 2_500
TICKET = field(1, READ_TABLE.encode())
# HTTP/2's code for a stream that the server does not process.
REFUSED_STREAM = 7


def open_gets(cluster, member, source, count, window):
    """A connection with `count` DoGets of the whole table, each of which may send `window` bytes."""
    connection = RawConnection(cluster.host_port(member), source, window)
    connection.settle()
    headers = cluster.headers("rita")
    for first in range(0, count, 100):
        requests = [connection.request(DO_GET, TICKET, headers) for _ in range(min(100, count - first))]
        connection.send(b"".join(requests))
        connection.read(lambda: False, 0.001)
    return connection


def is_answered(reply):
    return reply.is_ended or reply.headers or reply.data_bytes


def state(reply):
    """What became of a DoGet, as a word; a fault of the server is an AssertionError."""
    if reply.reset_code is not None:
        assert reply.reset_code in (REFUSED_STREAM, CANCEL, 11), f"reset with {reply.reset_code}: {vars(reply)}"
        return "reset"
    if reply.code is not None:
        name = CODES[reply.code]
        assert name == "OK" or name in EXCESS, f"{name}: {reply.message}"
        check_text("DoGet", reply.message)
        assert name == "OK" or reply.message, f"{name} without a reason"
        return name
    return "open" if is_answered(reply) else "waiting"


def many_gets(cluster, effort):
    """10,000 DoGets at once at each kind of member, none of which is read beyond its first bytes."""
    told = []
    for member in (cluster.coordinators[0], cluster.nodes[1]):
        count = effort.count(10_000)
        sources = cluster.sources(-(-count // STREAMS_EACH))
        connections = [open_gets(cluster, member, source, min(count, STREAMS_EACH), 1_000) for source in sources]
        for _ in effort.rounds():
            for connection in connections:
                connection.read(lambda: all(map(is_answered, connection.replies.values())), effort.seconds / 4 + 2)
        states = [state(reply) for connection in connections for reply in connection.replies.values()]
        assert "open" in states or "OK" in states or connections[0].goaway is not None, f"{member.name}: {tally(states)}"
        told.append(f"{member.name}: {tally(states)}")
        for connection in connections:
            connection.socket.close()
    return "; ".join(told)


def stalled_connections(cluster, effort):
    """Connections with the largest windows of which nothing is read, as by a client that is stopped."""
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        count = effort.count(400)
        held = []
        for source in cluster.sources(3):
            connection = RawConnection(cluster.host_port(member), source, MAX_WINDOW)
            connection.settle()
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.send(b"".join(connection.request(DO_GET, TICKET, cluster.headers("rita")) for _ in range(count)))
            held.append(connection)
        for _ in effort.rounds():
            # Nothing is received while this waits.
            threading.Event().wait(0.25)
        for connection in held:
            connection.socket.close()
    return f"{3 * count} DoGets at each member"


def reset_gets(cluster, effort):
    """DoGets that are reset as soon as they are answered: fifty at a time, as fast as they come."""
    told = []
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        connection, codes, closed = None, [], 0
        for _ in effort.rounds():
            if connection is None or connection.is_closed or connection.goaway is not None:
                closed += connection is not None
                connection = RawConnection(cluster.host_port(member), cluster.sources(1)[0], 1_000)
                connection.settle()
            first = connection.next_stream
            requests = [connection.request(DO_GET, TICKET, cluster.headers("rita")) for _ in range(50)]
            connection.send(b"".join(requests))
            streams = range(first, connection.next_stream, 2)
            connection.read(lambda: connection.goaway is not None or all(is_answered(connection.replies[s]) for s in streams), 20)
            codes += [state(connection.replies[stream]) for stream in streams]
            connection.send(b"".join(frame(RST_STREAM, 0, s, CANCEL.to_bytes(4, "big")) for s in streams))
        assert set(codes) != {"waiting"}, f"{member.name} answered none"
        told.append(f"{member.name}: {tally(codes)}, {closed} connections closed")
        connection.socket.close()
    return "; ".join(told)


ATTACKS = [
    Attack("many gets", "10,000 DoGets at once that are not read", many_gets, bytes_each=32 << 10, units=10_000),
    Attack("stalled connections", "1,200 DoGets on connections that are not read", stalled_connections, bytes_each=32 << 10, units=1_200),
    Attack("reset gets", "DoGets that are reset when they are answered", reset_gets),
]
