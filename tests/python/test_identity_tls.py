"""Identity with TLS: logins and bearers by TLS, client certificates as principals, and clients that trust no server."""

import hashlib
import json
import ssl

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put
from identity_cluster import ADMIN, LOGIN, TutorialHandler, UserTlsCluster, refusal_of, searched
from tls_cluster import PROMPT, refusal, refused, volley
from tls_fixtures import https, stranger

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})
KEYED = dict(shards=4, shard_by=["i"])


@pytest.fixture(scope="module")
def cluster():
    """A coordinator and two nodes, each with a listener with TLS, and one that demands certificates of its clients."""
    yield from searched(UserTlsCluster(coordinators=1, nodes=2, listeners=("tls", "mutual")))


class CertifiedCluster(UserTlsCluster):
    """Every port that has TLS takes certificates of clients, the HTTP ports too, and demands none."""

    def _flags(self, name, host, port):
        return [*super()._flags(name, host, port), "--tls-client-ca", str(self.authority.ca)]


@pytest.fixture
def certified_cluster():
    yield from searched(CertifiedCluster(coordinators=1, nodes=1))


def certified(cluster, member, issued, **options):
    """A client that has a certificate, and no token."""
    return cluster.client(member, user=None, listener="mutual", **issued.pair(), **options)


def whoami(client):
    with client:
        return action(client, "whoami")


def test_one_bearer_serves_all_endpoints_by_tls(cluster, name):
    ana = cluster.add_user(("writer", name))
    for member in cluster.members():
        table, token = f"{name}/{member.name}", cluster.login(ana, member)
        with cluster.client(member, token=token) as client:
            put(client, table, TABLE, **KEYED)
            endpoints = client.get_flight_info(descriptor(table)).endpoints
        locations = {location.uri.decode() for endpoint in endpoints for location in endpoint.locations}
        assert locations == {cluster.address(node, "tls") for node in cluster.nodes}
        parts = [cluster.redeem(endpoint, token=token, location=at % 2) for at, endpoint in enumerate(endpoints)]
        assert pa.concat_tables(parts).sort_by("i").equals(TABLE)


def test_every_way_to_log_in_works_by_tls(cluster):
    ana = cluster.add_user()
    for member in cluster.members():
        for options in (
            {}, {"override_hostname": "localhost"}, {"disable_server_verification": True, "tls_root_certs": None},
        ):
            token = cluster.login(ana, member, **options)
            assert whoami(cluster.client(member, token=token, **options))["principal"] == ana
            handler = TutorialHandler(ana, cluster.passwords[ana])
            with cluster.client(member, user=None, **options) as client:
                client.authenticate(handler, LOGIN)
                assert action(client, "whoami")["principal"] == ana
            cluster.keep(handler.token.decode())


UNTRUSTED = {
    "authority": (lambda stranger: {"tls_root_certs": stranger.ca.read_bytes()}, "certificate verify failed"),
    "name": (lambda _: {"override_hostname": "other.test"}, "other.test is not in peer certificate"),
}


@pytest.mark.parametrize("fault", UNTRUSTED)
def test_password_is_not_sent_to_an_untrusted_server(cluster, stranger, fault):
    options, words = UNTRUSTED[fault]
    for member in cluster.members():
        with cluster.client(member, user=None, **options(stranger)) as client:
            # pyarrow may notice first that its message was not sent.
            with pytest.raises((flight.FlightUnavailableError, flight.FlightInternalError), match=f"{words}|Could not finish"):
                client.authenticate_basic_token(ADMIN, "a wrong password", PROMPT)
    # Nobody saw it: the next login is not slowed down.
    cluster.login()


def test_certificate_is_a_principal(cluster, name):
    put(cluster.client(), name, TABLE, **KEYED)
    person = f"person-{name[2:]}"
    issued = cluster.authority.issue("--user", person)
    for member in cluster.members():
        who = whoami(certified(cluster, member, issued))
        assert (who["principal"], who["method"], who["open"], who["grants"]) == (person, "certificate", False, []), who
        assert who["credential"] == f"certificate:{hashlib.sha256(issued.der()).hexdigest()}"
        with certified(cluster, member, issued) as client:
            assert list(client.list_flights()) == []
            with pytest.raises(KeyError, match=f'there is no table "{name}"'):
                client.get_flight_info(descriptor(name))
            assert refusal_of(lambda: action(client, "cluster_status"))
    cluster.grant(f"user:{person}", "reader", name)
    cluster.settle()
    for member in cluster.members():
        with certified(cluster, member, issued) as client:
            endpoints = client.get_flight_info(descriptor(name)).endpoints
        locations = {location.uri.decode() for endpoint in endpoints for location in endpoint.locations}
        assert locations == {cluster.address(node, "mutual") for node in cluster.nodes}
        parts = []
        for endpoint in endpoints:
            with flight.connect(endpoint.locations[0], **cluster.trust(**issued.pair())) as there:
                parts.append(there.do_get(endpoint.ticket).read_all())
        assert pa.concat_tables(parts).sort_by("i").equals(TABLE)
    lines = cluster.wait_audited(operation="DoGet", table=name, principal=person)
    assert {(line["method"], line["result"]) for line in lines} == {("certificate", "OK")}


def test_certificate_of_a_user_has_the_rights_of_its_groups(cluster, name):
    put(cluster.client(), name, TABLE)
    group = f"group-{name[2:]}"
    ana = cluster.add_user(name=f"ana-{name[2:]}", groups=[group])
    cluster.grant(f"group:{group}", "writer", name)
    cluster.settle()
    issued = cluster.authority.issue("--user", ana)
    for member in cluster.members():
        with certified(cluster, member, issued) as client:
            put(client, f"{name}/{member.name}", TABLE)
            assert action(client, "whoami")["groups"] == [group]


