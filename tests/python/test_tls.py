"""Clusters with TLS: pyarrow, Python's own TLS, HTTPS and `volley` as clients, and connections that are refused."""

import http.client
import json
import shutil
import socket
import ssl
import struct
import subprocess
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put, wait_until
from tls_cluster import PROMPT, REFUSED, UNSHARED, Authority, TlsCluster, lines_after, refusal, refused, volley

TABLE = pa.table({"i": pa.array(range(100_000), pa.int64()), "s": ["some text %d" % (i % 1000) for i in range(100_000)]})
KEYED = dict(shards=4, shard_by=["i"])


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


def test_client_with_tls_at_a_port_without_is_refused(named):
    for member in named.members():
        begin = time.monotonic()
        cause = refusal(member, lambda: refused(named.client(member, "plain")))
        assert time.monotonic() - begin < 3
        # Members' TLS is there, and clients use the port without.
        assert "TLS of a client on a port that has TLS for members only" in cause and "grpc+tcp://" in cause
        with flight.connect(named.address(member, "plain", "grpc+tcp")) as client:
            assert list(client.list_actions(options=PROMPT))


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


def served(cluster, member, kind):
    """The certificate that a port presents now."""
    context = ssl._create_unverified_context()
    with tls_connection(cluster, context, member, kind) as connection:
        return connection.getpeercert(binary_form=True)


def test_new_certificate_is_served_without_a_restart(own):
    member = own.nodes[0]
    # More than windows and socket buffers hold, so that the stream is open until it is read.
    table = pa.concat_tables([TABLE] * 20)
    client = own.client(member)
    put(client, "t", table, shards=1, max_endpoints=1)
    [endpoint] = client.get_flight_info(descriptor("t")).endpoints
    reader = client.do_get(endpoint.ticket)
    first = reader.read_chunk().data
    before = own.server_files["node1"].der()
    renewed = own.authority.issue("--server", member.host, "--force")
    assert renewed.cert == own.server_files["node1"].cert and renewed.der() != before
    for kind in ("flight", "http"):
        wait_until(lambda: served(own, member, kind) == renewed.der(), 5, f"the new certificate at the {kind} port")
    rest = [chunk.data for chunk in reader]
    assert pa.Table.from_batches([first, *rest]).equals(table)
    with own.client(member) as new:
        assert new.do_get(endpoint.ticket).read_all().num_rows == table.num_rows
    assert "certificates were reloaded" in member.log.read_text()
    assert own.volley("--tls-ca", own.authority.ca, "doctor").returncode == 0


def failures(cluster, member):
    """The counter of TLS files that could not be used, by kind."""
    lines = https(cluster, member, "/metrics")[1].splitlines()
    lines = [line for line in lines if line.startswith("volley_tls_reload_failures_total{")]
    return {line.split('"')[1]: int(line.split()[-1]) for line in lines}


def reports(cluster, file):
    """The lines of `volley doctor` about a file, and its exit code. Metrics and doctor make handshakes at both ports."""
    for member in cluster.members():
        failures(cluster, member)
    report = cluster.volley("--tls-ca", cluster.authority.ca, "doctor")
    return [line for line in report.stdout.splitlines() if str(file) in line], report.returncode


def test_bad_new_certificate_keeps_the_old_one(own):
    files = [own.server_files[member.name] for member in own.members()]
    before = [(issued.der(), issued.cert.read_text()) for issued in files]
    for issued in files:
        issued.cert.write_text("no certificate\n")
    for member, issued, (old, _) in zip(own.members(), files, before):
        # Each handshake looks at the files, at most once a second.
        wait_until(lambda: failures(own, member).get("tls_cert"), 10, "the failure is counted")
        for kind in ("flight", "http"):
            assert served(own, member, kind) == old
        with own.client(member) as client:
            assert list(client.list_actions(options=PROMPT))
        lines, code = wait_until(lambda: (found := reports(own, issued.cert))[0] and found, 10, "the doctor names the file")
        assert code == 3 and all("it has no certificate" in line and "the old file stays in use" in line for line in lines)
        warnings = [line for line in member.log.read_text().splitlines() if "new certificate files cannot be used" in line]
        assert warnings and all("WARN" in line and f"--tls-cert {issued.cert}: it has no certificate" in line for line in warnings)
    for issued, (_, text) in zip(files, before):
        issued.cert.write_text(text)
    wait_until(lambda: reports(own, own.certificates) == ([], 0), 15, "the doctor is content")


def answers(cluster, member):
    """Whether the member serves TLS, whatever its certificate."""
    try:
        return served(cluster, member, "flight")
    except OSError:
        return None


