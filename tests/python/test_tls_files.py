"""Certificates that change while members run, and `volley` with its settings of TLS."""

import json
import subprocess

import pyarrow as pa
import pytest

from cluster import descriptor, environment, put, wait_until
from tls_cluster import PROMPT, refusal, refused, volley
from tls_fixtures import TABLE, check, cluster, https, named, own, served, stranger


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
    checked = subprocess.run([*member.command, "--check-config"], capture_output=True, text=True, timeout=30, env=environment())
    assert checked.returncode == 1 and f"--tls-cert {issued.cert}: the certificate has expired" in checked.stderr, checked
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


def test_volley_names_a_client_certificate_that_is_refused(named, stranger):
    user = named.authority.issue("--user", "eva", "--force")
    expired, server = named.authority.issue_expired_user("eva", user), named.server_files["node1"]
    foreign = stranger.issue("--user", "eva", "--force")
    for member in named.members():
        for issued, said in (
            (expired, f"--tls-cert {expired.cert}: the certificate has expired"),
            (server, f"--tls-cert {server.cert}: the certificate is not for clients"),
        ):
            done = named.volley("--tls-ca", named.authority.ca, "--tls-cert", issued.cert, "--tls-key", issued.key, "ls", member=member, listener="mutual")
            assert done.returncode == 1 and said in done.stderr, done.stderr
        done = named.volley("--tls-ca", named.authority.ca, "--tls-cert", foreign.cert, "--tls-key", foreign.key, "ls", member=member, listener="mutual")
        # The server's reason, or, if the connection is gone before it arrives, the likely one; HTTP/2 may say no more than its end.
        said = ("does not trust the CA of this side's certificate", f"may refuse the certificate of --tls-cert {foreign.cert}", "connection closed: check that")
        assert done.returncode == 1 and any(words in done.stderr for words in said), done.stderr


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
