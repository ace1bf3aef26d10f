"""How much of a table is read follows from how much of it statistics leave."""

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cluster import descriptor, put
from sql_calls import query, sql_name

BATCHES, BATCH_ROWS = 100, 1_000
TABLE = pa.table({
    "id": pa.array(range(BATCHES * BATCH_ROWS), pa.int64()),
    "price": pa.array([i % 977 / 8 for i in range(BATCHES * BATCH_ROWS)], pa.float64()),
})


@pytest.fixture
def holder(shared, client, name):
    """A client of a node that has the table, as one part whose record batches are equally large and in the order of `id`."""
    put(client, name, TABLE, chunk=BATCH_ROWS, preserve_batches=True)
    [endpoint] = client.get_flight_info(descriptor(name)).endpoints
    return shared.client(shared.node_at(endpoint.locations[0].uri.decode()))


@pytest.mark.parametrize("share", [1, 10, 50, 100])
def test_batches_that_are_read_are_the_share_that_is_selected(holder, name, share):
    bound = share * BATCHES * BATCH_ROWS // 100
    selects = f"SELECT count(*) AS n, sum(price) AS total FROM {sql_name(name)} WHERE id < {bound}"
    plan = str(query(holder, f"EXPLAIN ANALYZE {selects}").to_pylist())
    batches, pruned = (int(re.search(rf"\b{counter}=(\d+)", plan)[1]) for counter in ("messages", "messages_pruned"))
    assert (batches, batches - pruned) == (BATCHES, share * BATCHES // 100), plan
    chosen = TABLE.slice(0, bound)
    assert query(holder, selects).to_pylist() == [{"n": bound, "total": pc.sum(chosen["price"]).as_py()}]
