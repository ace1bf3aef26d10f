"""The commands and the program of docs/http.md, as they stand there."""

import os
import pathlib
import re
import subprocess
import sys

import pyarrow.parquet

from cluster import environment
from toolchains import require

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "http.md"
ADDRESS = "export VOLLEY=http://127.0.0.1:8835\n"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_commands_of_the_page_run_as_written(own, tmp_path):
    require("curl")
    cluster = own(coordinators=1, nodes=1)
    variables = environment() | {"VOLLEY": f"http://{cluster.coordinators[0].host}:8835"}
    first, *commands = blocks("sh")
    assert first == ADDRESS
    script = "\n".join(["export no_proxy='*'", *commands])
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    # The first two columns of two rows, and the sums by day.
    assert "id,fare\n1,12.5\n2,7.25\n" in done.stdout, done.stdout
    assert "day,fares\n2026-01-30,12.5\n2026-01-31,7.25\n2026-02-01,30" in done.stdout, done.stdout
    assert '"statement":"CREATE"' in done.stdout, done.stdout
    assert pyarrow.parquet.read_table(tmp_path / "trips.parquet").num_rows == 4
    rows = pyarrow.ipc.open_stream((tmp_path / "trips.arrows").read_bytes()).read_all()
    assert rows.column("id").to_pylist() == [1, 2, 3, 4]
    [program] = blocks("python")
    variables |= {"no_proxy": "*", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("4 rows of version "), f"{done.stdout}\n{done.stderr}"
