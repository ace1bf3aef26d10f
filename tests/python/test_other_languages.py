"""Clients in Go and Java, of tests/clients: a login with a password by TLS, a put, and a get of every endpoint from each of its
locations with the bearer of that login. Built by the toolchains of the languages; skipped where one is missing."""

import json
import os
import subprocess

import pytest

from identity_cluster import UserTlsCluster, searched
from toolchains import build, java_command, require

ROWS = 4_000


@pytest.fixture(scope="module")
def go_client(client_sources):
    require("go")
    build(client_sources / "go", "go", "build", "-o", "client", ".")
    return [str(client_sources / "go" / "client")]


@pytest.fixture(scope="module")
def java_client(java_target):
    return java_command(java_target, "volley.Client")


@pytest.fixture
def cluster():
    """A new one for each language: every run fails a login, and the third failure slows the next login down."""
    yield from searched(UserTlsCluster(coordinators=1, nodes=2))


def check(command, cluster):
    user = cluster.add_user(("writer", "other"))
    for member in (cluster.coordinators[0], cluster.nodes[1]):
        address, table = cluster.address(member).removeprefix("grpc+tls://"), f"other/{member.name}"
        done = subprocess.run(
            [*command, address, str(cluster.authority.ca), user, table],
            env=os.environ | {"VOLLEY_PASSWORD": cluster.passwords[user]}, capture_output=True, text=True, timeout=120,
        )
        assert done.returncode == 0, f"{member.name}: {done.stdout}\n{done.stderr}"
        found = json.loads(done.stdout)
        assert (found["rows"], found["sum"], found["endpoints"]) == (ROWS, ROWS * (ROWS - 1) // 2, 4), found
        assert found["locations"] == sorted(cluster.address(node) for node in cluster.nodes), found
        assert {found["without_token"].upper(), found["wrong_password"].upper()} == {"UNAUTHENTICATED"}, found
        assert cluster.rows(table).num_rows == ROWS


def test_go_client_logs_in_puts_and_gets_by_tls(go_client, cluster):
    check(go_client, cluster)


def test_java_client_logs_in_puts_and_gets_by_tls(java_client, cluster):
    check(java_client, cluster)
