"""LZ4 and ZSTD tables, read by clients in Java and JavaScript that have no codecs, of tests/clients."""

import json
import subprocess

import pyarrow as pa
import pytest

from cluster import put
from matrix import matrix
from toolchains import apache_arrow_js, java_command, require

ROWS = 10_000
# What the client has of a table without `decompress`: docs/options.md says that it cannot read it.
ERRORS = {"java": "Please add arrow-compression module", "javascript": "compressed but codec not found"}
SECONDS = 120


def compressible():
    """Rows in several messages, with nulls, lists and a dictionary, which has messages of its own."""
    return pa.table({
        "integer": pa.array(range(ROWS), pa.int64()),
        "real": [None if i % 7 == 0 else i / 4 for i in range(ROWS)],
        "text": [None if i % 5 == 0 else f"row {i} " + "of the same text " * 6 + "ü" for i in range(ROWS)],
        "list": pa.array([None if i % 11 == 0 else [f"{i}", None][: i % 3] for i in range(ROWS)], pa.list_(pa.string())),
        "word": pa.array([None if i % 13 == 0 else f"word {i % 100}" for i in range(ROWS)]).dictionary_encode(),
    })


@pytest.fixture(scope="module", params=ERRORS)
def reader(request, tmp_path_factory):
    """A language, and the command of its client without its arguments."""
    if request.param == "java":
        return request.param, java_command(request.getfixturevalue("java_target"), "volley.CompressedTable")
    require("node", "npm")
    arrow = apache_arrow_js(tmp_path_factory.mktemp("javascript"))
    program = request.getfixturevalue("client_sources") / "javascript" / "compressed_table.js"
    return request.param, ["node", str(program), str(arrow)]


@pytest.mark.parametrize(("codec", "role"), matrix(["lz4", "zstd"], ["coordinators", "nodes"]))
def test_reader_without_codecs_gets_rows_by_decompress(reader, shared, client, name, codec, role):
    language, command = reader
    table = compressible()
    put(client, name, table, chunk=2500, compression=codec)
    address = shared.address(getattr(shared, role)[1]).removeprefix("grpc+tcp://")
    done = subprocess.run([*command, address, name], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    found, want = json.loads(done.stdout), table.to_pydict()
    for way in ("option", "header"):
        assert list(found[way]) == list(want), way
        for column, values in want.items():
            assert found[way][column] == values, f"{way}, {column}"
    assert ERRORS[language] in (found["error"] or "no error"), found["error"]
