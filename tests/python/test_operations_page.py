"""The small cluster with TLS, users and an audit log of docs/operations.md, as it stands there: so at its addresses, which must be free."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from cluster import BIN, environment
from toolchains import require

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "operations.md"
SECTION = "### A small cluster with TLS, users and an audit log\n"
PORTS = (8815, 8816, 8817, 8825, 8826, 8827, 8835, 8836, 8837)
# What the text below the commands says.
READ = """
import pyarrow.flight as flight

client = flight.connect("grpc+tls://127.0.0.1:8815", tls_root_certs=open("clients/ca.crt").read())
options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + open("token", "rb").read().strip())])
print("read", client.do_get(flight.Ticket(b"sales/eu"), options).read_all().num_rows)
"""
SECONDS = 180


def commands():
    """The block of the section."""
    body = PAGE.read_text().partition(SECTION)[2].partition("\n### ")[0]
    [block] = re.findall(r"(?:^    .*\n|^\n(?=    ))+", body, re.MULTILINE)
    return textwrap.dedent(block)


def skip_unless_free():
    for port in PORTS:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError as error:
            pytest.skip(f"127.0.0.1:{port}: {error}")


@pytest.mark.alone
def test_small_cluster_with_tls_and_users_starts_as_written(tmp_path):
    require("bash", "openssl")
    skip_unless_free()
    path = os.pathsep.join([str(BIN), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "XDG_CONFIG_HOME": str(tmp_path), "no_proxy": "*"}
    (tmp_path / "read.py").write_text(READ)
    script = f"trap 'kill $(jobs -p); wait' EXIT\n{commands()}\npython read.py\n"
    with open(tmp_path / "printed", "w+") as printed:
        shell = subprocess.Popen(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=environment() | own,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            shell.wait(SECONDS)
        finally:
            # Also the servers of a shell that did not end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        printed.seek(0)
        text = printed.read()
    logs = "\n".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert shell.returncode == 0 and "read 1" in text.splitlines(), f"{text}\n{logs}"
    lines = [json.loads(line) for line in (tmp_path / "coordinator-1-audit.json").read_text().splitlines()]
    assert lines, "administration is in the audit log"
