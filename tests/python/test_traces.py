"""Traces by OTLP, ids of requests in errors and logs, and collectors that hang."""

import concurrent.futures
import os
import re
import secrets
import socket
import subprocess
import urllib.request

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import BIN, descriptor, environment, finish, put, wait_until
from identity_cluster import headers
from metrics_text import families, value
from otlp_receiver import OtlpReceiver, Tree
from protobuf import SERVICE, field

TABLE = pa.table({"i": pa.array(range(30_000), pa.int64())})
# Its parts are too large to go with the order to copy them.
LARGE = pa.table({"i": pa.array(range(300_000), pa.int64())})
KEYED = dict(shards=3, shard_by=["i"], replicas=2)
REQUEST = re.compile(r" \(request ([0-9a-f]{16})\)$")


@pytest.fixture
def collector():
    """Makes collectors."""
    made = []

    def make(protocol="grpc"):
        made.append(OtlpReceiver(protocol))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


class ClientSpan:
    """The span of a client: what its calls carry."""

    def __init__(self, sampled=True):
        self.trace, self.span = secrets.token_hex(16), secrets.token_hex(8)
        self.traceparent = f"00-{self.trace}-{self.span}-0{int(sampled)}"

    def tree(self, receiver):
        return Tree(receiver.of_trace(self.trace), self.span)


def traced(cluster, url, *options):
    """Options of a cluster whose members all export."""
    flags = ("--otlp-endpoint", url, *options)
    return cluster(coordinators=3, nodes=3, coordinator_options=flags, node_options=flags)


def peer_of(cluster, member):
    return f"{member.host}:{8825 if member in cluster.coordinators else 8826}"


def traced_put(client, name, parent, table=TABLE, **options):
    writer, reader = client.do_put(descriptor(name, **options), table.schema, headers(traceparent=parent.traceparent))
    writer.write_table(table)
    return finish(writer, reader)


def test_put_with_two_copies_is_one_tree(own, collector):
    receiver = collector()
    cluster = traced(own, receiver.url)
    parent, writer = ClientSpan(), cluster.nodes[0]
    with cluster.client(writer) as client:
        assert traced_put(client, "a/b", parent, LARGE, write_id="w-1", **KEYED)["rows"] == LARGE.num_rows

    def is_whole():
        tree = parent.tree(receiver)
        raft = [tree.path(span)[:3] for span in tree.named("raft.commit")]
        fetched = [span for span in tree.named("FetchPart") if tree.path(span)[:4] == COPY]
        begun = any(path == ("DoPut", "put.begin", "BeginWrite") for path in raft)
        committed = any(path == ("DoPut", "put.commit", "CommitWrite") for path in raft)
        return tree if tree.is_complete() and tree.roots() and begun and committed and len(fetched) >= 3 else None

    COPY = ("DoPut", "put.copy", "CopyPart", "copy.fetch")
    tree = wait_until(is_whole, 60, "the spans of the put")
    [root] = tree.roots()
    assert (root.name, root.member, root.failed) == ("DoPut", peer_of(cluster, writer), False)
    expected = {"volley.table": "a/b", "volley.write_id": "w-1", "rpc.grpc.status_code": "OK", "volley.port": "flight"}
    assert {key: root.attributes.get(key) for key in expected} == expected
    assert len(root.attributes["volley.request_id"]) == 16
    assert root.resource["service.name"] == "volley-node"
    coordinators = {peer_of(cluster, member) for member in cluster.coordinators}
    nodes = {peer_of(cluster, member) for member in cluster.nodes}
    for commit in tree.named("CommitWrite"):
        assert commit.member in coordinators and commit.attributes["volley.write_id"] == "w-1"
        assert commit.attributes["volley.request_id"] == root.attributes["volley.request_id"]
    for span in tree.named("raft.commit"):
        assert span.member in coordinators and span.resource["service.name"] == "volley-coordinator"
    # Each shard has a part, and each part a second copy at another node than the writer.
    parts = {span.attributes["volley.part"] for span in tree.named("copy.fetch")}
    assert len(parts) == 3, tree.named("copy.fetch")
    for copy in tree.named("CopyPart"):
        assert copy.member in nodes - {root.member} and tree.path(copy) == COPY[:3]
    # The line of the log about the put names its trace.
    assert f'trace_id="{parent.trace}"' in writer.log.read_text()


