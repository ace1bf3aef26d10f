"""`openssl s_client` and curl at each port of each role: what an operator sees who looks at a port by hand."""

import shutil
import subprocess

import pytest

from tls_fixtures import cluster, stranger

PORTS = ["flight", "peer", "http"]


def run(*words):
    return subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


def s_client(cluster, member, kind, *options):
    host, port = cluster.port(member, kind)
    return run("openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile", cluster.authority.ca, "-verify_return_error", *options)


def pair_for(cluster, kind):
    """A peer port asks for a member's certificate."""
    files = cluster.peer_files["node1"]
    return ("-cert", files.cert, "-key", files.key) if kind == "peer" else ()


def curl(cluster, member, kind, scheme, *options):
    """Status and text of GET /livez. Names in members' certificates are no hosts, so a peer port is asked by another address."""
    host, port = cluster.port(member, kind)
    name = "member.volley.internal" if kind == "peer" and scheme == "https" else host
    done = run("curl", "-sS", "--max-time", "10", "--resolve", f"{name}:{port}:{host}", *options, "-w", "\n%{http_code}", f"{scheme}://{name}:{port}/livez")
    text, _, status = done.stdout.rpartition("\n")
    return int(status or 0), text + done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing: s_client is not tested")
@pytest.mark.parametrize("kind", PORTS)
def test_openssl_connects_by_modern_tls_only(cluster, stranger, kind):
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        for version in ("TLSv1.2", "TLSv1.3"):
            flag = "-" + version.lower().replace("v", "").replace(".", "_")
            done = s_client(cluster, member, kind, flag, "-alpn", "h2", *pair_for(cluster, kind))
            assert done.returncode == 0 and f"New, {version}" in done.stdout, (member.name, done.stderr)
            assert "ALPN protocol: h2" in done.stdout and "Verify return code: 0 (ok)" in done.stdout, done.stdout
        # The lowest security level, because this OpenSSL may not offer it otherwise.
        done = s_client(cluster, member, kind, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        assert done.returncode != 0 and "alert" in done.stderr and "(NONE)" in done.stdout, (member.name, done.stderr)
        host, port = cluster.port(member, kind)
        done = run("openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile", stranger.ca, "-verify_return_error")
        assert done.returncode != 0 and "verify" in done.stderr, (member.name, done.stderr)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
@pytest.mark.parametrize("kind", PORTS)
def test_curl_is_told_what_a_port_is(cluster, kind):
    ca, files = cluster.authority.ca, cluster.peer_files["node1"]
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        # No host name is in the certificate of a member.
        by_tls = ["--insecure", "--cert", files.cert, "--key", files.key] if kind == "peer" else ["--cacert", ca]
        status, text = curl(cluster, member, kind, "https", *by_tls)
        expected = {"flight": (415, "this is a Flight port"), "peer": (415, "this is a peer port"), "http": (200, "alive")}[kind]
        assert status == expected[0] and expected[1] in text, (member.name, status, text)
        if kind != "peer":
            status, text = curl(cluster, member, kind, "https")
            assert status == 0 and "certificate" in text, (member.name, text)
        status, text = curl(cluster, member, kind, "http")
        assert status == 400 and "this port requires" in text and "TLS" in text, (member.name, status, text)
        # No success for a probe by HTTP/2, which cannot read what gRPC would.
        status, _ = curl(cluster, member, kind, "http", "--http2-prior-knowledge")
        assert status == 400, (member.name, status)
