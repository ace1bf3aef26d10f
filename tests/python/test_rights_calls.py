"""Every action and every method of Flight, with every role, at a coordinator and at a node.

The servers list the actions: one without a row here fails the test, so that nobody adds one without deciding who may run it.
"""

import json

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put
from identity_cluster import ADMIN, get_schema, put_schema
from matrix import PAIRS, matrix
from protobuf import SERVICE, field
from test_rights import path_bytes

TABLE = pa.table({"a": [1, 2, 3]})
# Who calls: nobody; a user without grants; users with a role on the prefix, or on the cluster.
CALLERS = ["nobody", "stranger", "reader", "writer", "owner", "operator", "admin"]
EVERYBODY, ANYBODY = set(CALLERS), set(CALLERS) - {"nobody"}
READERS = {"reader", "writer", "owner", "admin"}
WRITERS, OWNERS = READERS - {"reader"}, {"owner", "admin"}
OPERATORS, ADMINS = {"operator", "admin"}, {"admin"}
# No object: an administrator's action refuses it as malformed, and does nothing.
MALFORMED = ["nothing"]


class Bodies:
    """The bodies of actions below a prefix, for a caller."""

    def __init__(self, prefix, user, write):
        self.table = {"table": f"{prefix}/t"}
        self.absent = {"table": f"{prefix}/absent", "if_exists": True}
        self.create = {"table": f"{prefix}/made", "fields": [{"name": "a", "type": "int64"}], "if_not_exists": True}
        self.write = {"write_id": write, "reason": "a test"}
        self.commit = {"write_id": write}
        # Malformed: a caller without rights to the tables of a transaction has none.
        self.transaction = {"transaction": "none"}
        self.grant = {"role": "reader", "prefix": prefix, "to": "user:somebody"}
        # Too short: whoever may set it learns that.
        self.password = {"user": user, "password": "short"}


# Who may run an action, and with which body. None: an empty one.
ACTIONS = {
    "create_table": (WRITERS, lambda b: b.create),
    "drop_table": (OWNERS, lambda b: b.absent),
    "restore_version": (OWNERS, lambda b: b.table | {"version": 999}),
    "list_tables": (ANYBODY, None),
    "get_stats": (READERS, lambda b: b.table),
    "begin_write": (WRITERS, lambda b: b.table | {"mode": "append"}),
    "commit_write": (WRITERS, lambda b: b.commit),
    "abort_write": (WRITERS, lambda b: b.write),
    "begin_transaction": (ANYBODY, None),
    "commit_transaction": (ANYBODY, lambda b: b.transaction),
    "abort_transaction": (ANYBODY, lambda b: b.transaction),
    "healthcheck": (EVERYBODY, None),
    "addresses": (ANYBODY, None),
    "clear": (ADMINS, lambda b: MALFORMED),
    "shutdown": (ADMINS, lambda b: MALFORMED),
    "CancelFlightInfo": (ANYBODY, None),
    "RenewFlightEndpoint": (ANYBODY, None),
    "SetSessionOptions": (ANYBODY, None),
    "GetSessionOptions": (ANYBODY, None),
    "CloseSession": (ANYBODY, None),
    "CreatePreparedStatement": (ANYBODY, None),
    "ClosePreparedStatement": (ANYBODY, None),
    "CancelQuery": (ANYBODY, None),
    "BeginTransaction": (ANYBODY, None),
    "EndTransaction": (ANYBODY, None),
    "cluster_status": (OPERATORS, None),
    "explain": (READERS, lambda b: b.table),
    "list_versions": (READERS, lambda b: b.table),
    "list_writes": (OPERATORS, None),
    "list_audit": (ADMINS, None),
    "drain_node": (OPERATORS, lambda b: {"node": "0123456789abcdef", "begin": False}),
    "undrain_node": (OPERATORS, lambda b: {"node": "0123456789abcdef"}),
    "remove_node": (OPERATORS, lambda b: {"node": "0123456789abcdef"}),
    "add_coordinator": (ADMINS, lambda b: MALFORMED),
    "remove_coordinator": (ADMINS, lambda b: MALFORMED),
    "rotate_keys": (ADMINS, lambda b: MALFORMED),
    "create_user": (ADMINS, lambda b: MALFORMED),
    "set_password": (ANYBODY, lambda b: b.password),
    "set_groups": (ADMINS, lambda b: MALFORMED),
    "remove_user": (ADMINS, lambda b: {"user": "no such user"}),
    "list_users": (ADMINS, None),
    "create_token": (ANYBODY, lambda b: {"ttl_s": 0}),
    "list_tokens": (ANYBODY, None),
    "revoke_token": (ANYBODY, lambda b: {"id": "0" * 16}),
    "grant": (OWNERS, lambda b: b.grant),
    "revoke": (OWNERS, lambda b: b.grant),
    "list_grants": (ANYBODY, None),
    "whoami": (ANYBODY, None),
    "set_quota": (ADMINS, lambda b: {"prefix": b.grant["prefix"]}),
    "list_quotas": (ADMINS, None),
}


