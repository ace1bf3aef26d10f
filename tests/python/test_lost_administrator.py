"""The way back for who has lost the administrator, and new keys after a theft."""

import json

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, put, wait_until
from identity_cluster import ADMIN, KNOWN, claims

TABLE = pa.table({"i": pa.array(range(1000), pa.int64())})


def restart(member, *flags):
    """Stops a member, and starts it with more flags."""
    assert member.stop() == 0
    member.command += [str(flag) for flag in flags]
    member.start().wait_ready()


def wait_logged(member, words):
    wait_until(lambda: words in member.log.read_text(errors="replace"), KNOWN, f"{member.name} logs {words!r}")


def new_password(cluster, file):
    """Writes a new password of the administrator to the file of a reset; forgets the sessions of the old one."""
    password = cluster.keep_password(ADMIN)
    file.write_text(f"{ADMIN}:{password}\n")
    cluster.sessions.clear()


def test_file_of_a_follower_resets_the_administrator_once(own_secured):
    cluster = own_secured(coordinators=3, nodes=1)
    before, file, leader = cluster.session(ADMIN), cluster.vault / "reset", cluster.leader()
    follower = next(coordinator for coordinator in cluster.coordinators if coordinator is not leader)
    new_password(cluster, file)
    restart(follower, "--reset-admin-file", file)
    wait_logged(follower, "an administrator has the password of reset_admin_file now")
    cluster.refused_everywhere(before)
    cluster.settle()
    [line] = cluster.wait_audited(operation="reset_administrator")
    assert (line["audit"], line["result"], line["principal"], line["member"]) == ("admin", "OK", None, follower.name)
    # The administrator changes the password, and forgets the file.
    changed = cluster.keep_password(ADMIN)
    cluster.admin("set_password", {"user": ADMIN, "password": changed})
    cluster.sessions.clear()
    restart(follower)
    wait_logged(follower, "reset_admin_file was applied before")
    cluster.settle()
    assert len(cluster.audited(operation="reset_administrator")) == 1
    assert cluster.leaks(cluster.logs()) == []


def test_rotated_signing_key_ends_sessions_only_if_they_are_revoked(own_secured):
    cluster = own_secured(coordinators=1, nodes=1)
    before, service = cluster.session(ADMIN), cluster.token()
    rotated = cluster.admin("rotate_keys")
    assert (rotated["sessions_revoked"], rotated["ticket_key"]) == (False, None)
    cluster.settle()
    # Of a user who logs in for the first time: others get the session of the last minute.
    later = cluster.login(cluster.add_user())
    assert claims(later)[0]["kid"] == rotated["signing_key"] != claims(before)[0]["kid"]
    wait_until(lambda: all(cluster.accepts(member, later) for member in cluster.members()), KNOWN, "the new key is known")
    assert all(cluster.accepts(member, before) for member in cluster.members())
    done = cluster.cli("cluster", "rotate-keys", "--revoke-sessions")
    assert done.returncode == 0 and "log in again" in done.stdout, done
    cluster.refused_everywhere(before)
    cluster.refused_everywhere(later)
    assert all(cluster.accepts(member, service) for member in cluster.members()), "a service token is no session"
    cluster.sessions.clear()
    cluster.settle()


def test_new_ticket_key_leaves_reads_and_writes_as_they_are(own_secured, name):
    cluster = own_secured(coordinators=1, nodes=2)
    put(cluster.client(), name, TABLE)
    [planned] = cluster.client().get_flight_info(descriptor(name)).endpoints
    done = cluster.cli("--json", "cluster", "rotate-keys", "--ticket-key")
    assert done.returncode == 0, done.stderr
    times = json.loads(done.stdout)["ticket_key"]
    assert times["former_until_ms"] > times["signs_from_ms"]
    cluster.settle()
    for node in cluster.nodes:
        put(cluster.client(node), name, TABLE)
        assert cluster.redeem(planned).equals(TABLE) and cluster.rows(name, member=node).equals(TABLE)
    with pytest.raises((flight.FlightError, pa.ArrowException), match="learning a new ticket key"):
        action(cluster.client(), "rotate_keys", {"revoke_tickets": True})
