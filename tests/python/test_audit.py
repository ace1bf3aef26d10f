"""The audit log: who called what, from where and with which result; and never a password or a token."""

import base64
import json
import pathlib
import re

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put, wait_until
from identity_cluster import (
    ADMIN, LOGIN, TutorialHandler, basic, get_schema, handshake, headers, put_schema, refusal_of, token_id,
)
from matrix import PAIRS, for_release, matrix
from test_protocol import field

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})
KEYS = {
    "audit", "time", "principal", "method", "credential", "address", "operation", "table", "result", "reason", "request_id"
}


@pytest.fixture(scope="module")
def cluster(secured):
    return secured


def test_line_has_everything_about_a_refused_call(cluster, name):
    put(cluster.client(), name, TABLE)
    ana = cluster.add_user(("reader", name))
    for member in cluster.members():
        call_id = f"call-{name}-{member.name}"
        with cluster.client(member, user=ana) as client, pytest.raises(flight.FlightUnauthorizedError):
            list(client.do_action(flight.Action("drop_table", name.encode()), headers(x_request_id=call_id)))
        [line] = cluster.wait_audited(request_id=call_id)
        assert KEYS <= line.keys()
        assert line["member"].startswith("coordinator"), "it decides, also for a node's client"
        expected = {"audit": "admin", "principal": ana, "method": "password", "operation": "drop_table", "table": name,
                    "result": "PERMISSION_DENIED", "address": "127.0.0.1"}
        assert {key: line[key] for key in expected} == expected
        assert "owner" in line["reason"] and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


REFUSED = {
    "GetFlightInfo": lambda client, name, options: client.get_flight_info(descriptor(name), options),
    "GetSchema": lambda client, name, options: get_schema(client, descriptor(name), options),
    "DoGet": lambda client, name, options: client.do_get(flight.Ticket(name.encode()), options).read_all(),
    "get_stats": lambda client, name, options: list(
        client.do_action(flight.Action("get_stats", json.dumps({"table": name}).encode()), options)),
    "cluster_status": lambda client, name, options: list(client.do_action(flight.Action("cluster_status", b""), options)),
    "create_user": lambda client, name, options: list(
        client.do_action(flight.Action("create_user", b'{"user": "x", "password": "x"}'), options)),
}


@pytest.mark.parametrize("operation, places", matrix(REFUSED, PAIRS))
def test_refused_call_is_recorded_wherever_it_comes_in(cluster, name, operation, places):
    put(cluster.client(), name, TABLE)
    stranger = cluster.add_user()
    for member in (cluster.members()[at] for at in places):
        for user, result in ((stranger, {"NOT_FOUND", "PERMISSION_DENIED"}), (None, {"UNAUTHENTICATED"})):
            call_id = f"{name}-{operation}-{member.name}-{user}"
            with cluster.client(member, user=user) as client, pytest.raises((flight.FlightError, KeyError)):
                REFUSED[operation](client, name, headers(x_request_id=call_id))
            lines = cluster.wait_audited(request_id=call_id)
            assert {line["result"] for line in lines} <= result, lines
            assert {line["principal"] for line in lines} == {user}, lines
            if user is not None:
                assert operation in {line["operation"] for line in lines}


def test_refused_put_is_recorded_with_its_table(cluster, name):
    stranger = cluster.add_user()
    for member in cluster.members():
        table = f"{name}/{member.name}"
        assert refusal_of(lambda: put_schema(cluster.client(member, user=stranger), table, TABLE.schema))
        lines = cluster.wait_audited(table=table)
        assert {(line["principal"], line["result"]) for line in lines} == {(stranger, "PERMISSION_DENIED")}


def test_ticket_of_another_principal_is_recorded_as_refused(cluster, name):
    put(cluster.client(), name, TABLE)
    stranger = cluster.add_user()
    [endpoint] = cluster.client().get_flight_info(descriptor(name)).endpoints
    for member in cluster.members():
        call_id = f"{name}-{member.name}"
        with cluster.client(member, user=stranger) as client, pytest.raises(flight.FlightUnauthorizedError):
            client.do_get(endpoint.ticket, headers(x_request_id=call_id)).read_all()
        lines = cluster.wait_audited(request_id=call_id)
        assert {(line["operation"], line["table"], line["result"]) for line in lines} == {("DoGet", name, "PERMISSION_DENIED")}


