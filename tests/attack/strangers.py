"""Callers without identity: floods of connections, of HTTP/2 frames and of logins."""

import base64
import itertools
import os
import re
import struct

from attack import Attack, check_text, tally
from protobuf import SERVICE, field
from raw_flight import CODES
from raw_http2 import (
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, MAX_WINDOW, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, RawConnection, frame, header_block,
)

# Calls that a member may answer to nobody, and what may be said to those who guess passwords.
REFUSED_LOGIN = {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"}
# Frames that are sent at once.
BURST = 2_000
# How a server ends a connection that it has had enough of: PROTOCOL_ERROR, FLOW_CONTROL_ERROR, COMPRESSION_ERROR, ENHANCE_YOUR_CALM.
ENDS = {None: "closed", 0: "NO_ERROR", 1: "PROTOCOL_ERROR", 3: "FLOW_CONTROL_ERROR", 9: "COMPRESSION_ERROR", ENHANCE_YOUR_CALM: "ENHANCE_YOUR_CALM"}
HEALTH = "/grpc.health.v1.Health/Check"


def is_served(cluster, member, source):
    """A call from the address of a caller without identity is answered."""
    with RawConnection(cluster.host_port(member), source) as connection:
        connection.send(connection.request(HEALTH, b""))
        reply = connection.replies[1]
        connection.read(lambda: reply.is_ended, 10)
        return reply.code == 0


def flood(cluster, effort, burst, reads=True, connections=4):
    """Sends what `burst(connection)` makes on some connections of each member, again and again, with new connections for those
    that the member closes. Returns how they ended."""
    told = []
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        sources, held, ends = cluster.sources(connections), {}, []
        for number in effort.rounds():
            for source in sources[: connections if effort.seconds else 1]:
                connection = held.get(source)
                if connection is None:
                    connection = held[source] = RawConnection(cluster.host_port(member), source, stuck_after=1)
                for _ in range(5):
                    connection.send(burst(connection))
                    if reads:
                        connection.drain(0.005)
                if connection.is_closed or connection.goaway is not None:
                    connection.drain(0.2)
                    assert connection.goaway in ENDS, f"{member.name} ended the connection with {connection.goaway}"
                    ends.append("not read any more" if connection.is_stuck else ENDS[connection.goaway])
                    held.pop(source).socket.close()
        for connection in held.values():
            ends.append("held")
            connection.socket.close()
        assert is_served(cluster, member, sources[0]), f"{member.name} serves its attacker's address no more"
        told.append(f"{member.name}: {tally(ends)}")
    return "; ".join(told)


def rapid_reset(cluster, effort):
    """Calls that are reset at once (CVE-2023-44487)."""
    def burst(connection):
        frames = bytearray()
        for _ in range(BURST // 4):
            frames += connection.request(SERVICE + "ListFlights", b"")
            frames += frame(RST_STREAM, 0, connection.next_stream - 2, struct.pack(">I", CANCEL))
        return bytes(frames)
    return flood(cluster, effort, burst)


def ping_flood(cluster, effort):
    """Pings whose answers are not read (CVE-2019-9512)."""
    return flood(cluster, effort, lambda _: frame(PING, payload=bytes(8)) * BURST, reads=False)


def settings_flood(cluster, effort):
    """Settings whose acknowledgements are not read (CVE-2019-9515)."""
    entry = struct.pack(">HI", 4, 1000) * 20
    return flood(cluster, effort, lambda _: frame(SETTINGS, payload=entry) * BURST, reads=False)


def continuation_flood(cluster, effort):
    """Headers that never end (CVE-2024-27316)."""
    block = header_block([("x-filler", "a" * 8_000)])

    def burst(connection):
        begin = b""
        if not hasattr(connection, "has_begun"):
            connection.has_begun = True
            begin = frame(HEADERS, 0, 1, connection.request_headers(SERVICE + "ListFlights"))
        return begin + frame(CONTINUATION, 0, 1, block) * (BURST // 10)
    return flood(cluster, effort, burst)


def empty_continuations(cluster, effort):
    """The same with frames of no bytes, which no limit of bytes counts."""
    def burst(connection):
        begin = b""
        if not hasattr(connection, "has_begun"):
            connection.has_begun = True
            begin = frame(HEADERS, 0, 1, connection.request_headers(SERVICE + "ListFlights"))
        return begin + frame(CONTINUATION, 0, 1) * BURST
    return flood(cluster, effort, burst)


def header_bomb(cluster, effort):
    """A few bytes that name one large header of the dynamic table again and again (CVE-2016-6581)."""
    large = b"\x40" + header_block([("x-bomb", "a" * 3_900)])[1:]

    def burst(connection):
        stream, connection.next_stream = connection.next_stream, connection.next_stream + 2
        block = connection.request_headers(SERVICE + "ListFlights") + large + b"\xbe" * 16_000
        pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
        frames = frame(HEADERS, 0, stream, pieces[0])
        for piece in pieces[1:]:
            frames += frame(CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, stream, piece)
        return frames
    return flood(cluster, effort, burst)


def idle_frames(cluster, effort):
    """Frames that do nothing on a call that stays open: empty data, priorities, windows (CVE-2019-9518, CVE-2019-9513)."""
    def burst(connection):
        begin = b""
        if not hasattr(connection, "has_begun"):
            connection.has_begun = True
            begin = frame(HEADERS, END_HEADERS, 1, connection.request_headers(SERVICE + "DoPut"))
        return begin + (frame(DATA, 0, 1) + frame(PRIORITY, 0, 1, bytes(5)) + frame(PING, ACK, payload=bytes(8))
                        + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1))) * (BURST // 4)
    return flood(cluster, effort, burst)


def noise(cluster, effort):
    """Frames by chance after a sound beginning."""
    return flood(cluster, effort, lambda _: frame(os.urandom(1)[0] % 12, os.urandom(1)[0], os.urandom(1)[0] & 7, os.urandom(64)) * 3)


UNFINISHED = [b"", b"PRI * HTTP/2", PREFACE[:-1]]
WRONG = [b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nx: ", PREFACE]


def half_open(cluster, effort, addresses=1, beginnings=(*UNFINISHED, *WRONG)):
    """Connections that send nothing, half a preface, the preface alone or another protocol; more than may be open at once."""
    told, begins = [], itertools.cycle(beginnings)
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        held, refused, sources = [], 0, itertools.cycle(cluster.sources(addresses))
        for _ in range(effort.count(4_000)):
            try:
                connection = RawConnection(cluster.host_port(member), next(sources), is_greeted=False)
            except OSError:
                refused += 1
                continue
            connection.send(next(begins))
            held.append(connection)
        try:
            for _ in effort.rounds():
                assert is_served(cluster, member, f"{cluster.net}.254"), f"{member.name} serves no other address"
            for connection in held:
                connection.drain(0.0001)
        finally:
            for connection in held:
                connection.socket.close()
        closed = sum(connection.is_closed for connection in held)
        told.append(f"{member.name}: {len(held)} connections, {closed} closed by it, {refused} refused")
    return "; ".join(told)


def half_open_from_many(cluster, effort):
    """Connections that do not begin, from forty addresses, no single one of which has many."""
    return half_open(cluster, effort, addresses=40, beginnings=UNFINISHED)


def handshakes(cluster, effort):
    """Logins with wrong passwords of many users from many addresses; none succeeds, and all are answered."""
    told = []
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        sources, codes = cluster.sources(effort.count(40)), []
        for number in effort.rounds():
            for at, source in enumerate(sources):
                with RawConnection(cluster.host_port(member), source) as connection:
                    for user in ("root", "mallory", f"stranger{number}-{at}"):
                        login = base64.b64encode(f"{user}:guess {number}".encode()).decode()
                        connection.send(connection.request(SERVICE + "Handshake", headers=[("authorization", f"Basic {login}")]))
                    replies = list(connection.replies.values())
                    connection.read(lambda: all(reply.is_ended for reply in replies), 60)
                    assert all(reply.code is not None for reply in replies), f"{member.name}: {[vars(r) for r in replies]}"
                    for reply in replies:
                        check_text("Handshake", reply.message)
                    codes += [CODES[reply.code] for reply in replies]
        allowed = {"OK"} if cluster.is_open else REFUSED_LOGIN
        assert set(codes) <= allowed, f"{member.name}: {tally(codes)}"
        told.append(f"{member.name}: {tally(codes)}")
    return "; ".join(told)


def long_credentials(cluster, effort):
    """Headers and payloads of a login that are long, cut or of another kind."""
    values = ["Basic " + "A" * 60_000, "Basic !!!", "Basic", "Bearer " + "a." * 25_000, "Bearer a.b.c", "Digest x", "Bearer \xff", ""]
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    claims = base64.urlsafe_b64encode(b'{"iss":"volley","sub":"root","exp":9999999999}').decode().rstrip("=")
    values.append(f"Bearer {none}.{claims}.")
    payloads = [field(2, b"root") + field(3, b"x" * 1_000_000), b"\xff" * 1000, field(2, b"\xff"), field(3, b"")]
    codes = []
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        for _ in effort.rounds():
            for path, bodies in ((SERVICE + "Handshake", [None, *(field(2, p) for p in payloads)]), (SERVICE + "ListFlights", [b""])):
                for body, value in itertools.product(bodies, values):
                    with RawConnection(cluster.host_port(member), cluster.sources(1)[0], window=MAX_WINDOW) as connection:
                        connection.settle()
                        connection.send(connection.request(path, body, [("authorization", value.encode("latin-1"))]))
                        reply = connection.replies[1]
                        connection.read(lambda: reply.is_ended, 60)
                        code = CODES.get(reply.code, f"HTTP {reply.headers.get(':status')}")
                        check_text(path, reply.message)
                        what = f"{path} at {member.name} with {value[:40]!r} and {len(body or b'')} bytes"
                        assert reply.is_ended, f"{what}: {connection.describe(1)}"
                        assert cluster.is_open or code != "OK", f"{what} is served"
                        codes.append(code)
    assert not {"INTERNAL", "UNKNOWN"} & set(codes), tally(codes)
    return tally(codes)


def calls_without_identity(cluster, effort):
    """Every Flight call by nobody is UNAUTHENTICATED, with the remedy."""
    calls = ["ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoGet", "DoPut", "DoExchange", "DoAction", "ListActions"]
    for member in cluster.members():
        with RawConnection(cluster.host_port(member), cluster.sources(1)[0]) as connection:
            for name in calls:
                connection.send(connection.request(SERVICE + name, b""))
            replies = list(connection.replies.values())
            connection.read(lambda: all(reply.is_ended for reply in replies), 30)
            for name, reply in zip(calls, replies):
                assert CODES.get(reply.code) == "UNAUTHENTICATED", f"{name} at {member.name}: {vars(reply)}"
                assert re.search("log in|identity|token|credential", reply.message), reply.message
    return f"{len(calls)} calls at each member"


FLOOD_BYTES = {"bytes_each": 1 << 20, "units": 8}
ATTACKS = [
    Attack("rapid reset", "calls that are reset at once", rapid_reset, **FLOOD_BYTES),
    Attack("ping flood", "pings whose answers are not read", ping_flood, **FLOOD_BYTES),
    Attack("settings flood", "settings whose acknowledgements are not read", settings_flood, **FLOOD_BYTES),
    Attack("continuation flood", "headers that never end", continuation_flood, **FLOOD_BYTES),
    Attack("empty continuations", "headers that never end, without bytes", empty_continuations, **FLOOD_BYTES),
    Attack("header bomb", "one large header named thousands of times", header_bomb, **FLOOD_BYTES),
    Attack("idle frames", "empty data, priorities and windows", idle_frames, **FLOOD_BYTES),
    Attack("noise", "frames by chance", noise, **FLOOD_BYTES),
    Attack("half-open connections", "4,000 connections that do not begin", half_open, bytes_each=32 << 10, units=4_000),
    Attack("half-open from many", "the same from forty addresses", half_open_from_many, bytes_each=32 << 10, units=4_000),
    Attack("handshakes", "logins with wrong passwords", handshakes, bytes_each=20 << 20, units=4),
    Attack("credentials", "logins and tokens that are long, cut or forged", long_credentials),
    Attack("no identity", "every call by nobody", calls_without_identity, needs_users=True),
]