def test_parallel_get_is_one_tree(own, collector):
    receiver = collector()
    cluster = traced(own, receiver.url)
    with cluster.client() as client:
        put(client, "a/b", TABLE, **KEYED)
        parent = ClientSpan()
        options = headers(traceparent=parent.traceparent)
        info = client.get_flight_info(descriptor("a/b"), options)

        def read(endpoint):
            with flight.connect(endpoint.locations[0].uri.decode()) as there:
                return there.do_get(endpoint.ticket, options).read_all()

        with concurrent.futures.ThreadPoolExecutor() as threads:
            read = list(threads.map(read, info.endpoints))
    assert sum(rows.num_rows for rows in read) == TABLE.num_rows and len(info.endpoints) == 3

    def is_whole():
        tree = parent.tree(receiver)
        return tree if tree.is_complete() and len(tree.roots()) == 4 else None

    tree = wait_until(is_whole, 60, "the spans of the get")
    [plan] = tree.named("GetFlightInfo")
    gets = tree.named("DoGet")
    assert plan in tree.roots() and all(get in tree.roots() for get in gets) and len(gets) == 3
    assert plan.member == peer_of(cluster, cluster.coordinators[0])
    assert {span.member for span in gets} <= {peer_of(cluster, node) for node in cluster.nodes}
    for span in (plan, *gets):
        assert (span.attributes["volley.table"], span.failed) == ("a/b", False)
        assert span.attributes["volley.flight"] == plan.attributes["volley.flight"]


def test_forwarded_call_and_command_line_belong_to_the_trace(own, collector):
    receiver = collector()
    cluster = traced(own, receiver.url)
    with cluster.client() as client:
        put(client, "a/b", TABLE)
    parent = ClientSpan()
    variables = environment() | {"TRACEPARENT": parent.traceparent}
    command = [BIN / "volley", "--cluster", cluster.address(cluster.nodes[0]), "ls"]
    assert "a/b" in subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    def is_whole():
        tree = parent.tree(receiver)
        forwarded = [path for path in map(tree.path, tree.by_id.values()) if len(path) > 1 and path[0] == path[1]]
        return tree if tree.is_complete() and forwarded else None

    tree = wait_until(is_whole, 60, "the spans of the command")
    nodes = {peer_of(cluster, cluster.nodes[0])}
    assert {span.member for span in tree.roots()} == nodes, "the node forwards to a coordinator"
    # A variable that is no traceparent is another program's mistake.
    variables["TRACEPARENT"] = "nonsense"
    assert subprocess.run(command, env=variables, capture_output=True).returncode == 0


def test_query_on_several_nodes_is_one_tree(own, collector):
    receiver = collector()
    flags = ("--otlp-endpoint", receiver.url)
    cluster = own(coordinators=1, nodes=3, coordinator_options=flags, node_options=(*flags, "--sql-distribute-bytes", "0"))
    parent = ClientSpan()
    with cluster.client(cluster.nodes[0]) as client:
        put(client, "q", TABLE, shards=6, shard_by=["i"], replicas=1)
        ticket = flight.Ticket(b'{"sql": "SELECT i % 10 AS k, count(*) AS n FROM q GROUP BY i % 10"}')
        rows = client.do_get(ticket, headers(traceparent=parent.traceparent)).read_all()
    assert sum(rows.column("n").to_pylist()) == TABLE.num_rows

    def is_whole():
        tree = parent.tree(receiver)
        ran = tree.named("RunQueryTask") and tree.named("ReadQueryTask") and tree.named("PlanTables")
        return tree if tree.is_complete() and tree.roots() and ran else None

    tree = wait_until(is_whole, 60, "the spans of the query")
    [root] = tree.roots()
    assert (root.name, root.member) == ("DoGet", peer_of(cluster, cluster.nodes[0]))
    tasks = tree.named("RunQueryTask")
    assert len({span.attributes["volley.query_id"] for span in tasks}) == 1
    assert root.member not in {span.member for span in tasks}, "its own tasks need no call"