@pytest.fixture(scope="module")
def callers(secured):
    """By role: a user, or None; and the prefix of their rights, with a table."""
    prefix = "rights/all"
    put(secured.client(), f"{prefix}/t", TABLE)
    users = {role: secured.add_user((role, prefix)) for role in ("reader", "writer", "owner")}
    users |= {"stranger": secured.add_user(), "operator": secured.add_user(("operator", "/")), "nobody": None}
    # An administrator other than the one that the tests use.
    return prefix, users | {"admin": secured.add_user(("admin", "/"))}


def outcome(call):
    """How a call ends: "permitted", "hidden" (as if its table did not exist), "denied" or "unauthenticated"."""
    try:
        call()
    except flight.FlightUnauthenticatedError:
        return "unauthenticated"
    except flight.FlightUnauthorizedError:
        return "denied"
    except KeyError as error:
        return "hidden" if "there is no table" in str(error) or "there is no write" in str(error) else "permitted"
    except (flight.FlightInternalError, flight.FlightUnavailableError, flight.FlightTimedOutError):
        raise
    except (flight.FlightError, pa.ArrowException, ValueError):
        # It got as far as to its arguments, or its reply is no JSON.
        return "permitted"
    return "permitted"


def check(found, caller, permitted, what):
    if caller in permitted:
        assert found == "permitted", (what, caller, found)
    elif caller == "nobody":
        assert found == "unauthenticated", (what, caller, found)
    else:
        assert found in ("denied", "hidden"), (what, caller, found)


def test_every_action_has_a_row(secured):
    for member in secured.members():
        assert {offered.type for offered in secured.client(member).list_actions()} == set(ACTIONS)


@pytest.mark.parametrize("name, places", matrix(ACTIONS, PAIRS[:2]))
def test_action_is_for_its_roles_only(secured, callers, name, places):
    prefix, users = callers
    permitted, body = ACTIONS[name]
    for member in (secured.members()[at] for at in places):
        for caller in CALLERS:
            user = users[caller]
            write = None
            if name in ("commit_write", "abort_write"):
                write = secured.admin("begin_write", {"table": f"{prefix}/t", "mode": "append"})["write_id"]
            sent = body and body(Bodies(prefix, user or ADMIN, write))
            with secured.client(member, user=user) as client:
                check(outcome(lambda: action(client, name, sent)), caller, permitted, (name, member.name))


# What else nobody may do but who has the role on the cluster, or whose it is.
OTHERS = {
    "statistics of the cluster": ("get_stats", OPERATORS, {}),
    "another user's password": ("set_password", ADMINS, {"user": "no such user", "password": "a long password"}),
    "another user's token": ("create_token", ADMINS, {"user": ADMIN, "ttl_s": 0}),
    "another user's tokens": ("list_tokens", ADMINS, {"user": ADMIN}),
    "a reader of everything": ("grant", ADMINS, {"role": "reader", "prefix": "/", "to": "nobody"}),
    "an operator": ("grant", ADMINS, {"role": "operator", "prefix": "/", "to": "nobody"}),
    "an administrator": ("grant", ADMINS, {"role": "admin", "prefix": "/", "to": "nobody"}),
    "an administrator's grant": ("revoke", ADMINS, {"role": "admin", "prefix": "/", "to": "user:no such user"}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_ones_own_is_for_administrators(secured, callers, case):
    name, permitted, body = OTHERS[case]
    for member in (secured.coordinators[0], secured.nodes[0]):
        for caller in CALLERS:
            with secured.client(member, user=callers[1][caller]) as client:
                check(outcome(lambda: action(client, name, body)), caller, permitted, (case, member.name))


def test_token_of_another_user_cannot_be_revoked_or_seen(secured, callers):
    token = secured.admin("create_token", {"ttl_s": 3600, "name": "mine"})
    secured.keep(token["token"])
    for caller in sorted(ANYBODY - ADMINS):
        with secured.client(user=callers[1][caller]) as client:
            with pytest.raises(KeyError, match="no service token"):
                action(client, "revoke_token", {"id": token["id"]})
            assert token["id"] not in json.dumps(action(client, "list_tokens"))
    assert secured.admin("revoke_token", {"id": token["id"]})["revoked"]


# The methods of Flight that pyarrow has, but DoAction: who may call them, and how.
METHODS = {
    "ListFlights": (ANYBODY, lambda client, prefix, _: list(client.list_flights())),
    "GetFlightInfo": (READERS, lambda client, prefix, _: client.get_flight_info(descriptor(f"{prefix}/t"))),
    "GetSchema": (READERS, lambda client, prefix, _: get_schema(client, descriptor(f"{prefix}/t"))),
    "DoGet by name": (READERS, lambda client, prefix, _: client.do_get(flight.Ticket(f"{prefix}/t".encode())).read_all()),
    "DoGet of an administrator's ticket": (ADMINS, lambda client, prefix, ticket: client.do_get(ticket).read_all()),
    "DoPut": (WRITERS, lambda client, prefix, _: put_schema(client, f"{prefix}/put", TABLE.schema)),
    "DoExchange": (ANYBODY, lambda client, prefix, _: exchange(client)),
    "ListActions": (ANYBODY, lambda client, prefix, _: list(client.list_actions())),
}


def exchange(client):
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b'{"exchange": "echo"}'))
    with writer:
        writer.begin(TABLE.schema)
        writer.done_writing()
        reader.read_all()


