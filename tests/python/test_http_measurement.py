"""The program that measures Arrow over HTTP beside Flight runs, with a table too small to tell anything."""

import os
import pathlib
import subprocess
import sys

from cluster import BIN

PROGRAM = pathlib.Path(__file__).parents[1] / "bench" / "python" / "http_beside_flight.py"
WAYS = [
    "get, Flight", "get, HTTP, Arrow stream", "get, HTTP, Arrow stream in zstd", "get, HTTP, Parquet", "get, HTTP, CSV, not parsed",
    "put, Flight", "put, HTTP, Arrow stream",
]


def test_every_way_moves_all_rows():
    command = [sys.executable, PROGRAM, "--mib", "1", "--rounds", "1"]
    done = subprocess.run(command, env=os.environ | {"VOLLEY_BIN_DIR": str(BIN)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| get", "| put"))]
    assert [row[0].removeprefix("| ") for row in rows] == WAYS, done.stdout
    assert [row[2] for row in rows if "Flight" in row[0]] == ["1.00", "1.00"]
