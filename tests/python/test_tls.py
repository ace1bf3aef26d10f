"""Clusters with TLS: pyarrow, Python's own TLS and HTTPS as clients, and connections that are refused."""

import shutil
import ssl
import subprocess
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put, wait_until
from tls_cluster import PROMPT, REFUSED, UNSHARED, lines_after, refusal, refused, volley
from tls_fixtures import TABLE, check, cluster, https, named, plain_http, stranger, tls_1_1_is_refused, tls_connection

KEYED = dict(shards=4, shard_by=["i"])


def read(cluster, endpoint, **options):
    """Reads an endpoint from each of its locations; they must be the same."""
    tables = []
    for location in endpoint.locations:
        assert location.uri.startswith(b"grpc+tls://"), location
        with flight.connect(location, **cluster.trust(**options)) as there:
            tables.append(there.do_get(endpoint.ticket).read_all())
    assert tables and all(table.equals(tables[0]) for table in tables)
    return tables[0]


def test_every_member_serves_tables_by_tls(cluster, name):
    for member in cluster.members():
        table = f"{name}/{member.name}"
        with cluster.client(member) as client:
            assert put(client, table, TABLE, **KEYED)["rows"] == TABLE.num_rows
            endpoints = client.get_flight_info(descriptor(table)).endpoints
            assert {cluster.address(node).encode() for node in cluster.nodes} == {
                location.uri for endpoint in endpoints for location in endpoint.locations
            }
            rows = pa.concat_tables([read(cluster, endpoint) for endpoint in endpoints])
            assert rows.sort_by("i").equals(TABLE)
            assert action(client, "drop_table", {"table": table})


def test_proxied_and_forwarded_calls_use_tls(cluster, name):
    """Data and lookups that pass through another member."""
    put(cluster.client(), name, TABLE, **KEYED)
    asked = flight.FlightCallOptions(headers=[(b"x-volley-listener", b"proxy")])
    for member in cluster.members():
        with cluster.client(member) as client:
            endpoints = client.get_flight_info(descriptor(name), asked).endpoints
            assert all(location.uri.startswith(b"grpc+tls://") for e in endpoints for location in e.locations)
            rows = pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in endpoints])
            assert rows.sort_by("i").equals(TABLE)


def test_client_checks_name_and_authority_unless_told(cluster):
    address, ca = cluster.address(cluster.nodes[0]), cluster.authority.ca.read_bytes()
    for options in (
        dict(tls_root_certs=ca, override_hostname="localhost"),
        dict(disable_server_verification=True),
        dict(disable_server_verification=True, override_hostname="no.such.name"),
    ):
        with flight.connect(address, generic_options=UNSHARED, **options) as client:
            assert list(client.list_actions(options=PROMPT))


UNTRUSTING = {
    "authority": (lambda stranger: dict(tls_root_certs=stranger.ca.read_bytes()), "certificate verify failed"),
    "system": (lambda _: dict(tls_root_certs=None), "certificate verify failed"),
    "name": (lambda _: dict(override_hostname="other.test"), "other.test is not in peer certificate"),
}


@pytest.mark.parametrize("fault", UNTRUSTING)
def test_client_that_does_not_trust_a_server_says_why(cluster, stranger, fault):
    options, said = UNTRUSTING[fault]
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        attempt = lambda: check(said in refused(cluster.client(member, **options(stranger))))
        if fault == "name":
            # gRPC compares it after the handshake, which the member saw succeed.
            attempt()
            continue
        cause = refusal(member, attempt)
        assert cause.startswith("the TLS handshake failed") and "trust" in cause, cause


