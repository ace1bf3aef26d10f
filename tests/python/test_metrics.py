"""The metrics of members: what they count of puts, gets, queries, refused calls and failed logins."""

import urllib.request

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import put, wait_until
from identity_cluster import ADMIN, LOGIN, UserCluster, searched
from metrics_text import check_documented, documented, families, value
from sql_calls import command

ROWS = 100_000
TABLE = pa.table({"i": pa.array(range(ROWS), pa.int64())})


def scrape(cluster, member):
    """The metrics of a member of a cluster with users."""
    status, headers, text = cluster.http(member, "/metrics", authorization=f"Bearer {cluster.session(ADMIN)}")
    assert (status, headers.get_content_type()) == (200, "text/plain"), text
    return families(text)


def scrape_open(cluster, member):
    """The text of a member of an open cluster."""
    port = 8835 if member in cluster.coordinators else 8836
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{member.host}:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def calls(scraped, method, code):
    return value(scraped, "volley_requests_total", port="flight", method=method, code=code)


@pytest.fixture(scope="module")
def measured():
    """A cluster of one coordinator and two nodes, after one put, one get and one query at the first node."""
    cluster = UserCluster(coordinators=1, nodes=2, coordinator_options=("--metrics-tables", "1"))
    with cluster.client(cluster.nodes[0]) as client:
        put(client, "measured", TABLE, replicas=2)
        assert client.do_get(flight.Ticket(b"measured")).read_all().num_rows == ROWS
        query = flight.Ticket(command("SELECT sum(i) AS s FROM measured"))
        assert client.do_get(query).read_all().column("s").to_pylist() == [sum(range(ROWS))]
    yield from searched(cluster)


def test_nodes_count_puts_gets_copies_and_queries(measured):
    writer, other = measured.nodes
    # A call is counted when its reply has left the member, which may be after its client has read it.
    ended = lambda metrics: calls(metrics, "DoPut", "OK") == 1 and calls(metrics, "DoGet", "OK") == 2
    wait_until(lambda: ended(scrape(measured, writer)), 20, "the put and both gets are counted")
    scraped = [scrape(measured, node) for node in (writer, other)]
    for metrics in scraped:
        check_documented(metrics, "nodes")
        assert value(metrics, "volley_node_parts", state="held") >= 1
        assert value(metrics, "volley_node_part_bytes", state="held") > 1000
        assert value(metrics, "volley_fsync_duration_seconds_count") >= 1
        assert value(metrics, "volley_disk_total_bytes") > value(metrics, "volley_disk_free_bytes") > 0
        assert value(metrics, "volley_disk_watermark_ratio", mark="high") == 1.0
        for name in ("volley_in_session", "volley_node_is_writable", "volley_sessions_total"):
            assert value(metrics, name) >= 1, name
        for name in ("volley_puts", "volley_gets", "volley_queries", "volley_put_memory_bytes", "volley_get_memory_bytes"):
            assert value(metrics, name) == 0, name
        for name in ("volley_put_memory_limit_bytes", "volley_get_memory_limit_bytes", "volley_relay_memory_limit_bytes"):
            assert value(metrics, name) > 0, name
        assert value(metrics, "volley_connections", port="http", listener="") >= 1, "this one"
        assert value(metrics, "volley_scrub_oldest_verification_timestamp_seconds") > 1.7e9, "a new part is verified"
        assert value(metrics, "process_resident_memory_bytes") > 1 << 20
        assert value(metrics, "volley_runtime_workers") >= 1
    at_writer, at_other = scraped
    assert calls(at_other, "DoPut", "OK") == 0
    assert value(at_writer, "volley_put_rows_total") == ROWS
    assert value(at_writer, "volley_put_bytes_total") >= 8 * ROWS
    assert value(at_writer, "volley_put_commit_duration_seconds_count") >= 1
    assert value(at_writer, "volley_get_rows_total") == ROWS and value(at_other, "volley_get_rows_total") == 0
    assert value(at_writer, "volley_get_bytes_total") > 1000
    assert value(at_writer, "volley_request_duration_seconds_count", port="flight", method="DoGet") >= 2
    assert value(at_writer, "volley_request_first_byte_seconds_count", port="flight", method="DoGet") == 2
    assert value(at_writer, "volley_query_duration_seconds_count") == 1
    assert value(at_writer, "volley_query_memory_limit_bytes") > 0
    assert value(at_other, "volley_part_copies_ended_total", kind="put", result="ok") >= 1
    assert value(at_other, "volley_part_copy_bytes_total", kind="put") > 1000
    assert value(at_other, "volley_part_copy_duration_seconds_count", kind="put") >= 1
    assert value(at_other, "volley_part_copies", kind="put") == 0


