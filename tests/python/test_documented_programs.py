"""Programs in Python of pages that are not run as a whole, as they stand there, against a cluster in place of the one of `volley dev`."""

import pathlib
import re
import subprocess
import sys

import pyarrow as pa
import pytest

from cluster import environment, put

ROOT = pathlib.Path(__file__).parents[2]
ADDRESS = "grpc://127.0.0.1:8815"
PAGES = ("README.md", "docs/options.md")
SECONDS = 120
# What the programs of docs/sql.md take as given.
GIVEN = f"""
import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.flight as flight

client = flight.connect("{ADDRESS}")
connection = dbapi.connect("{ADDRESS}", autocommit=True)
orders = items = pa.table({{"id": [1, 2]}})
"""


def blocks(page):
    """The blocks of Python of a page."""
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, page
    return found


def programs():
    """Each block of Python of the pages, named by its page and number."""
    for page in PAGES:
        for number, code in enumerate(blocks(page)):
            yield pytest.param(code, id=f"{page}-{number}")


def run(code, cluster, folder):
    address = cluster.address(cluster.coordinators[0])
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, address)],
        cwd=folder,
        env=environment() | {"VOLLEY_CLUSTER": address},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"


@pytest.mark.parametrize("code", list(programs()))
def test_documented_program_runs(shared, code, tmp_path):
    run(code, shared, tmp_path)


def test_programs_of_the_sql_page_run(own, tmp_path):
    cluster = own(coordinators=1, nodes=2)
    with cluster.client() as client:
        put(client, "weather", pa.table({"city": ["Oslo", "Lima"], "temperature": [-2.5, 19.0]}))
        put(client, "trips", pa.table({"city": ["Oslo", "Lima", "Oslo"], "distance": [0, 5, 20]}))
    for code in blocks("docs/sql.md"):
        run(f"{GIVEN}\n{code}\nconnection.close()\n", cluster, tmp_path)