def test_administration_is_recorded_with_its_credential(cluster, name):
    ana = cluster.add_user()
    token = cluster.token()
    cluster.settle()
    group = f"group:{name}"
    with cluster.client(cluster.nodes[0], token=token) as client:
        for step in ("grant", "revoke"):
            action(client, step, {"role": "reader", "prefix": name, "to": group})
        action(client, "set_groups", {"user": ana, "groups": []})
    for operation in ("grant", "revoke"):
        lines = cluster.wait_audited(operation=operation, table=name)
        assert [(line["principal"], line["method"], line["credential"], line["result"]) for line in lines] == [
            (ADMIN, "service_token", f"token:{token_id(token)}", "OK")
        ]
    assert cluster.wait_audited(operation="set_groups", credential=f"token:{token_id(token)}")
    assert cluster.wait_audited(operation="create_user", credential="password"), "by a session that began with the password"


def test_reads_and_writes_are_recorded_if_asked(cluster, name):
    ana = cluster.add_user(("writer", name))
    put(cluster.client(cluster.nodes[0], user=ana), name, TABLE)
    assert cluster.rows(name, user=ana).num_rows == TABLE.num_rows
    for operation, kind in (("DoPut", "write"), ("DoGet", "read"), ("GetFlightInfo", "read")):
        lines = cluster.wait_audited(operation=operation, table=name, principal=ana)
        assert {(line["audit"], line["result"]) for line in lines} == {(kind, "OK")}, operation


def test_logins_are_recorded(cluster):
    ana = cluster.add_user()
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        cluster.login(ana, member)

    def logins():
        lines = cluster.audited(audit="login", result="OK")
        return [line for line in lines if ana in (line["principal"], line.get("claimed"))]

    wait_until(lambda: len(logins()) >= 2, 10, "both logins are recorded")


def test_without_being_asked_reads_are_not_recorded(own_secured):
    """By default the audit log is on standard error, without reads and writes."""
    cluster = own_secured(coordinators=1, nodes=1, audit=None)
    ana = cluster.add_user(("writer", "t"))
    put(cluster.client(user=ana), "t", TABLE)
    cluster.rows("t", user=ana)
    assert refusal_of(lambda: action(cluster.client(user=ana), "list_users"))

    def lines(member):
        text = member.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in text if line.startswith("{") and '"audit"' in line]

    [coordinator] = cluster.coordinators
    wait_until(lambda: any(line["operation"] == "list_users" for line in lines(coordinator)), 10, "the refusal is recorded")
    recorded = {(line["operation"], line["result"]) for member in cluster.members() for line in lines(member)}
    assert ("create_user", "OK") in recorded and ("list_users", "PERMISSION_DENIED") in recorded
    assert not any(operation in ("DoGet", "DoPut", "GetFlightInfo", "whoami") for operation, _ in recorded), recorded


def test_full_audit_log_is_rotated_and_private(own_secured):
    cluster = own_secured(coordinators=1, nodes=1, audit=("--audit-log-bytes", "65536", "--audit-log-files", "2"))
    [coordinator] = cluster.coordinators
    file = cluster.folder / f"{coordinator.name}.audit"
    rotated = [pathlib.Path(f"{file}.{number}") for number in (1, 2, 3)]

    def refuse():
        with cluster.client(coordinator, user=None) as client:
            for _ in range(100):
                with pytest.raises(flight.FlightUnauthenticatedError):
                    list(client.list_flights(options=headers(x_request_id="r" * 500)))
        return rotated[1].exists()

    wait_until(refuse, 60, "the log is rotated twice")
    for _ in range(5):
        refuse()
    # Else its thread that writes the log may be in the middle of a rotation.
    coordinator.stop()
    assert not rotated[2].exists()
    for path in (file, *rotated[:2]):
        assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size <= 65536 + 2048
        for line in path.read_text().splitlines():
            json.loads(line)


def test_client_cannot_break_or_forge_a_line(cluster):
    forged = '"}\n{"audit": "admin", "principal": "root"'
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        for name in (forged, "\u202egnp.exe", "x" * 5_000):
            with cluster.client(member, user=None) as client, pytest.raises(flight.FlightUnauthenticatedError):
                client.get_flight_info(flight.FlightDescriptor.for_path(name))
            with cluster.client(member) as client, pytest.raises((KeyError, pa.ArrowInvalid)):
                client.get_flight_info(flight.FlightDescriptor.for_path(name))
    lines = cluster.audited()
    assert all(line["audit"] in ("read", "write", "admin", "login") for line in lines)
    assert all(len(json.dumps(line)) < 10_000 for line in lines)


