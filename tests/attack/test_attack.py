"""Every attack in its short form: once, with a twentieth of the streams and connections. Others' latencies are printed only.

`VOLLEY_ATTACK=open` takes a cluster without users.
"""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from attack import SHORT  # noqa: E402
from attack_cluster import AttackCluster  # noqa: E402
from bystander import Bystander  # noqa: E402
from suite import chosen, run_attack, undisturbed  # noqa: E402

IS_OPEN = os.environ.get("VOLLEY_ATTACK") == "open"
# It measures memory and latencies.
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def attacked():
    """A cluster, another client, and how long that one's calls take undisturbed."""
    cluster = AttackCluster(IS_OPEN)
    bystander = Bystander(cluster)
    yield cluster, bystander, undisturbed(bystander, 2)
    bystander.close()
    cluster.close()


@pytest.mark.parametrize("attack", chosen([], IS_OPEN), ids=lambda attack: attack.name)
def test_attack_does_no_harm(attacked, attack):
    cluster, bystander, quiet = attacked
    if not all(member.alive() for member in cluster.members()):
        pytest.skip("an earlier attack has ended a member")
    verdict = run_attack(cluster, bystander, attack, SHORT)
    print(verdict.notes, verdict.memory, *verdict.slower(quiet), sep="\n")
    for member in cluster.members():
        print(f"--- {member.name}\n{member.tail()}")
    assert not verdict.failures, "\n".join(verdict.failures)
