"""The examples in the docstrings of the Python package run as they are, each with a table `trips` of four rows."""

import doctest
import importlib
import io

import pytest
import volley

from cluster import BIN
from matrix import for_release
from test_package_large import require

TRIPS = {"id": [1, 2, 3, 4], "fare": [9.5, 20.0, 3.2, 12.5]}
MODULES = ["", "._database", "._dev", "._table", "._write", ".aio", ".dask", ".duckdb", ".polars"]


@pytest.mark.parametrize("module", [*MODULES, for_release(".ibis"), for_release(".torch")])
def test_examples_of_docstrings_run(module, shared, db, monkeypatch):
    if module in (".ibis", ".torch"):
        require(module.removeprefix("."))
    monkeypatch.setenv("VOLLEY_CLUSTER", shared.address(shared.coordinators[0]))
    monkeypatch.setenv("VOLLEY_BIN", str(BIN / "volley"))
    loaded = importlib.import_module(f"volley{module}")
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder().find(loaded, loaded.__name__):
        db.put("trips", TRIPS)
        example.globs |= {"volley": volley, "db": db}
        report = io.StringIO()
        failed, _ = runner.run(example, out=report.write)
        assert failed == 0, report.getvalue()
    assert runner.tries > 0
    db.drop("trips")