def test_coordinators_count_catalog_raft_and_logins(measured):
    [coordinator] = measured.coordinators
    with measured.client(coordinator, user=None) as client, pytest.raises(flight.FlightUnauthenticatedError):
        client.authenticate_basic_token(ADMIN, "a wrong password", LOGIN)
    wait_until(lambda: calls(scrape(measured, coordinator), "Handshake", "UNAUTHENTICATED"), 20, "the login is counted")
    metrics = scrape(measured, coordinator)
    check_documented(metrics, "coordinators")
    assert value(metrics, "volley_logins_total", result="wrong") == 1
    assert value(metrics, "volley_logins_total", result="accepted") >= 1
    for name, expected in {
        "volley_tables": 1, "volley_tables_rows": ROWS, "volley_nodes": 2, "volley_nodes_alive": 2, "volley_node_sessions": 2,
        "volley_is_leader": 1, "volley_has_leader": 1, "volley_diverged_coordinators": 0, "volley_open_writes": 0,
        "volley_parts_under_replicated": 0, "volley_parts_unreadable": 0, "volley_repair_backlog_bytes": 0,
        "volley_breakers_open": 0,
    }.items():
        assert value(metrics, name) == expected, name
    assert value(metrics, "volley_table_rows", table="measured") == ROWS
    assert value(metrics, "volley_table_bytes", table="measured") == value(metrics, "volley_tables_bytes") > 0
    assert value(metrics, "volley_raft_role", role="leader") == 1 == value(metrics, "volley_raft_role")
    for name in (
        "volley_raft_term", "volley_applied_index", "volley_raft_last_log_index", "volley_parts", "volley_catalog_file_bytes",
        "volley_catalog_commit_duration_seconds_count", "volley_raft_leader_changes_total",
    ):
        assert value(metrics, name) >= 1, name
    members = {"port": "peer", "code": "OK"}
    assert value(metrics, "volley_requests_total", method="BeginWrite", **members) == 1
    assert value(metrics, "volley_requests_total", method="CommitWrite", **members) >= 1


def test_refused_calls_are_counted_by_their_code(measured):
    for member in measured.members():
        before = scrape(measured, member)
        with measured.client(member) as client, pytest.raises((flight.FlightError, KeyError)):
            client.do_get(flight.Ticket(b"no/such/table")).read_all()
        with measured.client(member, user=None) as client, pytest.raises(flight.FlightUnauthenticatedError):
            list(client.list_flights())
        for method, code in (("DoGet", "NOT_FOUND"), ("ListFlights", "UNAUTHENTICATED")):
            counted = calls(before, method, code) + 1
            wait_until(lambda: calls(scrape(measured, member), method, code) == counted, 20, f"{method} {code} at {member.name}")
        assert value(scrape(measured, member), "volley_authentications_total", result="accepted") >= 1


def test_coordinator_without_a_majority_has_no_leader(own):
    cluster = own(coordinators=3, nodes=1)
    survivor, *others = cluster.coordinators
    has_leader = lambda: value(families(scrape_open(cluster, survivor)), "volley_has_leader")
    wait_until(lambda: has_leader() == 1, 20, "there is a leader")
    for other in others:
        other.kill()
    # Also a follower, which still knows whom it followed.
    wait_until(lambda: has_leader() == 0, 30, "nobody leads")


def test_unknown_methods_share_a_label(shared, name):
    import grpc

    for member in (shared.coordinators[0], shared.nodes[0]):
        with grpc.insecure_channel(shared.address(member).partition("://")[2]) as channel:
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(f"/arrow.flight.protocol.FlightService/{name.replace('/', '')}")(b"", timeout=20)
        other = lambda: value(families(scrape_open(shared, member)), "volley_requests_total", method="other")
        wait_until(other, 20, "the call is counted")
        assert name.replace("/", "") not in scrape_open(shared, member)


def test_names_of_tables_are_in_no_metric(shared, client, name):
    put(client, name, TABLE)
    for member in shared.members():
        text = scrape_open(shared, member)
        assert name not in text
        check_documented(families(text), "coordinators" if member in shared.coordinators else "nodes")


def test_page_has_every_role_and_kind():
    rows = documented().values()
    assert len(rows) > 100
    assert {kind for kind, _, _ in rows} == {"counter", "gauge", "histogram"}
    assert {owner for _, _, owner in rows} == {"all members", "coordinators", "nodes"}