def test_client_that_leaves_after_its_handshake_is_no_fault(cluster):
    """As gRPC does when the name in the certificate is wrong, and as a probe does that only connects."""
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        for kind in ("flight", "peer", "http"):
            context = cluster.context(cluster.nodes[0] if kind == "peer" else None)

            def attempts():
                tls_connection(cluster, context, member, kind).close()
                # A fault, which is logged after it.
                plain_http(cluster, member, kind, expected_status=400)

            lines = [line for line in lines_after(member, attempts, REFUSED) if REFUSED in line]
            assert len(lines) == 1 and "requires" in lines[0], lines


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["flight", "peer", "http"])
def test_client_without_tls_gets_the_reason(cluster, kind):
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        client = flight.connect("grpc+tcp://{}:{}".format(*cluster.port(member, kind)), generic_options=UNSHARED)
        cause = refusal(member, lambda: check("requires" in refused(client, timeout=2)))
        assert "requires" in cause and "TLS" in cause


def test_http1_client_without_tls_gets_the_reason(cluster):
    for member in cluster.members():
        for kind, words in (
            ("flight", "this port requires TLS, connect by grpc+tls://"),
            ("peer", "this port requires the TLS of members"),
            ("http", "this port requires TLS, connect by https://"),
        ):
            cause = refusal(member, lambda: check(words in plain_http(cluster, member, kind, expected_status=400)))
            assert words in cause


@pytest.mark.alone
def test_client_with_tls_at_a_port_without_is_refused(named):
    for member in named.members():
        begin = time.monotonic()
        cause = refusal(member, lambda: refused(named.client(member, "plain")))
        assert time.monotonic() - begin < 3
        # Members' TLS is there, and clients use the port without.
        assert "TLS of a client on a port that has TLS for members only" in cause and "grpc+tcp://" in cause
        with flight.connect(named.address(member, "plain", "grpc+tcp")) as client:
            assert list(client.list_actions(options=PROMPT))


@pytest.mark.alone
def test_client_with_tls_of_a_cluster_without_is_refused(shared, stranger):
    for member in (shared.coordinators[0], shared.nodes[0]):
        address = shared.address(member).replace("grpc+tcp", "grpc+tls")

        def attempt():
            begin = time.monotonic()
            refused(flight.connect(address, tls_root_certs=stranger.ca.read_bytes(), generic_options=UNSHARED))
            assert time.monotonic() - begin < 3
            return REFUSED in member.tail() and "TLS ClientHello on a port without TLS, connect by grpc+tcp://" in member.tail()

        wait_until(attempt, 10, "a line of the log")
        done = volley("--cluster", address, "--tls-ca", stranger.ca, "ls")
        assert done.returncode == 1 and "its port may have no TLS" in done.stderr, done.stderr


def https_fails(cluster, member):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        https(cluster, member, "/livez")


def test_https_client_at_a_port_without_tls_is_refused(named):
    for member in named.members():
        assert "TLS ClientHello on a port without TLS" in refusal(member, lambda: https_fails(named, member))
        assert plain_http(named, member, "http", expected_status=200) == "alive\n"


def test_https_client_gets_the_scheme_of_the_http_port(named):
    cause = refusal(named.nodes[0], lambda: https_fails(named, named.nodes[0]))
    assert "connect by http://" in cause, cause


def test_listener_returns_its_own_locations(named, name):
    user = named.authority.issue("--user", "ana", "--force")
    put(named.client(listener="tls"), name, TABLE)
    for listener, options in (("tls", {}), ("mutual", user.pair()), ("plain", None)):
        for member in named.members():
            scheme = "grpc+tcp" if listener == "plain" else "grpc+tls"
            client = flight.connect(named.address(member, listener, scheme), **({} if options is None else named.trust(**options)))
            [endpoint] = client.get_flight_info(descriptor(name)).endpoints
            assert [l.uri.decode() for l in endpoint.locations] == [named.address(named.nodes[0], listener, scheme)]
            if options is not None:
                assert read(named, endpoint, **options).equals(TABLE)


