"""Clusters with TLS as fixtures, and clients that speak TLS below gRPC."""

import http.client
import socket
import ssl
import struct

import pyarrow as pa
import pytest

from tls_cluster import Authority, TlsCluster

TABLE = pa.table({"i": pa.array(range(100_000), pa.int64()), "s": ["some text %d" % (i % 1000) for i in range(100_000)]})


def started(**options):
    """Yields a cluster; shows its logs afterwards, which pytest prints if a test failed."""
    cluster = TlsCluster(**options)
    yield cluster
    for member in cluster.members():
        print(f"--- {member.name}\n{member.tail()}")
    cluster.close()


@pytest.fixture(scope="module")
def cluster():
    """TLS everywhere: 3 coordinators, 2 nodes."""
    yield from started(coordinators=3, nodes=2)


@pytest.fixture(scope="module")
def named():
    """A coordinator and a node, each with a listener with TLS, one that demands certificates, and one without TLS."""
    yield from started(coordinators=1, nodes=1, listeners=("tls", "mutual", "plain"))


@pytest.fixture
def own():
    """A coordinator and a node whose files a test may change."""
    yield from started(coordinators=1, nodes=1)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority, which no server trusts."""
    return Authority(tmp_path_factory.mktemp("stranger") / "authority")


def check(is_true):
    assert is_true


def tls_connection(cluster, context, member, kind):
    """A handshake by Python's TLS; a peer port is asked for by the name of members."""
    raw = socket.create_connection(cluster.port(member, kind), timeout=5)
    name = "member.volley.internal" if kind == "peer" else member.host
    try:
        return context.wrap_socket(raw, server_hostname=name)
    except Exception:
        raw.close()
        raise


def tls_1_1_is_refused(address):
    """Begins a handshake that offers TLS 1.1 at most: a fatal alert must answer. Written by hand, because a TLS library may
    refuse to offer it."""
    ciphers, none = struct.pack(">HHHH", 6, 0xC013, 0xC009, 0x002F), b"\x00"
    hello = b"\x03\x02" + b"r" * 32 + none + ciphers + b"\x01" + none
    handshake = b"\x01" + len(hello).to_bytes(3, "big") + hello
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake)
        kind, _, length, level, alert = struct.unpack(">BHHBB", connection.recv(7, socket.MSG_WAITALL))
    # The alerts handshake_failure and protocol_version.
    assert (kind, length, level) == (21, 2, 2) and alert in (40, 70)


def https(cluster, member, path, context=None):
    """GET by HTTPS; returns status and text."""
    host, port = cluster.port(member, "http")
    connection = http.client.HTTPSConnection(host, port, timeout=5, context=context or cluster.context())
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def plain_http(cluster, member, kind, expected_status):
    """The text that a port answers to GET /livez without TLS."""
    connection = http.client.HTTPConnection(*cluster.port(member, kind), timeout=5)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        assert response.status == expected_status
        return response.read().decode()
    finally:
        connection.close()


def served(cluster, member, kind):
    """The certificate that a port presents now."""
    context = ssl._create_unverified_context()
    with tls_connection(cluster, context, member, kind) as connection:
        return connection.getpeercert(binary_form=True)
