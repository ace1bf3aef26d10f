"""What needs no identity, the HTTP ports, gRPC reflection, and clusters without users."""

import json
import urllib.error
import urllib.request

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, get, put
from identity_cluster import ADMIN, Bearer, basic, handshake, headers
from protobuf import field, fields
from tls_cluster import volley

TABLE = pa.table({"i": pa.array(range(1_000), pa.int64())})
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


def test_probes_need_no_identity(secured):
    for member in secured.members():
        assert secured.http(member, "/livez")[::2] == (200, "alive\n")
        assert secured.http(member, "/readyz")[0] == 200
        done = volley("health", "--http", f"{member.host}:{8835 if member in secured.coordinators else 8836}")
        assert done.returncode == 0, done.stderr
        with secured.channel(member) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            for service in (b"", b"arrow.flight.protocol.FlightService"):
                assert fields(check(field(1, service), timeout=10)) == {1: [1]}, "serving"
        with secured.client(member, user=None) as client:
            assert action(client, "healthcheck") is not None


def test_probes_ignore_what_a_client_presents(secured):
    for member in secured.members():
        for value in ("Bearer nonsense", "Basic !!!", "nonsense"):
            assert secured.http(member, "/livez", authorization=value)[0] == 200
            assert secured.http(member, "/readyz", authorization=value)[0] == 200


def test_metrics_are_for_operators(secured):
    ola, ana = secured.add_user(("operator", "/")), secured.add_user(("owner", "some/prefix"))
    token = secured.token(ola)
    secured.settle()
    for member in secured.members():
        for value in (
            basic(ADMIN, secured.passwords[ADMIN]), basic(ola, secured.passwords[ola], padded=False), f"Bearer {token}",
            f"Bearer {secured.session(ola)}", f"bearer {secured.session(ADMIN)}",
        ):
            status, _, text = secured.http(member, "/metrics", authorization=value)
            assert status == 200 and "volley_" in text, (member.name, status, text)
        status, _, text = secured.http(member, "/metrics", authorization=f"Bearer {secured.session(ana)}")
        assert status == 403 and ana in text and "operator" in text
        for sent in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic !!!"}):
            status, answered, text = secured.http(member, "/metrics", **sent)
            assert status == 401 and "volley_" not in text, (member.name, status)
            assert "Basic" in answered["www-authenticate"] and "Bearer" in answered["www-authenticate"]


def test_metrics_are_read_as_curl_and_prometheus_do(secured):
    """With the password manager of Python's library: it sends nothing, is challenged, and answers."""
    for member in (secured.coordinators[0], secured.nodes[0]):
        url = f"http://{member.host}:{8835 if member in secured.coordinators else 8836}/metrics"
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, url, ADMIN, secured.passwords[ADMIN])
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.ProxyHandler({}))
        assert b"volley_" in opener.open(url, timeout=30).read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30)


def services(channel, service, metadata=()):
    """The services that reflection lists."""
    method = channel.stream_stream(f"/{service}/ServerReflectionInfo")
    [reply] = method(iter([field(7, b"")]), metadata=list(metadata), timeout=10)
    [listed] = fields(reply)[6]
    return {fields(found)[1][0].decode() for found in fields(listed)[1]}


@pytest.mark.parametrize("service", REFLECTION)
def test_reflection_is_for_principals(secured, service):
    bearer = [("authorization", f"Bearer {secured.session(secured.add_user())}")]
    for member in secured.members():
        with secured.channel(member) as channel:
            assert "arrow.flight.protocol.FlightService" in services(channel, service, bearer)
            call_id = f"{service}-{member.name}"
            with pytest.raises(grpc.RpcError) as error:
                services(channel, service, [("x-request-id", call_id)])
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            [line] = secured.wait_audited(request_id=call_id)
            assert (line["operation"], line["result"], line["principal"]) == ("reflection", "UNAUTHENTICATED", None), line


def test_settings_make_metrics_and_reflection_public(own_secured):
    flags = ("--public-metrics", "--public-reflection")
    cluster = own_secured(coordinators=1, nodes=1, coordinator_options=flags, node_options=flags)
    for member in cluster.members():
        status, _, text = cluster.http(member, "/metrics")
        assert status == 200 and "volley_" in text
        with cluster.channel(member) as channel:
            assert all("arrow.flight.protocol.FlightService" in services(channel, service) for service in REFLECTION)
        with cluster.client(member, user=None) as client, pytest.raises(flight.FlightUnauthenticatedError):
            list(client.list_flights())


ANY_HEADERS = ["Bearer nonsense", "Basic !!!", "Basic YW55Ym9keTphbnl0aGluZw", "Digest x", "nonsense", "Bearer volley_1_2"]


@pytest.mark.parametrize("value", ANY_HEADERS)
def test_open_cluster_looks_at_no_credentials(shared, name, value):
    sent = headers(authorization=value)
    for member in (shared.coordinators[0], shared.nodes[0]):
        with shared.client(member) as client:
            table = f"{name}/{member.name}"
            writer, _ = client.do_put(descriptor(table), TABLE.schema, sent)
            writer.write_table(TABLE)
            writer.close()
            [endpoint] = client.get_flight_info(descriptor(table), sent).endpoints
            assert client.do_get(endpoint.ticket, sent).read_all().equals(TABLE)
            [reply] = client.do_action(flight.Action("whoami", b""), sent)
            who = json.loads(reply.body.to_pybytes())
            assert (who["open"], who["principal"]) == (True, None), who
            assert list(client.list_actions(sent))
        with grpc.insecure_channel(shared.address(member).partition("://")[2]) as channel:
            token, replies = handshake(channel, b"", authorization=value)
            assert token and len(replies) == 1


def test_open_cluster_works_as_before(shared, name):
    for member in shared.members():
        with flight.connect(shared.address(member), middleware=[Bearer("nonsense")]) as client:
            put(client, f"{name}/{member.name}", TABLE)
            assert get(client, f"{name}/{member.name}").equals(TABLE)
            assert action(client, "cluster_status")["nodes"]
            assert action(client, "list_users") == [] and action(client, "list_grants") == []
        port = 8835 if member in shared.coordinators else 8836
        with urllib.request.urlopen(f"http://{member.host}:{port}/metrics", timeout=10) as answer:
            assert answer.status == 200
        with grpc.insecure_channel(shared.address(member).partition("://")[2]) as channel:
            assert services(channel, REFLECTION[0])


def test_open_cluster_gets_no_user_without_an_administrator(shared):
    """It would close the cluster to everybody, with nobody who can open it."""
    client = shared.client()
    for name, body in (
        ("create_user", {"user": "ana", "password": "a long password"}),
        ("grant", {"role": "reader", "prefix": "sales", "to": "user:ana"}),
    ):
        with pytest.raises(pa.ArrowInvalid, match="bootstrap_admin_file"):
            action(client, name, body)
    assert action(client, "whoami")["open"]
