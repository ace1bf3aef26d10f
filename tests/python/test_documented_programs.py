"""Programs in Python of pages that are not run as a whole, as they stand there, against a cluster in place of the one of `volley dev`."""

import pathlib
import re
import subprocess
import sys

import pytest

from cluster import environment

ROOT = pathlib.Path(__file__).parents[2]
ADDRESS = "grpc://127.0.0.1:8815"
PAGES = ("README.md", "docs/options.md")
SECONDS = 120


def programs():
    """Each block of Python of the pages, named by its page and number."""
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        assert blocks, page
        for number, code in enumerate(blocks):
            yield pytest.param(code, id=f"{page}-{number}")


@pytest.mark.parametrize("code", list(programs()))
def test_documented_program_runs(shared, code, tmp_path):
    address = shared.address(shared.coordinators[0])
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, address)],
        cwd=tmp_path,
        env=environment() | {"VOLLEY_CLUSTER": address},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"
