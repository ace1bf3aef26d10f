"""Processes that are killed, clients that disappear, a cluster that is restarted."""

import signal
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import action, descriptor, environment, get, put, read_endpoint, wait_until
from matrix import for_release

TABLE = pa.table({"i": pa.array(range(1_000_000), pa.int64()), "s": ["some text %d" % (i % 1000) for i in range(1_000_000)]})
KEYED = dict(shards=4, shard_by=["i"])


def same(a, b):
    return a.sort_by("i").equals(b.sort_by("i"))


def test_put_of_a_vanished_client_leaves_nothing(shared, client, name):
    before = shared.parts_on_disk()
    code = f"""
import pyarrow as pa, pyarrow.flight as flight, os
client = flight.connect({shared.address(shared.nodes[0])!r})
table = pa.table({{"i": pa.array(range(3_000_000), pa.int64()), "s": ["x" * 40] * 3_000_000}})
writer, _ = client.do_put(flight.FlightDescriptor.for_command({name!r}), table.schema)
writer.write_table(table, max_chunksize=100_000)
print("sent", flush=True)
os.kill(os.getpid(), 9)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout.strip() == "sent", child.stderr
    wait_until(lambda: shared.parts_on_disk() == before, 30, "the parts of the unfinished put are gone")
    with pytest.raises(KeyError):
        client.get_flight_info(descriptor(name))


def test_get_fails_over_when_a_node_is_killed(own):
    cluster = own()
    client = cluster.client()
    # Some 50 MB an endpoint: more than windows and socket buffers hold, so that the killed stream is never complete.
    table = pa.concat_tables([TABLE] * 8)
    put(client, "t", table, **KEYED)
    info = client.get_flight_info(descriptor("t"))
    victim = cluster.node_at(info.endpoints[0].locations[0].uri.decode())
    reader = cluster.client(victim).do_get(info.endpoints[0].ticket)
    reader.read_chunk()
    victim.kill()
    with pytest.raises(flight.FlightError):
        while True:
            reader.read_chunk()
    assert same(pa.concat_tables([read_endpoint(client, e) for e in info.endpoints]), table)
    # The cluster detects it: no FlightInfo names the killed node any more.
    gone = cluster.address(victim).encode()
    def unoffered():
        endpoints = client.get_flight_info(descriptor("t")).endpoints
        return all(gone not in [l.uri for l in e.locations] for e in endpoints)
    wait_until(unoffered, 25, "no FlightInfo names the killed node")
    assert put(client, "u", TABLE, **KEYED)["rows"] == TABLE.num_rows
    victim.start().wait_ready()
    wait_until(lambda: cluster.alive_nodes() == 4, 20, "the node is back")
    assert same(get(client, "t"), table)


def test_put_fails_when_its_node_is_killed(own):
    cluster = own()
    victim = cluster.nodes[0]
    client = cluster.client(victim)
    writer, reader = client.do_put(descriptor("t"), TABLE.schema)
    writer.write_table(TABLE, max_chunksize=50_000)
    victim.kill()
    with pytest.raises(flight.FlightUnavailableError):
        writer.write_table(TABLE)
        writer.done_writing()
        while reader.read() is not None:
            pass
        writer.close()
    with pytest.raises(KeyError):
        cluster.client().get_flight_info(descriptor("t"))
    victim.start().wait_ready()
    wait_until(lambda: cluster.parts_on_disk() == [], 60, "no file is left")


def test_put_through_coordinator_to_killed_node_is_unavailable(own):
    cluster = own(nodes=1)
    writer, reader = cluster.client().do_put(descriptor("t"), TABLE.schema)
    writer.write_table(TABLE, max_chunksize=50_000)
    cluster.nodes[0].kill()
    with pytest.raises(flight.FlightUnavailableError):
        writer.done_writing()
        while reader.read() is not None:
            pass
        writer.close()


def test_put_replaces_a_failed_replica(own):
    cluster = own(nodes=4, zones=4)
    writing = cluster.nodes[0]
    client = cluster.client(writing)
    writer, reader = client.do_put(descriptor("t", shards=8, shard_by=["i"]), TABLE.schema)
    writer.write_table(TABLE.slice(0, 10))
    cluster.nodes[1].kill()
    writer.write_table(TABLE.slice(10))
    writer.done_writing()
    while reader.read() is not None:
        pass
    writer.close()
    info = cluster.client().get_flight_info(descriptor("t"))
    assert same(pa.concat_tables([read_endpoint(cluster.client(), e) for e in info.endpoints]), TABLE)


def test_commits_survive_a_killed_leader(own):
    cluster = own()
    acknowledged, uncertain, stop = [], [], threading.Event()

    def writer(k):
        i = 0
        while not stop.is_set():
            i += 1
            name, node = f"w{k}/{i}", cluster.nodes[k % 4]
            try:
                put(cluster.client(node), name, TABLE.slice(i, 100), write_id=f"w{k}-{i}")
                acknowledged.append((name, i))
            except (flight.FlightError, pa.ArrowException):
                uncertain.append((name, i, f"w{k}-{i}"))

    threads = [threading.Thread(target=writer, args=(k,)) for k in range(3)]
    [t.start() for t in threads]
    for _ in range(2):
        count = len(acknowledged)
        wait_until(lambda: len(acknowledged) > count + 10, 60, "puts are acknowledged")
        leader = cluster.leader()
        leader.kill()
        count = len(acknowledged)
        wait_until(lambda: len(acknowledged) > count + 5, 60, "puts go through under the next leader")
        leader.start().wait_ready()
    stop.set()
    [t.join() for t in threads]
    for name, i, write_id in uncertain:
        assert put(cluster.client(), name, TABLE.slice(i, 100), write_id=write_id)["version"] == 1
        acknowledged.append((name, i))
    for coordinator in cluster.coordinators:
        client = cluster.client(coordinator)
        listed = {f.descriptor.command: f.total_records for f in client.list_flights()}
        for name, i in acknowledged:
            assert listed[name.encode()] == 100, name
    for name, i in acknowledged[:20]:
        assert get(cluster.client(), name).equals(TABLE.slice(i, 100))


def test_calls_without_majority_are_unavailable(own):
    cluster = own()
    put(cluster.client(), "t", TABLE.slice(0, 10))
    ticket = cluster.client().get_flight_info(descriptor("t")).endpoints[0]
    cluster.coordinators[0].kill()
    cluster.coordinators[1].kill()
    left = cluster.client(cluster.coordinators[2])
    for call in (
        lambda: left.get_flight_info(descriptor("t")),
        lambda: action(left, "drop_table", {"table": "t"}),
        lambda: put(cluster.client(cluster.nodes[0]), "u", TABLE.slice(0, 10)),
    ):
        with pytest.raises(flight.FlightUnavailableError):
            call()
    # Tickets need no coordinator.
    assert read_endpoint(left, ticket).num_rows == 10
    cluster.coordinators[0].start().wait_ready()
    assert get(left, "t").num_rows == 10


@pytest.mark.parametrize("number", [signal.SIGKILL, for_release(signal.SIGTERM)])
def test_cluster_keeps_everything_over_a_restart(own, number):
    cluster = own()
    put(cluster.client(), "ordered", TABLE)
    put(cluster.client(), "keyed", TABLE, **KEYED)
    for member in cluster.members():
        member.signal(number)
    for member in cluster.members():
        assert member.process.wait(timeout=40) in (0, -9)
    for member in reversed(cluster.members()):
        member.start()
    for member in cluster.members():
        member.wait_ready()
    wait_until(lambda: cluster.alive_nodes() == 4, 30, "the nodes are back")
    assert get(cluster.client(), "ordered").equals(TABLE)
    assert same(get(cluster.client(), "keyed"), TABLE)
    assert put(cluster.client(), "ordered", TABLE.slice(0, 1), mode="append")["version"] == 2


def test_restarted_coordinator_answers_whoever_reaches_it(own):
    """From the first connection that it accepts: a rolling restart fails no call but those that find nobody."""
    cluster = own(coordinators=3, nodes=1)
    table = pa.table({"i": [1, 2, 3]})
    put(cluster.client(), "t", table)
    for coordinator in cluster.coordinators:

        def answers():
            unshared = [("grpc.use_local_subchannel_pool", 1)]
            with flight.connect(cluster.address(coordinator), generic_options=unshared) as client:
                try:
                    return client.do_get(flight.Ticket(b"t")).read_all().equals(table)
                except flight.FlightUnavailableError as error:
                    assert "failed to connect" in str(error), error
                    return False

        assert coordinator.stop() == 0
        coordinator.start()
        wait_until(answers, 30, f"{coordinator.name} answers")
        coordinator.wait_ready()


def test_coordinator_with_a_lost_folder_catches_up(own):
    import shutil

    cluster = own()
    for i in range(5):
        put(cluster.client(), f"t{i}", TABLE.slice(0, 10))
    victim = cluster.coordinators[1]
    victim.kill()
    shutil.rmtree(victim.folder)
    victim.start().wait_ready()
    assert len(list(cluster.client(victim).list_flights())) == 5
    assert put(cluster.client(victim), "after", TABLE.slice(0, 1))["version"] == 1


def test_startup_error_is_one_sentence(own, tmp_path):
    cluster = own(coordinators=1, nodes=1)
    node, coordinator = cluster.nodes[0], cluster.coordinators[0]

    def run(command, changes):
        command = [changes.get(word, word) for word in command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment())
        assert done.returncode != 0
        return done.stderr

    fresh = str(tmp_path / "data")
    assert "another process uses this port" in run(node.command, {str(node.folder): fresh})
    other_ports = {f"{node.host}:{p}": f"{node.host}:{p + 1000}" for p in (8816, 8826, 8836)}
    assert str(node.folder) in run(node.command, other_ports)
    assert "0.0.0.0" in run(node.command, other_ports | {str(node.folder): fresh, f"grpc+tcp://{node.host}:8816": "grpc+tcp://0.0.0.0:8816"})
    assert "--insecure" in run(node.command, other_ports | {str(node.folder): fresh, f"{node.host}:8816": "0.0.0.0:9999"})
    assert "--no-such-flag" in run(node.command + ["--no-such-flag"], {})
    node.kill()
    other = own(coordinators=1, nodes=1)
    error = run(node.command, {other.peer_ports: other.peer_ports, cluster.peer_ports: other.peer_ports})
    assert "another cluster" in error or "cluster" in error
