"""The package `volley.aio`, and clusters that `volley.dev` starts."""

import asyncio
import os

import pyarrow as pa
import pytest
import volley
import volley.aio

from cluster import BIN

TABLE = pa.table({"id": range(5_000), "kind": ["ant"] * 5_000})


async def _connect(shared):
    return await volley.aio.connect(shared.address(shared.coordinators[0]), timeout=30)


def test_calls_of_asyncio_have_the_same_names(shared, name):
    async def run():
        db = await _connect(shared)
        assert (await db.put(name, TABLE, shards=2))["rows"] == 5_000
        assert (await db.get(name, where="id < 10")).to_arrow()["id"].to_pylist() == list(range(10))
        async with await db.scan(name, batch_rows=2_000) as scan:
            assert [batch.num_rows async for batch in scan] == [2_000, 2_000, 1_000]
        async with db.write(name, mode="append") as writer:
            await writer.write(TABLE.slice(0, 5))
        assert writer.outcome["version"] == 2
        assert [found["rows"] for found in await db.tables(name)] == [5_005]
        tables = await asyncio.gather(*(db.get(name) for _ in range(8)))
        assert [len(table) for table in tables] == [5_005] * 8
        with pytest.raises(volley.TableNotFound):
            await db.get("no/such/table")
        assert len((await db.cluster())["nodes"]) == len(shared.nodes)
        await db.drop(name)

    asyncio.run(run())


def test_cancelled_task_cancels_its_call(shared, name):
    async def run():
        db = await _connect(shared)
        async with db.write(name) as writer:
            await writer.write(TABLE)
            await writer.abort()
            with pytest.raises(volley.Conflict):
                await writer.write(TABLE)
        assert await db.tables(name) == []
        await db.put(name, TABLE)
        scan = await db.scan(name)
        reading = asyncio.create_task(scan.__anext__())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(volley.Cancelled, match="scan again"):
            await scan.__anext__()

    asyncio.run(run())


def test_dev_starts_a_cluster_and_stops_it(monkeypatch):
    monkeypatch.setenv("VOLLEY_BIN", str(BIN / "volley"))
    monkeypatch.delenv("VOLLEY_CLUSTER", raising=False)
    with volley.dev(nodes=2) as cluster:
        db = cluster.connect(timeout=30)
        assert db.put("t", TABLE)["version"] == 1
        assert len(db.cluster()["nodes"]) == 2
        process = cluster._process
    assert process.poll() is not None and not os.path.exists(f"/proc/{process.pid}/stat")


def test_dev_cluster_with_tls_is_trusted_by_its_connections(monkeypatch, tmp_path):
    monkeypatch.setenv("VOLLEY_BIN", str(BIN / "volley"))
    for variable in ("VOLLEY_CLUSTER", "VOLLEY_TLS_CA"):
        monkeypatch.delenv(variable, raising=False)
    with volley.dev(nodes=1, tls=True) as cluster:
        assert cluster.address.startswith("grpc+tls://") and os.path.exists(cluster.tls_ca)
        assert cluster.connect(timeout=30).put("t", TABLE)["rows"] == 5_000
        with pytest.raises(volley.Error):
            volley.connect(cluster.address, timeout=30)
    assert not os.path.exists(os.path.dirname(os.path.dirname(cluster.tls_ca))), "its folder is removed"
    with volley.dev(nodes=1, data_dir=tmp_path, tls=True) as cluster:
        assert cluster.tls_ca == str(tmp_path / "tls" / "ca.crt")
        assert cluster.connect(timeout=30).tables() == []
