"""A host with several records: clients try each of its addresses, of both families. The records are those of an /etc/hosts that only the
client sees."""

import shutil
import subprocess
import sys

import pytest
from cluster import BIN, environment

HOST = "several.volley.test"
#: Mounts the file that is its first argument, and runs the others.
WITH_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


def run(hosts, *command):
    namespace = ["unshare", "--mount", "sh", "-c", WITH_HOSTS, "sh", hosts]
    variables = environment() | {"XDG_CONFIG_HOME": "/nonexistent"}
    return subprocess.run(
        [str(word) for word in (*namespace, *command)], capture_output=True, text=True, timeout=120, env=variables
    )


@pytest.fixture
def hosts(tmp_path):
    """Writes the file: the addresses of the host, in their order."""
    file = tmp_path / "hosts"

    def write(*addresses):
        file.write_text("".join(f"{address} {HOST}\n" for address in addresses) + "127.0.0.1 localhost\n")
        return file

    if not shutil.which("unshare") or run(write("127.0.0.1"), "true").returncode != 0:
        pytest.skip("not on this machine: a mount namespace of one's own, which needs root")
    return write


def test_each_record_of_a_host_is_tried(shared, hosts):
    answers, dead = shared.coordinators[0].host, f"{shared.net}.250"
    address = f"grpc://{HOST}:8815"
    for records in ([answers], [dead, answers], [answers, dead], ["::1", dead, answers], [dead, "::1", answers]):
        found = run(hosts(*records), BIN / "volley", "whoami", "--cluster", address)
        assert found.returncode == 0, (records, found)
    program = f"import volley; print(len(volley.connect({address!r}, timeout=30).cluster()['nodes']))"
    found = run(hosts("::1", dead, answers), sys.executable, "-c", program)
    assert found.stdout.strip() == str(len(shared.nodes)), found


def test_host_whose_records_are_all_dead_is_named(shared, hosts):
    for records in ([f"{shared.net}.250"], ["::1", f"{shared.net}.250"]):
        found = run(hosts(*records), BIN / "volley", "whoami", "--cluster", f"grpc://{HOST}:8815")
        assert found.returncode == 1 and f"{HOST}:8815" in found.stderr, (records, found)
