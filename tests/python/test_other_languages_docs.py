"""The programs of docs/clients.md, as they stand there: each puts a table and gets all of its rows, by TLS with a token from a
cluster one of whose nodes its clients cannot reach, and without both from another one."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from cluster import action, descriptor, environment, get
from identity_cluster import UserTlsCluster, searched
from toolchains import build, require

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "clients.md"
# What every program puts, and prints.
TABLE, ROWS = "examples/trips", 10_000
SECONDS = 600
# The shell of a block of commands finds the Python that runs the tests, and ends at the first command that fails.
SHELL = {"PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
COMMANDS = ["bash", "-ec"]


def block(section, language):
    """The one block of code in a language that a section of the page has."""
    [body] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    return code


def in_python(section, folder, request):
    (folder / "trips.py").write_text(block(section, "python"))
    return [sys.executable, "trips.py"]


def in_go(section, folder, request):
    require("go")
    # In the module of the other client, which has the versions of the dependencies.
    module = request.getfixturevalue("client_sources") / "go"
    (module / "documented").mkdir(exist_ok=True)
    (module / "documented" / "main.go").write_text(block(section, "go"))
    build(module, "go", "build", "-o", str(folder / "trips"), "./documented")
    return ["./trips"]


def in_java(section, folder, request):
    target = request.getfixturevalue("java_target" if section == "Java" else "jdbc_target")
    (folder / "Trips.java").write_text(block(section, "java"))
    (folder / "libraries").symlink_to(target / "libraries")
    return [*COMMANDS, block(section, "sh")]


def in_cpp(section, folder, request):
    require("g++")
    (folder / "trips.cc").write_text(block(section, "cpp"))
    build(folder, *COMMANDS, block(section, "sh"), env=os.environ | SHELL)
    return ["./trips"]


PROGRAMS = {
    "pyarrow": in_python,
    "ADBC in Python": in_python,
    "DuckDB": in_python,
    "Polars": in_python,
    "Go": in_go,
    "Java": in_java,
    "JDBC": in_java,
    "C++": in_cpp,
}
# These do not say into how many shards their few rows go.
WITHOUT_SHARDS = {"DuckDB", "Polars"}


@pytest.fixture(scope="module")
def program(request, tmp_path_factory):
    """The program of a section, built: the section, the folder in which it runs, its command."""
    section, folder = request.param, tmp_path_factory.mktemp("program")
    return section, folder, PROGRAMS[section](section, folder, request)


class PartlyReachableCluster(UserTlsCluster):
    """At the listener `outer` the first node has an address at which nothing listens."""

    def __init__(self):
        super().__init__(listeners=("inner", "outer"), coordinators=1, nodes=2)

    @property
    def dead_address(self):
        return f"grpc+tls://{self.net}.253:9816"

    def _flags(self, name, host, port):
        flags = super()._flags(name, host, port)
        return [*flags, "--advertise", f"outer={self.dead_address}"] if name == "node1" else flags


@pytest.fixture(scope="module")
def partly_reachable():
    """Such a cluster, with a token for the table of the programs."""
    for cluster in searched(PartlyReachableCluster()):
        token = cluster.token(cluster.add_user(("owner", TABLE.partition("/")[0])))
        cluster.settle()
        yield cluster, token


def run(program, **variables):
    _, folder, command = program
    done = subprocess.run(
        command, cwd=folder, env=environment() | SHELL | variables, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stdout) == (0, f"{ROWS} rows\n"), f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("program", PROGRAMS, indirect=True)
def test_documented_program_reads_past_a_dead_location(program, partly_reachable):
    cluster, token = partly_reachable
    address = cluster.address(cluster.coordinators[0], "outer")
    run(program, VOLLEY_CLUSTER=address, VOLLEY_TLS_CA=str(cluster.authority.ca), VOLLEY_TOKEN=token)
    assert cluster.rows(TABLE).num_rows == ROWS
    with cluster.client(listener="outer") as client:
        endpoints = client.get_flight_info(descriptor(TABLE)).endpoints
    assert len(endpoints) == 4 or program[0] in WITHOUT_SHARDS
    # Of every other endpoint it is the first one.
    assert cluster.dead_address in {location.uri.decode() for endpoint in endpoints for location in endpoint.locations}


FIRST, *OTHERS = PROGRAMS


@pytest.mark.parametrize(
    "program", [FIRST, *(pytest.param(section, marks=pytest.mark.release) for section in OTHERS)], indirect=True
)
def test_documented_program_needs_neither_tls_nor_token(program, shared):
    run(program, VOLLEY_CLUSTER=shared.address(shared.nodes[0]))
    assert get(shared.client(), TABLE).num_rows == ROWS
    action(shared.client(), "drop_table", {"table": TABLE})
