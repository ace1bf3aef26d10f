"""Pages of docs/how-to: their blocks of `sh` and Python in their order, as they stand there, against a cluster in place of the one of
`volley dev`. What is indented there needs a storage service, a second cluster or a person, and is not run."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from cluster import BIN, environment, get
from toolchains import require

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "how-to"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLIGHT, HTTP = "grpc://127.0.0.1:8815", "http://127.0.0.1:8835"
SECONDS = 120


class Guide:
    """A page, its cluster, and the folder in which its blocks run."""

    def __init__(self, page, cluster, folder):
        self.blocks = BLOCK.findall((FOLDER / page).read_text())
        assert self.blocks, page
        self.cluster, self.folder = cluster, folder

    def run(self):
        """Runs all blocks; returns what they print."""
        [coordinator] = self.cluster.coordinators
        address = self.cluster.address(coordinator)
        path = os.pathsep.join([str(BIN), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "VOLLEY_CLUSTER": address, "XDG_CONFIG_HOME": str(self.folder), "NO_COLOR": "1", "no_proxy": "*"}
        printed = ""
        for language, code in self.blocks:
            command = ["bash", "-euc"] if language == "sh" else [sys.executable, "-c"]
            code = code.replace(FLIGHT, address).replace(HTTP, f"http://{coordinator.host}:8835")
            done = subprocess.run(
                [*command, code],
                cwd=self.folder,
                env=environment() | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}"
            printed += done.stdout
        return printed

    def rows(self, table):
        return get(self.cluster.client(), table)


@pytest.fixture
def guide(own, tmp_path):
    """Gives the guide of a page a cluster of two nodes."""
    return lambda page: Guide(page, own(coordinators=1, nodes=2), tmp_path)


def test_large_tables(guide):
    of = guide("large-tables.md")
    printed = of.run().split()
    assert printed.count("27000") == 1, "the load that was continued has all files, each once"
    assert of.rows("sales/archive").num_rows == 4_000


def test_keyed_tables(guide):
    of = guide("keyed-tables.md")
    of.run()
    regions = of.rows("sales/regions").to_pylist()
    assert {row["region"]: row["orders"] for row in regions} == {"eu": 3_000, "us": 6_000}
    assert of.rows("sales/returns").num_rows == 0


def test_backup(guide):
    of = guide("backup.md")
    assert "9000" in of.run().split()
    assert of.rows("sales/orders").num_rows == of.rows("sales/check").num_rows == 9_000


def test_read_a_table(guide):
    require("curl")
    of = guide("read-a-table.md")
    printed = of.run()
    for rows in ("1800 rows", "10000 rows", "100 rows"):
        assert rows in printed.splitlines(), printed
    assert "id,fare" in printed.splitlines(), printed
    assert {"rides.parquet", "rides.arrows"} <= {path.name for path in of.folder.iterdir()}
