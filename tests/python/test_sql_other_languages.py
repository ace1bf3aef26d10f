"""SQL by the clients of other languages, of tests/clients: the JDBC driver of Arrow Flight SQL, and arrow-go's Flight SQL client. Both do
the same by TLS with a service token, JDBC also with a password: tables, metadata, prepared statements, time limits, cancellation, errors.
What they print is compared here."""

import json
import os
import subprocess

import pytest

from identity_cluster import UserTlsCluster, searched
from toolchains import build, require

SECONDS = 300
SUM = 1 + 2 + sum(range(10, 110))
# What a client finds, in every language.
FOUND = {
    "server": "Volley",
    "tables": ["orders"],
    "columns": ["id NOT NULL", "kind", "price", "day", "seen"],
    "keys": 0,
    "created": 0,
    "inserted": 2,
    "batch": 100,
    "rows": 102,
    "sum": SUM,
    "total": [102, SUM],
    "prepared": [
        "12 0.50 2026-01-03 2026-03-01T00:00:02.789",
        "14 1.00 2026-01-05 2026-03-01T00:00:04.789",
        "51 10.25 2026-01-14 2026-03-01T00:00:41.789",
        "53 10.75 2026-01-16 2026-03-01T00:00:43.789",
    ],
    # From the minute on; the client binds a timestamp, which is in milliseconds for JDBC.
    "later": 40,
    "empty": 0,
    "timed_out": True,
    "cancelled": True,
    "after": 1,
    "dropped": 0,
    "remaining": [],
}


@pytest.fixture(scope="module")
def go_client(client_sources):
    require("go")
    build(client_sources / "go", "go", "build", "-o", "sql-client", "./sql")
    return [str(client_sources / "go" / "sql-client")]


@pytest.fixture(scope="module")
def jdbc_client(jdbc_target):
    # JDBC gives times without a zone in that of the process.
    options = ["--add-opens=java.base/java.nio=ALL-UNNAMED", "-Duser.timezone=UTC"]
    return ["java", *options, "-cp", f"{jdbc_target / 'classes'}:{jdbc_target / 'libraries'}/*", "volley.SqlClient"]


@pytest.fixture(scope="module")
def cluster():
    yield from searched(UserTlsCluster(coordinators=1, nodes=2))


def check(command, cluster, language, expected, by_password=False):
    user = cluster.add_user(("owner", f"sql/{language}"))
    login = {"VOLLEY_USER": user, "VOLLEY_PASSWORD": cluster.passwords[user]} if by_password else {"VOLLEY_TOKEN": cluster.token(user)}
    cluster.settle()
    for member in (cluster.coordinators[0], cluster.nodes[1]):
        address, schema = cluster.address(member).removeprefix("grpc+tls://"), f"sql/{language}/{member.name}"
        done = subprocess.run(
            [*command, address, str(cluster.authority.ca), schema],
            env=os.environ | login, capture_output=True, text=True, timeout=SECONDS,
        )
        assert done.returncode == 0, f"{member.name}: {done.stdout}\n{done.stderr}"
        found = json.loads(done.stdout)
        assert "nothing_here" in found.pop("missing")
        assert "CREATE OR REPLACE TABLE" in found.pop("delete")
        assert found == expected | {"schemas": [schema]}, done.stderr


def test_go_client_runs_sql_by_tls_with_a_token(go_client, cluster):
    check(go_client, cluster, "go", FOUND | {"ingested": 6, "tables": ["ingested", "orders"]})


def test_jdbc_driver_runs_sql_by_tls_with_a_token(jdbc_client, cluster):
    check(jdbc_client, cluster, "jdbc", FOUND)


def test_jdbc_driver_runs_sql_by_tls_with_a_password(jdbc_client, cluster):
    """It logs in at each location of an endpoint, too, so nodes must answer its handshakes."""
    check(jdbc_client, cluster, "jdbc-password", FOUND, by_password=True)
