"""Logins that fail: one text for all of them, and guessing that becomes slow."""

import re
import subprocess

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, environment, wait_until, without_request_id
from identity_cluster import ADMIN, LOGIN, TutorialHandler, basic, handshake, headers
from matrix import for_release
from protobuf import field


def attempt(cluster, member, user, password):
    """Logs in; returns None, or the text of the error."""
    with cluster.client(member, user=None) as client:
        try:
            client.authenticate_basic_token(user, password, LOGIN)
        except flight.FlightUnauthenticatedError as error:
            return said(error)
    return None


def said(error):
    """What the server said, without the client's context."""
    return without_request_id(re.split(r"\. gRPC client debug context|\. Client context|\. Detail", str(error))[0])


@pytest.fixture
def cluster(own_secured):
    return own_secured(coordinators=1, nodes=1)


def test_failed_logins_have_one_text_and_slow_the_next(cluster):
    coordinator, node = cluster.members()
    ana, tokens_only = cluster.add_user(), "only-tokens"
    cluster.admin("create_user", {"user": tokens_only})
    texts = [
        attempt(cluster, coordinator, "no-such-user", "wrong password"),
        attempt(cluster, node, tokens_only, "wrong password"),
        *(attempt(cluster, member, ana, "wrong password") for member in (coordinator, node, node)),
    ]
    assert len(set(texts)) == 1 and "password" in texts[0], texts
    with pytest.raises(pa.ArrowInvalid, match=r"too many logins.*retry in \d+ s"):
        # Now the right one waits too.
        attempt(cluster, node, ana, cluster.passwords[ana])
    # Whoever is logged in is not disturbed.
    assert action(cluster.client(), "whoami")["principal"] == ADMIN
    wait_until(lambda: succeeds(cluster, coordinator, ana), 20, "the delay is over")
    assert attempt(cluster, coordinator, ana, cluster.passwords[ana]) is None


def succeeds(cluster, member, user):
    try:
        return attempt(cluster, member, user, cluster.passwords[user]) is None
    except pa.ArrowInvalid:
        return False


def guess(cluster, member, user):
    """One more wrong password; returns the seconds that the server says to wait, if it refuses the attempt."""
    try:
        attempt(cluster, member, user, "a guess")
    except pa.ArrowInvalid as error:
        return int(re.search(r"retry in (\d+) s", str(error)).group(1))
    return 0


def test_delay_grows_and_is_of_one_address_only(cluster):
    coordinator = cluster.coordinators[0]
    operator = cluster.add_user(("operator", "/"))
    delays = set()
    wait_until(lambda: delays.add(guess(cluster, coordinator, operator)) or max(delays) >= 8, 60, "a delay of 8 s")
    assert {1, 2, 4} < delays, delays
    right = {"authorization": basic(operator, cluster.passwords[operator])}
    status, _, text = cluster.http(coordinator, "/metrics", **right)
    assert status == 429 and "too many logins" in text
    status, _, _ = cluster.http(coordinator, "/metrics", source="127.0.0.77", **right)
    assert status == 200
    # Nor does a few failures' delay concern the others of an address.
    assert attempt(cluster, coordinator, ADMIN, cluster.passwords[ADMIN]) is None


def test_throttle_counts_every_way_to_log_in(cluster):
    coordinator, node = cluster.members()
    ana = cluster.add_user()
    with cluster.client(node, user=None) as client, pytest.raises(flight.FlightUnauthenticatedError):
        client.authenticate(TutorialHandler(ana, "wrong password"), LOGIN)
    with cluster.client(coordinator, user=None) as client, pytest.raises(flight.FlightUnauthenticatedError):
        list(client.list_flights(options=headers(authorization=basic(ana, "wrong password"))))
    assert cluster.http(node, "/metrics", authorization=basic(ana, "wrong password"))[0] == 401
    with pytest.raises(pa.ArrowInvalid, match="too many logins"):
        attempt(cluster, coordinator, ana, cluster.passwords[ana])


def test_tokens_are_not_slowed_down(cluster):
    for member in cluster.members():
        for _ in range(20):
            with cluster.client(member, token="nonsense") as client, pytest.raises(flight.FlightUnauthenticatedError):
                list(client.list_flights())
        assert cluster.accepts(member, cluster.session(ADMIN))
    cluster.login()


@pytest.mark.parametrize(
    "payload", [b"\xff\xff", for_release(b"\x12\x00"), b"\x1a\x08hunter22", for_release(b"x" * 100_000)]
)
def test_malformed_older_handshake_is_refused(cluster, payload):
    for member in cluster.members():
        with cluster.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
            handshake(channel, field(2, payload))
        refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE}
        assert error.value.code() in refused, error.value
        assert "hunter22" not in error.value.details()


def test_handshake_without_credentials_is_refused(cluster):
    for member in cluster.members():
        for messages in ([], [b""]):
            with cluster.channel(member) as channel, pytest.raises(grpc.RpcError) as error:
                handshake(channel, *messages)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert "no credentials" in error.value.details()


def test_first_administrator_is_created_once(own_secured):
    cluster = own_secured(coordinators=1, nodes=1)
    [coordinator] = cluster.coordinators
    password = cluster.passwords[ADMIN]
    cluster.admin("set_password", {"user": ADMIN, "password": cluster.keep_password(ADMIN)})
    coordinator.stop()
    coordinator.start().wait_ready()
    wait_until(lambda: cluster.http(coordinator, "/readyz")[0] == 200, 30, "it is ready")
    cluster.sessions[ADMIN] = cluster.login()
    assert attempt(cluster, coordinator, ADMIN, password) is not None
    assert [user["user"] for user in cluster.admin("list_users")] == [ADMIN]


def test_unusable_bootstrap_file_stops_who_needs_it(own_secured, tmp_path):
    """A cluster is never open because the file of its first administrator is unusable."""
    file = tmp_path / "administrator"
    cluster = own_secured(coordinators=1, nodes=1)
    [coordinator] = cluster.coordinators
    assert coordinator.stop() == 0
    at = coordinator.command.index("--bootstrap-admin-file") + 1
    coordinator.command[at] = str(file)
    # Its work is done, and whoever follows the documentation removes the file first.
    coordinator.start().wait_ready()
    assert "bootstrap_admin_file cannot be used, and need not be" in coordinator.log.read_text()
    assert coordinator.stop() == 0
    folder = coordinator.command.index("--data-dir") + 1
    coordinator.command[folder] = str(tmp_path / "fresh")
    for content, why in ((None, "it cannot be read"), ("no colon but a hunter2\n", "it is not one line"), ("root:short\n", "the password has 5 bytes")):
        if content is not None:
            file.write_text(content)
        assert coordinator.start().process.wait(timeout=30) == 1
        last = coordinator.log.read_text().splitlines()[-1]
        assert f"bootstrap_admin_file {file}: {why}" in last and "remove the setting" in last, last
        for flag in ("--bootstrap-admin-file", "--reset-admin-file"):
            checked = subprocess.run([coordinator.command[0], flag, file, "--check-config"], capture_output=True, text=True, timeout=30, env=environment())
            setting = flag.strip("-").replace("-", "_")
            assert checked.returncode == 1 and f"{setting} {file}: {why}" in checked.stderr, checked
    assert "hunter2" not in coordinator.log.read_text()
    file.write_text("root:a long password\n")
    coordinator.start().wait_ready()
