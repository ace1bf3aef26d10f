import uuid

import pytest

from cluster import Cluster


@pytest.fixture(scope="session")
def shared():
    """A cluster shared by all tests that stop no process: 3 coordinators, 4 nodes."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def client(shared):
    return shared.client()


@pytest.fixture
def name():
    """A table's name that no other test uses."""
    return f"t/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def own():
    """Makes clusters of a test's own; their logs are shown if it fails."""
    made = []

    def make(**options):
        made.append(Cluster(**options))
        return made[-1]

    yield make
    for cluster in made:
        for member in cluster.members():
            print(f"--- {member.name}\n{member.tail()}")
        cluster.close()


@pytest.fixture(autouse=True)
def logs(request):
    """Shows the logs of the shared cluster if a test fails."""
    yield
    if "shared" in request.fixturenames:
        for member in request.getfixturevalue("shared").members():
            print(f"--- {member.name}\n{member.tail()}")