@pytest.mark.parametrize("method, places", matrix(METHODS, PAIRS))
def test_method_is_for_its_roles_only(secured, callers, method, places):
    prefix, users = callers
    permitted, call = METHODS[method]
    [endpoint] = secured.client(user=users["admin"]).get_flight_info(descriptor(f"{prefix}/t")).endpoints
    for member in (secured.members()[at] for at in places):
        for caller in CALLERS:
            with secured.client(member, user=users[caller]) as client:
                found = outcome(lambda: call(client, prefix, endpoint.ticket))
            check(found, caller, permitted, (method, member.name))


def test_polling_is_for_readers_only(secured, callers):
    prefix, users = callers
    for member in secured.members():
        for caller in CALLERS:
            metadata = [("authorization", f"Bearer {secured.session(users[caller])}")] if users[caller] else []
            with secured.channel(member) as channel:
                poll = channel.unary_unary(SERVICE + "PollFlightInfo")
                try:
                    poll(path_bytes(f"{prefix}/t"), metadata=metadata, timeout=20)
                    code = grpc.StatusCode.OK
                except grpc.RpcError as error:
                    code = error.code()
            refused = grpc.StatusCode.UNAUTHENTICATED if caller == "nobody" else grpc.StatusCode.NOT_FOUND
            assert code == (grpc.StatusCode.OK if caller in READERS else refused), (member.name, caller)


def test_services_of_members_are_not_for_clients(secured, callers):
    """On a Flight listener nobody, also no administrator, reaches what members call of each other."""
    metadata = [("authorization", f"Bearer {secured.session(callers[1]['admin'])}")]
    for member in secured.members():
        for method in (
            "cluster.v1.Coordinator/Login", "cluster.v1.Coordinator/BeginWrite", "cluster.v1.Coordinator/Propose",
            "cluster.v1.Node/DiscardParts", "raft.v1.Raft/Vote",
        ):
            with secured.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/volley.{method}")(b"", metadata=metadata, timeout=20)
            refused = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
            assert error.value.code() in refused, (member.name, method, error.value)


@pytest.mark.parametrize("value", [b"", b"x", b"\0" * 64, b"\x0a\x04root" * 20])
def test_forged_assertion_gives_no_rights(secured, callers, value):
    prefix, users = callers
    for member in secured.members():
        for credentials in ([], [("authorization", f"Bearer {secured.session(users['stranger'])}")]):
            metadata = [*credentials, ("x-volley-assertion-bin", value)]
            with secured.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(SERVICE + "GetFlightInfo")(path_bytes(f"{prefix}/t"), metadata=metadata, timeout=20)
            refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND}
            assert error.value.code() in refused, (member.name, error.value)


def test_assertion_cannot_be_replayed_by_a_client_without_its_key(secured, callers):
    """A signed ticket, which clients have, is no assertion."""
    prefix, users = callers
    [endpoint] = secured.client(user=users["admin"]).get_flight_info(descriptor(f"{prefix}/t")).endpoints
    for member in secured.members():
        with secured.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
            metadata = [("x-volley-assertion-bin", endpoint.ticket.ticket)]
            list(channel.unary_stream(SERVICE + "DoGet")(field(1, endpoint.ticket.ticket), metadata=metadata, timeout=20))
        assert error.value.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}, member.name