def use_every_secret(cluster):
    """Uses passwords and tokens in all ways, right and wrong, in places where they belong and where not."""
    ana, secret = cluster.add_user(("owner", "t")), cluster.secrets.add
    password, session, service = cluster.passwords[ana], cluster.login(ana), cluster.token(ana)
    cluster.settle()
    put(cluster.client(user=ana), "t", TABLE)
    wrong = "a wrong password that is secret too"
    secret(wrong), secret(base64.b64encode(f"{ana}:{wrong}".encode()).decode())
    for member in cluster.members():
        for token in (session, service):
            cluster.rows("t", token=token, member=member)
            with cluster.channel(member) as channel:
                cluster.keep(handshake(channel, b"", authorization=f"Bearer {token}")[0])
            for value in (token, f"Bearer {token[:-4]}AAAA", f"Basic {token}", f"Bearer {token} {token}", f"Digest {token}"):
                with cluster.client(member, user=None) as client, pytest.raises(flight.FlightError):
                    list(client.list_flights(options=headers(authorization=value)))
        with cluster.client(member, user=None) as client:
            client.authenticate(TutorialHandler(ana, password), LOGIN)
            list(client.list_flights())
        with cluster.client(member, user=None) as client:
            list(client.list_flights(options=headers(authorization=basic(ana, password))))
        cluster.http(member, "/metrics", authorization=f"Bearer {service}")
        cluster.http(member, "/metrics", authorization=basic(ana, password))
    # Bodies that are refused: their texts may repeat values, but not these.
    for body in (
        {"user": ana, "pasword": wrong}, {"user": ana, "password": [wrong]}, {"user": [wrong], "password": wrong},
        {"user": "new", "password": wrong, "groups": wrong}, [wrong], {"user": f"a:{ana}", "password": wrong},
    ):
        for name in ("create_user", "set_password"):
            with pytest.raises((pa.ArrowInvalid, KeyError)) as error:
                cluster.admin(name, body)
            assert wrong not in str(error.value)
    with pytest.raises(pa.ArrowInvalid):
        list(cluster.client().do_action(flight.Action("create_user", b'{"user": "new", "password": "%s' % wrong.encode())))
    with pytest.raises((pa.ArrowInvalid, KeyError)):
        cluster.admin("revoke_token", {"id": service[:-1]})
    for member in cluster.members():
        with cluster.channel(member) as channel, pytest.raises(grpc.RpcError):
            handshake(channel, field(2, field(9, wrong.encode())))
    cluster.cli("user", "passwd", ana, "--password-stdin", stdin=cluster.keep_password(ana) + "\n")
    done = cluster.cli("token", "create", "--user", ana, "--ttl", "1h")
    assert done.returncode == 0, done.stderr
    cluster.keep(done.stdout.strip())
    for text in (done.stderr, cluster.cli("whoami", user=ana).stderr):
        assert not any(secret in text for secret in cluster.secrets)
    # Last: it slows logins down.
    for member in cluster.members():
        with cluster.client(member, user=None) as client, pytest.raises((flight.FlightError, pa.ArrowInvalid)):
            client.authenticate_basic_token(ana, wrong, LOGIN)
    cluster.admin("revoke_token", {"id": token_id(service)})
    cluster.admin("remove_user", {"user": ana})


# The second one has all lines of the first.
@pytest.mark.parametrize(
    "level", [for_release("info"), "debug,volley_common=trace,volley_coordinator=trace,volley_node=trace"]
)
def test_no_file_of_a_run_has_a_password_or_token(own_secured, monkeypatch, level):
    monkeypatch.setattr("cluster.Cluster.variables", {"VOLLEY_LOG": level})
    cluster = own_secured(coordinators=1, nodes=1, audit=("--audit-data", "all"))
    use_every_secret(cluster)
    for member in cluster.members():
        member.stop()
    logs = cluster.logs()
    assert len(logs) == 4 and all(path.stat().st_size > 0 for path in logs), logs
    assert any(line["result"] == "UNAUTHENTICATED" for line in cluster.audited()), "the wrong ones were used"
    # Logs, audit logs, and all that is at rest: catalog, Raft log, parts.
    files = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert len(files) > len(logs)
    assert cluster.leaks(files) == []


def test_search_for_secrets_finds_one(own_secured):
    cluster = own_secured(coordinators=1, nodes=1)
    file = cluster.folder / "careless.log"
    for secret in (cluster.passwords[ADMIN], cluster.login(), cluster.token(), basic(ADMIN, cluster.passwords[ADMIN])):
        file.write_text(f"a line with {secret} in it\n")
        assert cluster.leaks(cluster.logs()) == [file], secret


def test_open_cluster_records_administration_of_nobody(own, tmp_path):
    file = tmp_path / "open.audit"
    options = ("--audit-log", str(file), "--audit-data", "all")
    cluster = own(coordinators=1, nodes=1, coordinator_options=options)
    put(cluster.client(), "t", TABLE)
    action(cluster.client(), "drop_table", {"table": "t"})
    lines = lambda: [json.loads(line) for line in file.read_text().rpartition("\n")[0].splitlines()]
    wait_until(lambda: any(line["operation"] == "drop_table" for line in lines()), 10, "the drop is recorded")
    assert all(line["principal"] is None and line["audit"] == "admin" for line in lines()), lines()