def test_certificate_is_a_principal_at_the_http_port(certified_cluster, stranger):
    cluster = certified_cluster
    put(cluster.client(), "sales/t", TABLE)
    reader, operator = (cluster.authority.issue("--user", name) for name in ("ines", "otto"))
    cluster.grant("user:ines", "reader", "sales")
    cluster.grant("user:otto", "operator", "/")
    cluster.settle()
    tables, rows = "/api/v1/tables", "/api/v1/data/sales/t?format=csv"
    for member in cluster.members():
        def get(path, issued=None):
            context = cluster.context()
            if issued is not None:
                context.load_cert_chain(issued.cert, issued.key)
            return https(cluster, member, path, context)

        for path in (tables, rows, "/metrics"):
            assert get(path)[0] == 401, path
        status, text = get(tables, reader)
        assert status == 200 and "sales/t" in text, text
        status, text = get(rows, reader)
        assert status == 200 and len(text.splitlines()) == 1 + TABLE.num_rows, text[:200]
        status, text = get("/metrics", reader)
        assert status == 403 and "ines" in text, text
        status, text = get("/metrics", operator)
        assert status == 200 and "volley_" in text
        assert get(rows, operator)[0] == 404
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(tables, stranger.issue("--user", "ines", "--force"))
    lines = cluster.wait_audited(operation="metrics", principal="ines")
    assert {(line["method"], line["result"]) for line in lines} == {("certificate", "PERMISSION_DENIED")}


def test_token_counts_more_than_the_certificate(cluster):
    issued = cluster.authority.issue("--user", "carrier", "--force")
    ana = cluster.add_user()
    for member in cluster.members():
        client = cluster.client(member, user=ana, listener="mutual", **issued.pair())
        assert whoami(client)["principal"] == ana
        # A bad token is no reason to fall back to the certificate.
        with cluster.client(member, token="nonsense", listener="mutual", **issued.pair()) as client:
            with pytest.raises(flight.FlightUnauthenticatedError):
                list(client.list_flights())


def test_ticket_is_bound_to_the_name_and_not_to_the_certificate(cluster, name):
    put(cluster.client(), name, TABLE)
    ana = cluster.add_user(("reader", name), name=f"bea-{name[2:]}")
    issued, other = cluster.authority.issue("--user", ana), cluster.authority.issue("--user", f"eve-{name[2:]}")
    [endpoint] = cluster.client(user=ana).get_flight_info(descriptor(name)).endpoints
    for member in cluster.members():
        with certified(cluster, member, issued) as client:
            assert client.do_get(endpoint.ticket).read_all().equals(TABLE)
        with certified(cluster, member, other) as client, pytest.raises(flight.FlightUnauthorizedError):
            client.do_get(endpoint.ticket).read_all()


def test_unusable_certificate_is_refused_also_with_a_token(cluster, stranger):
    ana = cluster.authority.issue("--user", "unusable", "--force")
    cases = (
        ({}, "it presented no certificate"),
        (stranger.issue("--user", "unusable", "--force").pair(), "not signed by a CA that this side trusts"),
        (cluster.authority.issue_expired_user("unusable", ana).pair(), "its certificate has expired"),
        (cluster.server_files["node1"].pair(), "its certificate is not for this purpose"),
    )
    token = cluster.session(ADMIN)
    for member in cluster.members():
        for pair, words in cases:
            cause = refusal(member, lambda: refused(cluster.client(member, token=token, listener="mutual", **pair)), words)
            assert words in cause, cause


def test_certificate_of_a_member_has_no_rights(cluster, name):
    """Members reach each other, but are no users: a stolen node certificate reads no table by itself."""
    put(cluster.client(), name, TABLE)
    for member in cluster.members():
        client = cluster.client(member, user=None, listener="mutual", **cluster.peer_files["node1"].pair())
        with client:
            assert list(client.list_flights(options=PROMPT)) == []
            with pytest.raises(pa.ArrowKeyError, match="there is no table"):
                client.get_flight_info(descriptor(name), PROMPT)


def test_volley_logs_in_by_certificate_and_by_password(cluster):
    ca, issued = cluster.authority.ca, cluster.authority.issue("--user", "clara", "--force")
    ana = cluster.add_user()
    for member in cluster.members():
        done = volley(
            "--cluster", cluster.address(member, "mutual"), "--tls-ca", ca, "--tls-cert", issued.cert, "--tls-key", issued.key,
            "--json", "whoami",
        )
        assert done.returncode == 0, done.stderr
        assert (json.loads(done.stdout)["principal"], json.loads(done.stdout)["method"]) == ("clara", "certificate")
        done = volley(
            "--cluster", cluster.address(member), "--tls-ca", ca, "--user", ana, "--json", "whoami",
            env={"VOLLEY_PASSWORD": cluster.passwords[ana]},
        )
        assert done.returncode == 0, done.stderr
        assert (json.loads(done.stdout)["principal"], json.loads(done.stdout)["method"]) == (ana, "password")


def test_login_by_volley_does_not_reach_an_untrusted_server(cluster, stranger):
    env = {"VOLLEY_USER": ADMIN, "VOLLEY_PASSWORD": cluster.passwords[ADMIN]}
    for flags, words in (
        (["--tls-ca", stranger.ca], "not signed by a CA"),
        (["--tls-ca", cluster.authority.ca, "--tls-server-name", "other.test"], "its certificate is not for other.test"),
    ):
        done = volley("--cluster", cluster.address(cluster.nodes[0]), *flags, "ls", env=env)
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert cluster.passwords[ADMIN] not in done.stderr
