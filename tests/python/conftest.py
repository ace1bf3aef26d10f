import pathlib
import shutil
import uuid

import pytest

from cluster import Cluster
from identity_cluster import UserCluster, searched
from toolchains import build_by_maven

CLIENTS = pathlib.Path(__file__).parent.parent / "clients"


@pytest.fixture(scope="session")
def shared():
    """A cluster shared by all tests that stop no process: 3 coordinators, 4 nodes."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def secured():
    """A cluster with users, shared by all tests that stop no process and fail no login: 3 coordinators, 2 nodes."""
    yield from searched(UserCluster(coordinators=3, nodes=2))


@pytest.fixture
def client(shared):
    return shared.client()


@pytest.fixture
def name():
    """A table's name that no other test uses."""
    return f"t/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def client_sources(tmp_path_factory):
    """A copy of tests/clients, so that builds leave nothing in the project's folder."""
    return shutil.copytree(CLIENTS, tmp_path_factory.mktemp("clients") / "clients")


@pytest.fixture(scope="session")
def java_target(client_sources):
    """The classes of tests/clients/java, and its libraries."""
    return build_by_maven(client_sources / "java")


@pytest.fixture(scope="session")
def jdbc_target(client_sources):
    """The same of tests/clients/jdbc."""
    return build_by_maven(client_sources / "jdbc")


def made(kind):
    """Makes clusters of a kind; their logs are shown if the test fails."""
    clusters = []

    def make(**options):
        clusters.append(kind(**options))
        return clusters[-1]

    yield make
    for cluster in clusters:
        for member in cluster.members():
            print(f"--- {member.name}\n{member.tail()}")
        cluster.close()


@pytest.fixture
def own():
    """Makes clusters of a test's own."""
    yield from made(Cluster)


@pytest.fixture
def own_secured():
    """The same, with users."""
    yield from made(UserCluster)


@pytest.fixture(autouse=True)
def logs(request):
    """Shows the logs of the shared clusters if a test fails."""
    yield
    for shared in {"shared", "secured"} & set(request.fixturenames):
        for member in request.getfixturevalue(shared).members():
            print(f"--- {member.name}\n{member.tail()}")
