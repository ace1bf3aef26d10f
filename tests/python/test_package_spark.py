"""The recipe for Spark in docs/python.md, as it stands there. It is for releases, and skipped where PySpark or Java is missing."""

import pathlib
import re
import shutil
import sys

import pyarrow as pa
import pytest

from test_package_large import require

pytestmark = pytest.mark.release

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/python.md"
TABLE = pa.table({"id": range(1_000), "price": [n / 4 for n in range(1_000)], "kind": ["ant", "bee"] * 500})


@pytest.fixture(scope="module")
def spark():
    require("pyspark")
    if not shutil.which("java"):
        pytest.skip("not on this machine: java")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    session = builder.config("spark.pyspark.python", sys.executable).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def recipe():
    """What the block of the page defines."""
    [code] = re.findall(r"## Spark\n.*?```python\n(.*?)```", PAGE.read_text(), re.S)
    # As in a program: functions of one are sent to the workers by value.
    names = {"__name__": "__main__"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_spark_reads_parts_in_its_workers(db, name, spark, recipe):
    db.put(name, TABLE, shard_by=["id"], shards=4)
    frame = recipe["read"](spark, db, name)
    assert frame.columns == ["id", "price", "kind"] and frame.count() == 1_000
    assert frame.selectExpr("sum(id)").first()[0] == sum(range(1_000))
    some = recipe["read"](spark, db, name, columns=["id"], where="id < 10")
    assert sorted(row.id for row in some.collect()) == list(range(10))
    assert recipe["read"](spark, db, name, min_parts=9).rdd.getNumPartitions() == 9
    assert recipe["read"](spark, db, name, where="id < 0").count() == 0


def test_frame_of_spark_is_put(db, name, spark):
    assert db.put(name, spark.range(100).toArrow())["rows"] == 100
    assert sorted(db.get(name).to_arrow()["id"].to_pylist()) == list(range(100))
