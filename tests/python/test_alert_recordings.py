"""Alert rules and dashboard of the chart on recorded scrapes of a real cluster: no alert fires while it works, each fault fires the
alerts that are for it, and the queries of the dashboard find what they ask for. tests/deploy/alerts.test.yml has the alerts whose
faults take longer, or other machines, than a test has."""

import contextlib
import importlib.util
import pathlib
import re
import signal
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from cluster import get, put, wait_until
from scrape_recording import ScrapeRecording
from sql_calls import command
from toolchains import require

ALERTS = pathlib.Path(__file__).parents[1] / "deploy" / "alerts.py"
TABLE = pa.table({"i": pa.array(range(20_000), pa.int64())})
# How much disk is free, and how fast disk and processors are, is not up to the cluster.
OF_THE_MACHINE = "VolleyDiskFills|VolleyDiskDegraded|VolleySlowDisk|VolleySlowCatalog|VolleySlowPlans"
# Queries with these find nothing while nothing fails.
OF_FAILURES = ('code!="OK"', 'result="failed"', 'result!="accepted"')
# The variables of the dashboard that name members.
JOBS = {"$coordinators": "volley-coordinator", "$nodes": "volley-node"}
# Parts are verified every 9 seconds.
SCRUBBED = ("--scrub-days", "0.0001")


@pytest.fixture(scope="module")
def alerts():
    """The module that checks the rules without a cluster."""
    spec = importlib.util.spec_from_file_location("alerts", ALERTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(expressions):
    """The metrics that expressions name."""
    return {name for text in expressions for name in re.findall(r"\b(?:volley|process)_\w+", text)}


def fired(alert):
    """1 if the alert has fired at any time."""
    return f'group(last_over_time(ALERTS{{alertstate="firing", alertname="{alert}"}}[1d]))'


def write_read_and_query(cluster):
    client = cluster.client(cluster.nodes[0])
    put(client, "work", TABLE, shards=4, shard_by=["i"])
    assert get(cluster.client(), "work").num_rows == TABLE.num_rows
    assert client.do_get(flight.Ticket(command("SELECT sum(i) AS s FROM work"))).read_all().num_rows == 1


def read_what_one_node_has(cluster):
    """Some of these calls need the node that hangs, and fail."""
    with contextlib.suppress(flight.FlightError, pa.ArrowException):
        for member in (cluster.coordinators[0], cluster.nodes[0]):
            cluster.client(member).do_get(flight.Ticket(b"single"), flight.FlightCallOptions(timeout=10)).read_all()


@contextlib.contextmanager
def repeated(work, cluster):
    """Does some work again and again, beside what follows; its errors are those of the test."""
    stop, failed = threading.Event(), []

    def run():
        try:
            while not stop.is_set():
                work(cluster)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def damage(part):
    """Changes a byte in the middle of a file."""
    part.chmod(0o600)
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    # In place: another file would have another identity.
    with open(part, "r+b") as file:
        file.write(content)


def damage_a_part(cluster, recording):
    damage(next((cluster.nodes[0].folder / "parts").rglob("*.arrow")))
    recording.until(lambda of: of.last("volley_node_parts", 'state="quarantined"') > 0, "the damaged part is found")
    return {"VolleyPartsDamaged"}


def hang_a_node(cluster, recording):
    cluster.nodes[2].signal(signal.SIGSTOP)
    with repeated(read_what_one_node_has, cluster):
        recording.until(lambda of: of.last("volley_breakers_open") > 0, "the node that hangs is found")
        recording.make(4)
        cluster.nodes[2].signal(signal.SIGCONT)
    wait_until(lambda: cluster.alive_nodes() == 3, 60, "the node is back")
    return {"VolleyMemberHangs", "VolleyMemberDown"}


def kill_a_node(cluster, recording):
    cluster.nodes[1].kill()
    is_known = lambda of: of.last("volley_parts_under_replicated") > 0 and of.last("volley_parts_unreadable") > 0
    recording.until(is_known, "the loss of a node is known")
    recording.make(33)
    return {"VolleyNodeLost", "VolleyPartsUnreadable", "VolleyPartsUnderReplicated"}


def kill_a_majority(cluster, recording):
    for coordinator in cluster.coordinators[:2]:
        coordinator.kill()
    is_known = lambda of: of.last("volley_has_leader") == 0 and of.last("volley_in_session") == 0
    recording.until(is_known, "nobody leads")
    recording.make(8)
    return {"VolleyNoLeader", "VolleyNodeNotInSession"}


@pytest.mark.alone
def test_alerts_fire_on_their_faults_and_on_no_healthy_cluster(own, alerts):
    require("promtool")
    queries = alerts.queries()
    for variable, value in (alerts.VARIABLES | JOBS).items():
        queries = [text.replace(variable, value) for text in queries]
    rules = [rule["expr"] for rule in alerts.rules()]
    # A node that returns too late is repaired first: then there is nothing to be alerted to.
    patient = ("--repair-delay-ms", "600000", "--metrics-tables", "3")
    cluster = own(coordinators=3, nodes=3, coordinator_options=patient, node_options=SCRUBBED)
    for name, replicas in (("kept", 2), ("single", 1)):
        put(cluster.client(), name, TABLE, shards=8, shard_by=["i"], replicas=replicas)
    recording = ScrapeRecording(cluster, named([*queries, *rules]))
    recording.make(3)
    with repeated(write_read_and_query, cluster):
        recording.until(lambda of: of.last("volley_scrub_bytes_total") > 0, "parts are verified", least=20)
        # A rate needs two samples.
        recording.make(2)
    healthy = recording.minute()
    any_alert = f'group by (alertname) (last_over_time(ALERTS{{alertstate="firing", alertname!~"{OF_THE_MACHINE}"}}[1d]))'
    checks = [(any_alert, healthy, [])]
    # What has just begun to be recorded has no rate yet.
    recorded = recording.recorded(3)
    found = [text for text in queries if named([text]) <= recorded and not any(word in text for word in OF_FAILURES)]
    assert len(found) > 40, sorted(set(queries) - set(found))
    checks += [(f"group({text})", healthy, [1]) for text in found]
    for fault in (damage_a_part, hang_a_node, kill_a_node, kill_a_majority):
        for alert in fault(cluster, recording):
            checks.append((fired(alert), recording.minute(), [1]))
    wrong = recording.check(alerts.RULES, checks)
    assert not wrong, wrong