def test_expired_certificate_is_named_on_both_sides(own):
    member, issued = own.nodes[0], own.server_files["node1"]
    expired = own.authority.issue_expired_server(member.host, issued)
    issued.cert.write_bytes(expired.cert.read_bytes())
    before = served(own, member, "flight")
    wait_until(lambda: failures(own, member).get("tls_cert"), 10, "it is counted as unusable")
    assert served(own, member, "flight") == before != expired.der(), "the valid one stays in use"
    # At a start there is no other.
    member.stop()
    member.start()
    wait_until(lambda: member.alive() and answers(own, member), 30, "the node is up")
    assert served(own, member, "flight") == expired.der()
    warnings = [line for line in member.log.read_text().splitlines() if "WARN" in line and "expired" in line]
    assert warnings and all(str(issued.cert) in line for line in warnings)
    failed = "the TLS handshake failed"
    cause = refusal(member, lambda: check("certificate has expired" in refused(own.client(member))), failed)
    # gRPC sends no alert that would say why.
    assert "the client closed the connection during the TLS handshake: it may not trust this certificate" in cause

    def volley_is_refused():
        done = own.volley("--tls-ca", own.authority.ca, "ls", member=member)
        assert done.returncode == 1 and "its certificate has expired" in done.stderr

    assert "this side's certificate has expired" in refusal(member, volley_is_refused, failed)


def test_volley_trusts_the_authority_that_it_is_given(cluster, stranger, name):
    put(cluster.client(), name, TABLE)
    ca = cluster.authority.ca
    for member in cluster.members():
        listed = cluster.volley("--tls-ca", ca, "ls", member=member)
        assert listed.returncode == 0 and name in listed.stdout, listed.stderr
    by_variable = cluster.volley("ls", env={"VOLLEY_TLS_CA": str(ca)})
    assert by_variable.returncode == 0 and name in by_variable.stdout, by_variable.stderr
    # grpc:// with a setting of TLS is TLS.
    assert cluster.volley("--tls-ca", ca, "ls", scheme="grpc").returncode == 0
    head = cluster.volley("--tls-ca", ca, "get", name)
    assert head.returncode == 0 and "some text 1" in head.stdout, head.stderr
    report = cluster.volley("--tls-ca", ca, "--json", "doctor")
    assert report.returncode == 0 and json.loads(report.stdout)["well"], report.stdout
    for words, scheme, said in (
        (["--tls-ca", stranger.ca], "grpc+tls", "not signed by a CA that this side trusts"),
        ([], "grpc+tls", "not signed by a CA that this side trusts"),
        (["--tls-ca", ca, "--tls-server-name", "other.test"], "grpc+tls", "its certificate is not for other.test"),
        (["--tls-ca", stranger.folder / "none.crt"], "grpc+tls", "none.crt: it cannot be read"),
        (["--tls-ca", ca], "grpc+tcp", "is without TLS, but settings of TLS are given"),
    ):
        done = cluster.volley(*words, "ls", scheme=scheme)
        assert done.returncode == 1 and said in done.stderr, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert cluster.volley("--tls-ca", ca, "--tls-server-name", "localhost", "ls").returncode == 0


def test_volley_presents_its_certificate(named, stranger):
    ca, user = named.authority.ca, named.authority.issue("--user", "ana", "--force")
    flags = ["--tls-ca", ca, "--tls-cert", user.cert, "--tls-key", user.key]
    for member in named.members():
        done = named.volley(*flags, "ls", member=member, listener="mutual")
        assert done.returncode == 0, done.stderr
        done = named.volley("--tls-ca", ca, "ls", member=member, listener="plain")
        assert done.returncode == 1 and "clients use it without TLS" in done.stderr, done.stderr
    environment = {"VOLLEY_TLS_CA": str(ca), "VOLLEY_TLS_CLIENT_CERT": str(user.cert), "VOLLEY_TLS_CLIENT_KEY": str(user.key)}
    assert named.volley("ls", listener="mutual", env=environment).returncode == 0


def test_volley_without_tls_gets_the_reason(named):
    for _ in range(12):
        done = named.volley("ls", listener="mutual", scheme="grpc+tcp")
        assert done.returncode == 1 and "this port requires TLS, connect by grpc+tls://" in done.stderr, done.stderr


@pytest.mark.parametrize("fault", ["client", "authority", "name"])
def test_volley_describes_failures_of_tls_in_plain_words(cluster, named, stranger, fault):
    if fault == "client":
        said = named.volley("--tls-ca", named.authority.ca, "ls", listener="mutual").stderr
        assert named.address(named.coordinators[0], "mutual") in said, said
    elif fault == "authority":
        said = cluster.volley("--tls-ca", stranger.ca, "ls").stderr
        assert "--tls-ca" in said and "volley dev" not in said, said
    else:
        said = cluster.volley("--tls-ca", cluster.authority.ca, "--tls-server-name", "other.test", "ls").stderr
        names = said.split("but for ")[1].split(";")[0].split(", ")
        assert sorted(names) == sorted([cluster.coordinators[0].host, "localhost", "127.0.0.1", "::1"]), said


def test_volley_health_asks_by_https(cluster, stranger):
    for member in cluster.members():
        http_port = "{}:{}".format(*cluster.port(member, "http"))
        for address in (http_port, f"https://{http_port}"):
            done = volley("--tls-ca", cluster.authority.ca, "health", "--http", address)
            assert done.returncode == 0 and "is ready" in done.stdout, done.stderr
        done = volley("--tls-ca", stranger.ca, "health", "--http", f"https://{http_port}")
        assert done.returncode == 1 and "not signed by a CA" in done.stderr, done.stderr
        done = volley("health", "--http", f"http://{http_port}")
        assert done.returncode == 1 and "requires TLS" in done.stderr, done.stderr
