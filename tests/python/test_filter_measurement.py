"""The program that measures filters at the nodes beside a full fetch runs, with a table too small to tell anything."""

import os
import pathlib
import subprocess
import sys

from cluster import BIN

PROGRAM = pathlib.Path(__file__).parents[1] / "bench" / "python" / "filters_beside_fetch.py"
SELECTIVITIES = ["0.1%", "1.0%", "10.0%", "50.0%", "100.0%"]
WAYS = [
    "full fetch, filter in the client", "fetch of four columns, filter in the client",
    "filter at the nodes, pyarrow", "filter at the nodes, ADBC",
]


def test_every_way_selects_the_same_rows():
    command = [sys.executable, PROGRAM, "--mib", "4", "--rounds", "1", "--nodes", "2"]
    done = subprocess.run(command, env=os.environ | {"VOLLEY_BIN_DIR": str(BIN)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "%" in line and line.startswith("|")]
    assert [line[:2] for line in lines] == [[share, way] for share in SELECTIVITIES for way in WAYS], done.stdout
    counts = [int(line[2]) for line in lines if line[1] == WAYS[0]]
    assert counts == sorted(set(counts)) and counts[-1] == 4 * 2**20 // (8 * 64), "each share has more rows than the one before"
    assert "goal: faster than a full fetch up to 50%: " in done.stdout
