"""Connectors of the Python package to libraries that are large: PyTorch, Ray and Ibis, with the libraries themselves. They are for releases;
what `tests/python/requirements-release.txt` does not bring is skipped where it is missing."""

import importlib.util
import json

import pyarrow as pa
import pytest
import volley

pytestmark = pytest.mark.release

TABLE = pa.table({"id": range(1_000), "price": [n / 4 for n in range(1_000)], "kind": ["ant", "bee"] * 500})


def require(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"not on this machine: {module}")


@pytest.fixture
def table(db, name):
    """1,000 rows in several parts."""
    db.put(name, TABLE, shards=4)
    return name


def ids(batches):
    return [value for batch in batches for value in batch["id"].tolist()]


def test_torch_workers_read_each_row_once(db, table):
    require("torch")
    from torch.utils.data import DataLoader

    dataset = volley.torch.TableDataset(db, table, batch_size=64, shuffle=True, seed=3, window_rows=100)
    assert len(dataset) == 16
    found = ids(DataLoader(dataset, batch_size=None, num_workers=2))
    assert sorted(found) == list(range(1_000)) and found != sorted(found)
    shares = [
        ids(volley.torch.TableDataset(db, table, batch_size=10, shuffle=True, rank=rank, world_size=3)) for rank in range(3)
    ]
    assert [len(one) for one in shares] == [333] * 3 and len(set().union(*shares)) == 999


def test_torch_loader_continues_with_the_rows_that_are_left(db, table):
    require("torch")
    options = {"batch_size": 30, "columns": ["id"], "shuffle": True, "seed": 5, "window_rows": 128}
    loader = volley.torch.Loader(volley.torch.TableDataset(db, table, **options), prefetch=3)
    first, second = ids(loader), ids(loader)
    assert sorted(first) == sorted(second) == list(range(1_000)) and first != second
    loader.set_epoch(0)
    batches = iter(loader)
    begun = ids(next(batches) for _ in range(7))
    state = json.loads(json.dumps(loader.state_dict()))
    batches.close()
    again = volley.torch.TableDataset(db, table, version=state["version"], **options)
    again.load_state_dict(state)
    assert begun + ids(again) == first
    # The dataset stays at its version.
    db.put(table, TABLE.slice(0, 10), mode="append")
    again.set_epoch(0)
    assert ids(again) == first
    with pytest.raises(volley.Conflict, match="seed 5, not 6"):
        volley.torch.TableDataset(db, table, version=state["version"], **options | {"seed": 6}).load_state_dict(state)


def test_torch_tensors_have_the_types_of_columns(db, name):
    require("torch")
    import torch

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(range(6), pa.float32()), 2)
    db.put(name, pa.table({"v": vectors, "flag": [True, False, True], "text": ["a", None, "c"], "n": [1, None, 3]}))
    [batch] = volley.torch.TableDataset(db, name, batch_size=8, columns=["v", "flag", "text"])
    assert batch["v"].shape == (3, 2) and batch["v"].dtype == torch.float32
    assert batch["flag"].tolist() == [True, False, True] and batch["text"] == ["a", None, "c"]
    with pytest.raises(ValueError, match="'n' has nulls"):
        list(volley.torch.TableDataset(db, name, batch_size=8))


def test_ibis_runs_expressions_over_tables(db, table):
    require("ibis")
    backend = volley.ibis.connect(db, {"rides": table, "again": table})
    rides, again = backend.table("rides"), backend.table("again")
    found = rides.filter(rides.id >= 998).select("id", "kind").order_by("id").to_pyarrow()
    assert found.to_pylist() == TABLE.slice(998).select(["id", "kind"]).to_pylist()
    assert int(rides.join(again, "id").count().execute()) == 1_000
    sums = rides.group_by("kind").aggregate(most=rides.price.max()).order_by("kind").to_pyarrow()
    assert sums["most"].to_pylist() == [998 / 4, 999 / 4]


@pytest.fixture(scope="module")
def ray():
    require("ray")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_ray_reads_parts_in_its_workers(db, table, ray):
    dataset = volley.ray.read(db, table, columns=["id", "price"])
    assert dataset.count() == 1_000 and dataset.sum("id") == sum(range(1_000))
    assert volley.ray.read(db, table, where="id < 10").count() == 10
    assert volley.ray.read(db, table, where="id < 0").count() == 0


def test_ray_writes_all_blocks_or_none(db, name, ray):
    outcome = volley.ray.write(db, name, ray.data.range(100, override_num_blocks=4), shard_by=["id"])
    assert (outcome["version"], outcome["rows"]) == (1, 100)
    assert sorted(db.get(name).to_arrow()["id"].to_pylist()) == list(range(100))

    def failing(rows):
        if 50 in rows["id"].to_pylist():
            raise LookupError("row 50 is bad")
        return rows

    dataset = ray.data.range(100, override_num_blocks=4).map_batches(failing, batch_format="pyarrow")
    with pytest.raises(Exception, match="row 50"):
        volley.ray.write(db, name, dataset, mode="append")
    assert len(db.get(name)) == 100 and len(db.versions(name)) == 1