def test_listener_demands_a_certificate_of_its_authority(named, stranger):
    ana = named.authority.issue("--user", "ana", "--force")
    cases = (
        ({}, "it presented no certificate"),
        (stranger.issue("--user", "ana", "--force").pair(), "its certificate is not signed by a CA that this side trusts"),
        (named.authority.issue_expired_user("ana", ana).pair(), "its certificate has expired"),
        (named.server_files["node1"].pair(), "its certificate is not for this purpose"),
    )
    for member in named.members():
        with named.client(member, "mutual", **ana.pair()) as client:
            assert list(client.list_actions(options=PROMPT))
        for options, words in cases:
            cause = refusal(member, lambda: refused(named.client(member, "mutual", **options)))
            assert cause.startswith("the TLS handshake failed") and words in cause, cause


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_port_speaks_tls_and_http2(cluster, version):
    for member in cluster.members():
        for kind in ("flight", "peer", "http"):
            context = cluster.context(cluster.nodes[0] if kind == "peer" else None)
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            with tls_connection(cluster, context, member, kind) as connection:
                assert connection.version() == version.name.replace("_", "."), (member.name, kind)
                assert connection.selected_alpn_protocol() == "h2"
                issued = cluster.peer_files if kind == "peer" else cluster.server_files
                assert connection.getpeercert(binary_form=True) == issued[member.name].der()


def test_every_port_refuses_older_tls(cluster):
    for member in cluster.members():
        for kind in ("flight", "peer", "http"):
            refusal(member, lambda: tls_1_1_is_refused(cluster.port(member, kind)))


def test_refusal_of_older_tls_names_the_version(cluster):
    member = cluster.nodes[0]
    cause = refusal(member, lambda: tls_1_1_is_refused(cluster.port(member, "flight")))
    assert "TLS 1.2 is the least" in cause, cause


def test_client_without_http2_is_refused_where_only_grpc_is(cluster):
    def attempt(context, member, kind):
        with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
            tls_connection(cluster, context, member, kind).close()

    for member in cluster.members():
        for kind in ("flight", "peer"):
            context = cluster.context(cluster.nodes[0] if kind == "peer" else None)
            context.set_alpn_protocols(["http/1.1"])
            cause = refusal(member, lambda: attempt(context, member, kind))
            assert "it offers no protocol that this side speaks (ALPN h2)" in cause, cause


def test_peer_port_refuses_whoever_is_no_member(cluster, stranger):
    cases = (
        (None, "it presented no certificate"),
        (cluster.server_files["node1"], "its certificate is not for this purpose"),
        (stranger.issue("--node", "node1", "--force"), "its certificate is not signed by a CA that this side trusts"),
        (cluster.authority.issue("--user", "ana", "--force"), "names no member"),
    )

    def attempt(context, member):
        # With TLS 1.3 the client learns it when it reads.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with tls_connection(cluster, context, member, "peer") as connection:
                connection.recv(1)

    for member in (cluster.coordinators[0], cluster.nodes[0]):
        for issued, words in cases:
            context = cluster.context()
            context.check_hostname = False
            if issued is not None:
                context.load_cert_chain(issued.cert, issued.key)
            cause = refusal(member, lambda: attempt(context, member))
            assert cause.startswith("the TLS handshake failed") and words in cause, cause


def test_http_port_serves_probes_and_metrics_by_https(cluster, stranger):
    for member in cluster.members():
        assert https(cluster, member, "/livez") == (200, "alive\n")
        assert https(cluster, member, "/readyz")[0] == 200
        status, metrics = https(cluster, member, "/metrics")
        assert status == 200 and "volley_" in metrics
        with pytest.raises(ssl.SSLCertVerificationError):
            https(cluster, member, "/livez", ssl.create_default_context(cafile=stranger.ca))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: HTTP/2 at the HTTP port is not tested")
def test_http_port_serves_curl_by_http2(cluster):
    command = ["curl", "-sS", "--max-time", "5", "--cacert", cluster.authority.ca, "-w", "%{http_version} "]
    for member in cluster.members():
        url = "https://{}:{}".format(*cluster.port(member, "http"))
        done = subprocess.run([*command, f"{url}/livez", f"{url}/readyz"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count("2 ") == 2 and "alive" in done.stdout, done
