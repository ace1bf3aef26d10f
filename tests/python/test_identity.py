"""Logins, sessions and service tokens: a token of any member counts at every other, and ends when it should."""

import base64
import json
import re
import signal
import threading

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put, wait_until
from identity_cluster import (
    ADMIN, LOGIN, TutorialHandler, basic, claims, get_schema, handshake, headers, put_schema, token_id,
)
from matrix import PAIRS, for_release, matrix

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})
KEYED = dict(shards=4, shard_by=["i"])


def test_login_at_any_member_counts_at_every_member(secured):
    ana = secured.add_user()
    for member in secured.members():
        token = secured.login(ana, member)
        for other in secured.members():
            who = action(secured.client(other, token=token), "whoami")
            assert (who["principal"], who["method"], who["open"], who["grants"]) == (ana, "password", False, []), who


def test_one_bearer_fetches_every_endpoint_at_every_member(secured, name):
    ana = secured.add_user(("writer", name))
    for member in secured.members():
        table, token = f"{name}/{member.name}", secured.login(ana, member)
        with secured.client(member, token=token) as client:
            put(client, table, TABLE, **KEYED)
            endpoints = client.get_flight_info(descriptor(table)).endpoints
        locations = {location.uri.decode() for endpoint in endpoints for location in endpoint.locations}
        assert len(endpoints) == 4 and locations == {secured.address(node) for node in secured.nodes}
        for at in range(2):
            parts = [secured.redeem(endpoint, token=token, location=at) for endpoint in endpoints]
            assert pa.concat_tables(parts).sort_by("i").equals(TABLE)
        for other in secured.members():
            with secured.client(other, token=token) as client:
                parts = [client.do_get(endpoint.ticket).read_all() for endpoint in endpoints]
            assert pa.concat_tables(parts).sort_by("i").equals(TABLE)


def test_header_of_a_login_serves_as_a_call_option(secured, name):
    """As the documentation of pyarrow has it."""
    ana = secured.add_user(("writer", name))
    put(secured.client(user=ana), name, TABLE)
    for member in secured.members():
        client = secured.client(member, user=None)
        options = flight.FlightCallOptions(headers=[client.authenticate_basic_token(ana, secured.passwords[ana], LOGIN)])
        [endpoint] = client.get_flight_info(descriptor(name), options).endpoints
        assert client.do_get(endpoint.ticket, options).read_all().equals(TABLE)


def test_password_with_each_call_is_accepted(secured):
    ana = secured.add_user()
    for member in secured.members():
        for padded in (True, False):
            sent = headers(authorization=basic(ana, secured.passwords[ana], padded))
            assert list(secured.client(member, user=None).list_actions(options=sent))


@pytest.mark.parametrize("residue, places", matrix(range(3), PAIRS))
def test_base64_needs_no_padding(secured, name, residue, places):
    # Names of the same length but for the residue.
    ana = secured.add_user(name=f"ana{'x' * residue}-{name[2:]}")
    for member in (secured.members()[at] for at in places):
        for padded in (True, False):
            for scheme in ("Basic", "basic"):
                sent = basic(ana, secured.passwords[ana], padded).replace("Basic", scheme)
                for messages in ((), (b"",)):
                    with secured.channel(member) as channel:
                        token, replies = handshake(channel, *messages, authorization=sent)
                    assert len(replies) == len(messages) and secured.accepts(member, secured.keep(token))


def test_older_handler_gets_a_token_without_deadlock(secured, name):
    ana = secured.add_user(("writer", name))
    put(secured.client(user=ana), name, TABLE)
    for member in secured.members():
        handler = TutorialHandler(ana, secured.passwords[ana])
        with secured.client(member, user=None) as client:
            client.authenticate(handler, LOGIN)
            [endpoint] = client.get_flight_info(descriptor(name)).endpoints
            assert client.do_get(endpoint.ticket).read_all().equals(TABLE)
            put(client, f"{name}/{member.name}", TABLE)
        token = secured.keep(handler.get_token().decode())
        assert all(secured.accepts(other, token) for other in secured.members())


def test_names_and_passwords_may_have_any_letters(secured):
    ana = "Zoë Ann@example.com/数据"
    secured.add_user(name=ana)
    for password in ("with:colons:in it", "пароль с пробелом ", "\u00fcml\u00e4ut \U0001f511", "x" * 1024):
        secured.admin("set_password", {"user": ana, "password": password})
        secured.secrets.add(password)
        secured.settle()
        for member in secured.members():
            sent = headers(authorization=basic(ana, password))
            assert action_as(secured, member, sent)["principal"] == ana


def action_as(cluster, member, options):
    with cluster.client(member, user=None) as client:
        [reply] = client.do_action(flight.Action("whoami", b""), options)
    return json.loads(reply.body.to_pybytes())


