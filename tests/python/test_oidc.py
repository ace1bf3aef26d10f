"""Tokens of an OIDC issuer, at real members that fetch its keys through a proxy.

A member asks for the keys at most once a minute, so the tests of new keys and of an issuer that is down take two minutes together.
"""

import pathlib
import shutil
import tempfile

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put, wait_until
from identity_cluster import UserCluster, put_schema, refusal_of, searched
from oidc_issuer import (
    AUDIENCE, GROUPS_CLAIM, HOST, ISSUER, PRINCIPAL_CLAIM, ConnectProxy, Issuer, SigningKey, discover,
)
from tls_cluster import Authority

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})
KEYED = dict(shards=4, shard_by=["i"])
# A minute until a member may ask again, and time for a busy machine.
REFRESHED = 120
UNKNOWN_KEY = "does not publish the key"
KEPT = "those from before stay in use"


class OidcCluster(UserCluster):
    """One coordinator and two nodes that accept the tokens of an issuer, which they reach through a proxy only."""

    def __init__(self):
        self.files = pathlib.Path(tempfile.mkdtemp(prefix="volley-test-issuer-"))
        authority = Authority(self.files / "authority")
        self.key = SigningKey("first")
        self.issuer = Issuer(authority.issue("--server", HOST), self.key)
        self.proxy = ConnectProxy(self.issuer.server.port)
        found = discover(self.proxy, authority.ca)
        self.proxy.targets.clear()
        self.variables = {
            "SSL_CERT_FILE": str(authority.ca), "HTTPS_PROXY": self.proxy.url, "https_proxy": self.proxy.url,
            "NO_PROXY": "", "no_proxy": "",
        }
        options = (
            "--oidc-issuer", found["issuer"], "--oidc-audience", AUDIENCE, "--oidc-jwks", found["jwks_uri"],
            "--oidc-principal-claim", PRINCIPAL_CLAIM, "--oidc-groups-claim", GROUPS_CLAIM,
        )
        super().__init__(coordinators=1, nodes=2, coordinator_options=options, node_options=options)
        probe = self.keep(self.key.token("probe"))
        wait_until(lambda: all(self.accepts(member, probe) for member in self.members()), 30, "every member has the keys")

    def refusals(self, token):
        """What each member says to a token that it refuses."""
        found = []
        for member in self.members():
            with self.client(member, token=token) as client:
                with pytest.raises(flight.FlightUnauthenticatedError) as error:
                    list(client.list_flights())
                found.append(str(error.value))
        return found

    def is_accepted_everywhere(self, make_token):
        return all(self.accepts(member, make_token()) for member in self.members())

    def close(self):
        super().close()
        self.proxy.close()
        self.issuer.close()
        shutil.rmtree(self.files, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_issuer():
    yield from searched(OidcCluster())


@pytest.fixture
def own_issuer():
    yield from searched(OidcCluster())


def test_token_of_the_issuer_serves_every_call(shared_issuer, name):
    shared_issuer.grant("group:analysts", "owner", name)
    shared_issuer.settle()
    token = shared_issuer.keep(shared_issuer.key.token("eve", ["analysts", "others"]))
    for member in shared_issuer.members():
        table = f"{name}/{member.name}"
        with shared_issuer.client(member, token=token) as client:
            who = action(client, "whoami")
            assert (who["principal"], who["method"], who["credential"]) == ("eve", "oidc", f"oidc:{ISSUER}"), who
            assert who["groups"] == ["analysts", "others"] and len(who["grants"]) == 1, who
            put(client, table, TABLE, **KEYED)
            info = client.get_flight_info(descriptor(table))
            assert info.total_records == TABLE.num_rows and len(info.endpoints) == 4
            assert len(list(client.list_flights())) == 1
        for at in range(2):
            parts = [shared_issuer.redeem(endpoint, token=token, location=at) for endpoint in info.endpoints]
            assert pa.concat_tables(parts).sort_by("i").equals(TABLE)
        for other in shared_issuer.members():
            with shared_issuer.client(other, token=token) as client:
                assert sum(client.do_get(endpoint.ticket).read_all().num_rows for endpoint in info.endpoints) == TABLE.num_rows
        with shared_issuer.client(member, token=token) as client:
            action(client, "drop_table", {"table": table})
            assert list(client.list_flights()) == []


def test_group_of_the_token_decides_what_it_reads(shared_issuer, name):
    put(shared_issuer.client(), name, TABLE)
    shared_issuer.grant("group:readers", "reader", name)
    shared_issuer.settle()
    reader = shared_issuer.keep(shared_issuer.key.token("ron", ["readers"]))
    stranger = shared_issuer.keep(shared_issuer.key.token("ron"))
    for member in shared_issuer.members():
        with shared_issuer.client(member, token=reader) as client:
            assert client.get_schema(descriptor(name)).schema == TABLE.schema
            error = refusal_of(lambda: put_schema(client, name, TABLE.schema))
            assert isinstance(error, flight.FlightUnauthorizedError), error
        with shared_issuer.client(member, token=stranger) as client:
            assert list(client.list_flights()) == []
            with pytest.raises(KeyError):
                client.get_flight_info(descriptor(name))


def test_expired_token_has_a_minute_of_leeway(shared_issuer):
    # It is accepted for less than a second: on a busy machine another one is tried.
    def expired_for(seconds):
        return shared_issuer.keep(shared_issuer.key.token("late", lifetime=-seconds))

    for member in shared_issuer.members():
        wait_until(lambda: shared_issuer.accepts(member, expired_for(59)), 30, f"{member.name} accepts a token of 59 s ago")
    assert all("expired" in text for text in shared_issuer.refusals(expired_for(61)))


def test_forged_token_is_refused_with_its_reason(shared_issuer):
    key, other = shared_issuer.key, SigningKey("first")
    for token, why in [
        (key.token(aud="another-service"), f"its audience is not {AUDIENCE}"),
        (key.token(aud=["another-service", "third"]), f"its audience is not {AUDIENCE}"),
        (key.token(iss="https://evil.test"), "of no kind that this cluster accepts"),
        (key.token(iss=ISSUER + "/"), "of no kind that this cluster accepts"),
        (key.token(exp=None), "claim exp"),
        (key.token(login=""), f"its claim {PRINCIPAL_CLAIM} cannot be the name"),
        (key.token(key_id="unpublished"), UNKNOWN_KEY),
        (other.token(), "its signature is not that of its issuer's key"),
        (key.signed_by_the_public_key(), "its algorithm"),
    ]:
        texts = shared_issuer.refusals(shared_issuer.keep(token))
        assert all(why in text for text in texts), texts
    assert all("its algorithm" in text for text in shared_issuer.refusals(key.unsigned()))


def test_keys_are_fetched_through_the_proxy_only(shared_issuer):
    # No member could resolve the host.
    assert len(shared_issuer.proxy.targets) >= len(shared_issuer.members())
    assert set(shared_issuer.proxy.targets) == {f"{HOST}:443"}
    assert 0 < shared_issuer.issuer.fetches <= len(shared_issuer.proxy.targets)


def test_keys_rotate_and_outlast_a_down_issuer(own_issuer, name):
    put(own_issuer.client(), name, TABLE)
    own_issuer.grant("group:readers", "reader", name)
    own_issuer.settle()
    old, new = own_issuer.key, SigningKey("second")
    own_issuer.issuer.server.stop()

    def fresh(key):
        """A token that no member has verified before."""
        return own_issuer.keep(key.token(groups=["readers"], jti=str(len(own_issuer.secrets))))

    def all_have_failed():
        return all(KEPT in member.log.read_text(errors="replace") for member in own_issuer.members())

    # A key that a member does not know makes it ask for new ones.
    assert all(UNKNOWN_KEY in text for text in own_issuer.refusals(fresh(new)))
    wait_until(all_have_failed, REFRESHED, "every member has asked for new keys in vain")
    assert own_issuer.is_accepted_everywhere(lambda: fresh(old))

    own_issuer.issuer.keys = [old, new]
    own_issuer.issuer.server.start()
    wait_until(lambda: own_issuer.is_accepted_everywhere(lambda: fresh(new)), REFRESHED, "every member has the new key")
    for key in (old, new):
        for member in own_issuer.members():
            with own_issuer.client(member, token=fresh(key)) as client:
                assert client.get_flight_info(descriptor(name)).total_records == TABLE.num_rows
