"""The status of the cluster, and nodes that are drained and removed, by plain Flight actions."""

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, get, put, wait_until

TABLE = pa.table({"i": pa.array(range(10_000), pa.int64())})
HASTY = ("--node-timeout-ms", "2000", "--repair-delay-ms", "2000")


def health(client):
    return action(client, "cluster_status")["health"]


def all_coordinators_answer(client):
    coordinators = action(client, "cluster_status")["coordinators"]
    return all(c["answering"] and c["state"] == "ok" for c in coordinators)


def test_admin_actions_are_listed(client):
    offered = {a.type for a in client.list_actions()}
    assert {
        "cluster_status", "explain", "list_versions", "drain_node", "undrain_node", "remove_node",
        "add_coordinator", "remove_coordinator", "list_writes", "list_audit",
    } <= offered


def test_every_member_reports_the_same_status(shared, name):
    put(shared.client(), name, TABLE, shards=4, shard_by=["i"])
    for member in shared.members():
        client = shared.client(member)
        wait_until(lambda: health(client) == "green", 20, f"{member.name} says green")
        wait_until(lambda: all_coordinators_answer(client), 20, f"{member.name} says that they answer")
        status = action(client, "cluster_status")
        assert status["copies"]["unreadable"] == 0 and status["unreadable"] == []
        assert sum(c["leader"] for c in status["coordinators"]) == 1
        assert all(node["bytes_free"] > 0 for node in status["nodes"])
        explained = action(client, "explain", {"table": name})
        assert [shard["shard"] for shard in explained["shards"]] == [0, 1, 2, 3]
        assert all(len(shard["holders"]) == 2 and shard["missing"] == [] for shard in explained["shards"])
        for shard in explained["shards"]:
            assert {h["node"] for h in shard["holders"]} == {p["node"] for p in shard["placed"]}


def test_listed_versions_can_be_read(client, name):
    for rows in (10, 20, 30):
        put(client, name, TABLE.slice(0, rows), mode="replace")
    listed = action(client, "list_versions", {"table": name})["versions"]
    assert [(v["version"], v["rows"]) for v in listed] == [(3, 30), (2, 20), (1, 10)]
    for version in listed:
        assert get(client, name, version=version["version"]).num_rows == version["rows"]
    assert listed[0]["until_ms"] is None and listed[2]["until_ms"] > listed[2]["made_ms"]


def test_open_writes_are_listed_until_they_end(client, name):
    put(client, name, TABLE)
    write = action(client, "begin_write", {"table": name, "mode": "append"})["write_id"]
    [listed] = [one for one in action(client, "list_writes")["writes"] if one["write_id"] == write]
    assert (listed["table"], listed["mode"], listed["staged"], listed["rows"]) == (name, "append", True, 0)
    action(client, "abort_write", {"write_id": write})
    assert write not in [one["write_id"] for one in action(client, "list_writes")["writes"]]


def test_newest_audit_lines_are_listed(client, name):
    action(client, "drop_table", {"table": name, "if_exists": True})

    def dropped():
        lines = action(client, "list_audit")["lines"]
        return [line for line in lines if line["operation"] == "drop_table" and line["table"] == name]

    assert wait_until(dropped, 10, "the drop is in the audit log")[0]["result"] == "OK"


@pytest.mark.parametrize(
    "name, body, word",
    [
        ("explain", {"table": "no/such"}, "no/such"),
        ("explain", {"tabel": "t"}, "tabel"),
        ("explain", {}, "table"),
        ("list_versions", {"table": "a//b"}, "empty component"),
        ("drain_node", {"node": "ffffffffffffffff"}, "ffffffffffffffff"),
        ("drain_node", {"node": "fff"}, "HOST:PORT"),
        ("drain_node", {"node": "ffff", "forced": True}, "forced"),
        ("remove_node", {}, "node"),
        ("cluster_status", {"all": True}, "all"),
        ("add_coordinator", {"id": "x", "peer": "h:1"}, "id"),
        ("remove_coordinator", {"peer": "h:1"}, "peer"),
    ],
)
def test_mistake_in_an_action_is_named(client, name, body, word):
    with pytest.raises((flight.FlightError, pa.ArrowException, KeyError)) as error:
        action(client, name, body)
    assert word in str(error.value)


def test_cluster_health_is_yellow_red_and_green(own):
    cluster = own(coordinators=1, nodes=3, zones=3, coordinator_options=HASTY)
    client = cluster.client()
    put(client, "two", TABLE, shards=12, shard_by=["i"], replicas=2)
    put(client, "one", TABLE, shards=12, shard_by=["i"], replicas=1)
    wait_until(lambda: health(client) == "green", 20, "the cluster is green")
    victim = cluster.nodes[0]
    victim.kill()
    wait_until(lambda: health(client) == "red", 20, "the table with one copy is unreadable")
    lost = action(client, "cluster_status")["unreadable"]
    assert {part["table"] for part in lost} == {"one"}
    explained = action(client, "explain", {"table": "one"})
    whys = [m for shard in explained["shards"] for m in shard["missing"]]
    assert {why["kind"] for why in whys} == {"unreadable"} and victim.host in whys[0]["why"]
    # Parts with another copy are repaired nevertheless.
    wait_until(lambda: action(client, "explain", {"table": "two"})["below_replicas"] == 0, 30, "the repair")
    victim.start().wait_ready()
    wait_until(lambda: health(client) == "green", 30, "the cluster is green again")
    assert get(client, "one").num_rows == TABLE.num_rows


def test_drained_node_is_removed(own):
    cluster = own(coordinators=1, nodes=3, zones=3, coordinator_options=HASTY)
    client = cluster.client()
    put(client, "t", TABLE, shards=12, shard_by=["i"], replicas=1)
    leaving = cluster.nodes[2]
    node = {"node": f"{leaving.host}:8816"}
    with pytest.raises(pa.ArrowException, match="drain"):
        action(client, "remove_node", node)
    assert action(client, "drain_node", node)["draining"]
    wait_until(lambda: action(client, "drain_node", node)["done"], 30, "the drain")
    assert action(client, "remove_node", node)["removed"]
    leaving.kill()
    assert len(action(client, "cluster_status")["nodes"]) == 2
    assert get(client, "t").num_rows == TABLE.num_rows