def test_call_without_credentials_is_refused_everywhere(secured, name):
    put(secured.client(), name, TABLE)
    [endpoint] = secured.client().get_flight_info(descriptor(name)).endpoints
    for member in secured.members():
        client = secured.client(member, user=None)
        for call in (
            lambda: list(client.list_flights()),
            lambda: client.get_flight_info(descriptor(name)),
            lambda: get_schema(client, descriptor(name)),
            lambda: client.do_get(endpoint.ticket).read_all(),
            lambda: client.do_get(flight.Ticket(name.encode())).read_all(),
            lambda: put_schema(client, name, TABLE.schema),
            lambda: list(client.list_actions()),
            lambda: action(client, "list_tables"),
            lambda: action(client, "no_such_action"),
            lambda: client.wait_for_available(),
        ):
            with pytest.raises(flight.FlightUnauthenticatedError, match="log in|present"):
                call()
        action(client, "healthcheck")


def forged(secured):
    """Values of the header that no member accepts, and words of the error. Not one has the password of a user."""
    token = secured.session(ADMIN)
    head, payload, signature = token.split(".")
    encode = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    header, body = claims(token)
    later = encode(body | {"exp": body["exp"] + 1_000_000})
    service = secured.token()
    return {
        "no base64": ("Basic !!!", "base64"),
        "no colon": ("Basic " + base64.b64encode(b"ana").decode(), "colon"),
        "no scheme": (token, "Bearer"),
        "other scheme": ("Digest x", "Basic"),
        "two tokens": (f"Bearer {token} {token}", "one token"),
        "nonsense": ("Bearer nonsense", "log in"),
        "altered payload": (f"Bearer {head}.{later}.{signature}", "signature"),
        "no algorithm": (f"Bearer {encode(header | {'alg': 'none'})}.{payload}.", "log in"),
        "other algorithm": (f"Bearer {encode(header | {'alg': 'HS256'})}.{payload}.{signature}", "log in"),
        "unknown key": (f"Bearer {encode(header | {'kid': 'ffff'})}.{payload}.{signature}", "log in"),
        "cut signature": (f"Bearer {head}.{payload}.{signature[:-4]}", "log in"),
        "other secret": (f"Bearer {service[:-4]}AAAA", "service token"),
        "other id": (f"Bearer volley_{'0' * 16}_{service[-43:]}", "service token"),
    }


def test_forged_credentials_are_refused_everywhere(secured):
    for fault, (value, words) in forged(secured).items():
        for member in secured.members():
            with secured.client(member, user=None) as client:
                with pytest.raises(flight.FlightUnauthenticatedError, match=words) as error:
                    list(client.list_flights(options=headers(authorization=value)))
            assert not any(secret in str(error.value) for secret in secured.secrets), fault


def test_token_of_another_cluster_is_refused(secured, own_secured):
    other = own_secured(coordinators=1, nodes=1)
    for token in (other.login(), other.token()):
        secured.keep(token)
        for member in secured.members():
            with pytest.raises(flight.FlightUnauthenticatedError):
                action(secured.client(member, token=token), "whoami")


def test_service_token_is_a_bearer_at_every_member(secured, name):
    ana = secured.add_user(("writer", name))
    token = secured.token(ana)
    secured.settle()
    for member in secured.members():
        with secured.client(member, token=token) as client:
            who = action(client, "whoami")
            assert (who["principal"], who["method"], who["credential"]) == (ana, "service_token", f"token:{token_id(token)}")
            table = f"{name}/{member.name}"
            put(client, table, TABLE, **KEYED)
        assert secured.rows(table, token=token, member=member).sort_by("i").equals(TABLE)


@pytest.mark.parametrize("kind", ["session", "service"])
def test_handshake_renews_a_token(secured, kind):
    ana = secured.add_user()
    old = secured.login(ana) if kind == "session" else secured.token(ana)
    secured.settle()
    for member in secured.members():
        with secured.channel(member) as channel:
            new, _ = handshake(channel, authorization=f"Bearer {old}")
        secured.keep(new)
        assert all(secured.accepts(other, new) for other in secured.members())
        if member in secured.coordinators:
            _, payload = claims(new)
            assert payload["sub"] == ana and payload["exp"] - payload["iat"] == 3600
            assert kind == "service" or payload["exp"] >= claims(old)[1]["exp"]
        with secured.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
            handshake(channel, b"", authorization="Bearer nonsense")
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_session_of_a_service_token_ends_with_it(secured):
    ana = secured.add_user()
    token = secured.token(ana)
    secured.settle()
    with secured.channel(secured.coordinators[0]) as channel:
        session, _ = handshake(channel, authorization=f"Bearer {token}")
    assert secured.keep(session) != token
    assert secured.admin("revoke_token", {"id": token_id(token)})["revoked"]
    for ended in (token, session):
        assert all("revoked" in text for text in secured.refused_everywhere(ended))