def test_http_export_has_headers_and_follows_the_samplers(own, collector, tmp_path):
    receiver = collector("http")
    secret = tmp_path / "headers"
    secret.write_text("# of this test\nx-scope: volley\nauthorization: Bearer abc\n")
    options = ("--otlp-protocol", "http", "--otlp-sampling-ratio", "0", "--otlp-headers-file", str(secret))
    cluster = traced(own, receiver.url, *options, "--otlp-service-name", "tables")
    sampled, unsampled = ClientSpan(), ClientSpan(sampled=False)
    with cluster.client(cluster.nodes[0]) as client:
        put(client, "no", TABLE)
        traced_put(client, "no2", unsampled)
        traced_put(client, "yes", sampled)
    wait_until(lambda: sampled.tree(receiver).named("DoPut"), 60, "the sampled put")
    # What was not sampled came before.
    spans = receiver.all()
    assert {span.trace for span in spans} == {sampled.trace}
    assert {span.resource["service.name"] for span in spans} == {"tables"}
    assert all((sent["x-scope"], sent["authorization"]) == ("volley", "Bearer abc") for sent in list(receiver.headers))
    for member in cluster.members():
        assert "Bearer" not in member.log.read_text()


def scrape(member, port):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{member.host}:{port}/metrics", timeout=30) as answer:
        return families(answer.read().decode())


def test_collector_that_hangs_stalls_nothing(own):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        flags = ("--otlp-endpoint", url)
        cluster = own(coordinators=1, nodes=1, coordinator_options=flags, node_options=flags)
        node = cluster.nodes[0]
        with cluster.client(node) as client:
            for at in range(20):
                put(client, f"t{at}", TABLE)
            failed = lambda: value(scrape(node, 8836), "volley_trace_spans_total", result="failed")
            wait_until(lambda: failed() > 0, 60, "the spans are counted as lost")
            first = failed()
            # It fails again, and says nothing more.
            put(client, "again", TABLE)
            wait_until(lambda: failed() > first, 60, "further spans are counted, too")
            assert value(scrape(node, 8836), "volley_trace_spans_total", result="exported") == 0
        assert node.log.read_text().count("traces cannot be exported") == 1
        # The end waits for the collector for some seconds only.
        assert node.stop() == 0


def test_error_of_any_client_names_its_call_and_logs_have_it(own):
    cluster = own(coordinators=1, nodes=1)
    [coordinator], [node] = cluster.coordinators, cluster.nodes
    missing = b"\x08\x01" + field(3, b"missing")
    for member, port in ((node, 8816), (coordinator, 8815)):
        with grpc.insecure_channel(f"{member.host}:{port}") as channel:
            call = channel.unary_unary(SERVICE + "GetFlightInfo")
            with pytest.raises(grpc.RpcError) as error:
                call(missing, timeout=20)
            text = error.value.details()
            [name] = REQUEST.findall(text)
            assert text.count("(request ") == 1, text
            # Also of a call at the node: the coordinator refused it.
            wait_until(lambda: f'request_id="{name}"' in coordinator.log.read_text(), 20, f"{name} in the log")
            with pytest.raises(grpc.RpcError) as error:
                call(missing, metadata=[("x-request-id", "job-7")], timeout=20)
            assert error.value.details().endswith(" (request job-7)"), error.value.details()
            assert error.value.details().removesuffix("(request job-7)") == text.removesuffix(f"(request {name})")


def test_settings_that_cannot_work_are_refused(tmp_path):
    def refusal(*flags):
        command = [BIN / "volley-node", "--coordinators", "127.0.0.1:1", "--data-dir", tmp_path / "node", "--check-config", *flags]
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert ended.returncode != 0, ended.stdout
        return ended.stderr

    assert "http://127.0.0.1:4317" in refusal("--otlp-endpoint", "collector")
    missing = os.fspath(tmp_path / "absent")
    assert "cannot be read" in refusal("--otlp-endpoint", "http://127.0.0.1:4317", "--otlp-headers-file", missing)
    assert "--otlp-ca" in refusal("--otlp-endpoint", "https://127.0.0.1:4317", "--otlp-ca", missing)