def test_service_token_expires(secured):
    token = secured.token(secured.add_user(), ttl_s=8)
    wait_until(lambda: secured.accepts(secured.coordinators[0], token), 8, "the token is accepted")
    secured.refused_everywhere(token)


def test_own_password_needs_the_old_one_and_revokes_tokens(secured):
    ana = secured.add_user()
    old, token, session = secured.passwords[ana], secured.token(ana), secured.session(ana)
    new = secured.keep_password(ana)
    secured.settle()
    with secured.client(token=session) as client:
        with pytest.raises(pa.ArrowInvalid, match="old_password"):
            action(client, "set_password", {"user": ana, "password": new})
        with pytest.raises(flight.FlightUnauthorizedError, match="old_password"):
            action(client, "set_password", {"user": ana, "password": new, "old_password": "a guess"})
        body = {"user": ana, "password": new, "old_password": old}
        assert action(client, "set_password", body)["revoked_tokens"] == 1
    secured.refused_everywhere(token)
    secured.login(ana)


def end_user(cluster, user, token):
    cluster.admin("remove_user", {"user": user})


def end_sessions(cluster, user, token):
    cluster.admin("set_password", {"user": user, "password": cluster.keep_password(user)})


def end_token(cluster, user, token):
    cluster.admin("revoke_token", {"id": token_id(token)})


def is_refused(cluster, member, token, endpoint):
    with cluster.client(member, token=token) as client:
        try:
            client.do_get(endpoint.ticket).read_chunk()
            return False
        except flight.FlightUnauthenticatedError:
            return True


@pytest.mark.parametrize("kind, end, words", [
    pytest.param("session", end_user, "there is no user", id="session of a user"),
    for_release("service", end_user, "revoked|there is no user", id="token of a user"),
    pytest.param("session", end_sessions, "password .* has changed", id="session"),
    pytest.param("service", end_token, "revoked", id="token"),
])
def test_stream_outlives_the_credential_that_is_refused(secured, name, kind, end, words):
    # Some 64 MB: more than windows and socket buffers hold, so that the stream runs until it is read.
    table = pa.table({"i": np.arange(8_000_000)})
    put(secured.client(), name, table, chunk=100_000, max_endpoints=1)
    ana = secured.add_user(("reader", name))
    token = secured.login(ana) if kind == "session" else secured.token(ana)
    secured.settle()
    readers = []
    for member in (secured.nodes[0], secured.coordinators[0]):
        client = secured.client(member, token=token)
        [endpoint] = client.get_flight_info(descriptor(name)).endpoints
        reader = client.do_get(endpoint.ticket)
        readers.append((client, reader, reader.read_chunk().data))
    end(secured, ana, token)
    texts = secured.refused_everywhere(token)
    assert all(re.search(words, text) for text in texts), texts
    # A node asks no coordinator about a signed ticket: it refuses once it has heard of the change.
    for member in secured.members():
        wait_until(lambda: is_refused(secured, member, token, endpoint), 10, f"{member.name} refuses the ticket")
    for _, reader, first in readers:
        assert first.num_rows + reader.read_all().num_rows == table.num_rows


@pytest.mark.parametrize("failure", [signal.SIGSTOP, for_release(signal.SIGKILL)])
def test_nodes_verify_tokens_without_coordinators(own_secured, failure):
    cluster = own_secured(coordinators=1, nodes=2)
    ana = cluster.add_user(("writer", "t"))
    put(cluster.client(user=ana), "t", TABLE, **KEYED)
    endpoints = cluster.client(user=ana).get_flight_info(descriptor("t")).endpoints
    # No node has seen these tokens.
    tokens = [cluster.login(ana), cluster.token(ana)]
    stranger = cluster.login(cluster.add_user())
    cluster.coordinators[0].signal(failure)
    for token in tokens:
        for at in range(2):
            parts = [cluster.redeem(endpoint, token=token, location=at) for endpoint in endpoints]
            assert pa.concat_tables(parts).sort_by("i").equals(TABLE)
    for refused, error in ((stranger, flight.FlightUnauthorizedError), ("nonsense", flight.FlightUnauthenticatedError)):
        with pytest.raises(error):
            cluster.redeem(endpoints[0], token=refused)
    with pytest.raises((flight.FlightUnavailableError, flight.FlightTimedOutError)):
        with cluster.client(cluster.nodes[0], user=None) as client:
            client.authenticate_basic_token(ADMIN, cluster.passwords[ADMIN] + "x", LOGIN)


def test_clients_that_log_in_at_once_all_succeed(secured):
    users = [secured.add_user() for _ in range(3)]
    done = []

    def log_in(user, member):
        done.append(secured.login(user, member))

    threads = [threading.Thread(target=log_in, args=(user, member)) for user in users for member in secured.members()]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(done) == len(threads)
