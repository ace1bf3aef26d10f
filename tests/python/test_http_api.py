"""Arrow over HTTP: what is put and read by it is what Flight puts and reads, at every member."""

import gzip
import io
import json
import socket
import threading

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cluster import get, put, wait_until
from http_calls import ARROW, call, stream

ROWS = 10_000
TABLE = pa.table({
    "id": pa.array(range(ROWS), pa.int64()),
    "word": pa.array([None if i % 7 == 0 else f'w,"{i % 100}"' for i in range(ROWS)], pa.string()),
    "x": pa.array([i / 4 for i in range(ROWS)], pa.float64()),
})


@pytest.fixture
def stored(shared, client, name):
    """A table in several parts."""
    for at in range(0, ROWS, 2_500):
        put(client, name, TABLE.slice(at, 2_500), mode="append" if at else "replace")
    return name


def members(cluster):
    return (cluster.coordinators[0], cluster.nodes[0], cluster.nodes[-1])


def test_rows_are_those_of_flight_at_every_member(shared, client, stored):
    for member in members(shared):
        answer = call(shared, "GET", f"/api/v1/data/{stored}", member=member)
        assert answer.status == 200 and answer.headers["content-type"] == ARROW
        assert answer.table() == get(client, stored) == TABLE
        assert (answer.headers["x-volley-rows"], answer.headers["accept-ranges"]) == (str(ROWS), "rows")


def test_every_format_has_the_same_rows(shared, stored):
    def read(accept):
        answer = call(shared, "GET", f"/api/v1/data/{stored}?null=NULL" if "csv" in accept else f"/api/v1/data/{stored}", accept=accept)
        assert answer.status == 200, answer.body
        return io.BytesIO(answer.body)

    options = pa.csv.ConvertOptions(column_types=TABLE.schema, null_values=["NULL"], strings_can_be_null=True, quoted_strings_can_be_null=False)
    assert pa.csv.read_csv(read("text/csv"), convert_options=options) == TABLE
    lines = [json.loads(line) for line in read("application/x-ndjson").read().splitlines()]
    assert pa.Table.from_pylist(lines, TABLE.schema) == TABLE
    assert pq.read_table(read("application/vnd.apache.parquet")).cast(TABLE.schema) == TABLE
    weighted = call(shared, "GET", f"/api/v1/data/{stored}", accept="text/html, text/csv;q=0.1, application/x-ndjson;q=0.2")
    assert weighted.headers["content-type"] == "application/x-ndjson"


def test_options_of_a_read_select_columns_and_rows(shared, stored):
    def read(query):
        return call(shared, "GET", f"/api/v1/data/{stored}?{query}").table()

    assert read("columns=x,id&limit=3") == TABLE.select(["x", "id"]).slice(0, 3)
    assert read("where=id+%3C+5") == TABLE.slice(0, 5)
    assert read("where=id+%3C+0").num_rows == 0
    first = call(shared, "GET", f"/api/v1/data/{stored}?limit=1").headers["x-volley-version"]
    call(shared, "POST", f"/api/v1/data/{stored}", body=stream(TABLE.slice(0, 1)), content_type=ARROW)
    assert read(f"version={first}") == TABLE
    assert read("columns=id").num_rows == ROWS + 1


def test_version_in_etag_saves_the_rows(shared, client, stored):
    path = f"/api/v1/data/{stored}?format=csv"
    tags = {call(shared, "GET", path, member=member).headers["etag"] for member in members(shared)}
    [tag] = tags
    answer = call(shared, "GET", path, if_none_match=f'"other", {tag}')
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert call(shared, "GET", f"/api/v1/data/{stored}").headers["etag"] != tag, "another format"
    put(client, stored, TABLE)
    assert call(shared, "GET", path, if_none_match=tag).status == 200


def test_range_of_rows_continues_a_download(shared, client, stored):
    path = f"/api/v1/data/{stored}"
    tag = call(shared, "GET", path + "?limit=1").headers["etag"]
    for header, first, last in [
        ("rows=0-0", 0, 0), ("rows=2499-2500", 2_499, 2_500), ("rows=100-9000", 100, 9_000), ("rows=9990-", 9_990, 9_999),
        ("rows=-5", 9_995, 9_999), ("rows=9999-20000", 9_999, 9_999),
    ]:
        answer = call(shared, "GET", path, range=header)
        assert (answer.status, answer.headers["content-range"]) == (206, f"rows {first}-{last}/{ROWS}"), header
        assert answer.table() == TABLE.slice(first, last - first + 1), header
    assert call(shared, "GET", path, range="rows=1-2", if_range=tag).status == 200, "the tag of other rows"
    whole = call(shared, "GET", path).headers["etag"]
    assert call(shared, "GET", path, range="rows=1-2", if_range=whole).status == 206
    filtered = call(shared, "GET", path + "?where=id+%3E%3D+50", range="rows=1-2")
    assert filtered.headers["content-range"] == "rows 1-2/*" and filtered.table() == TABLE.slice(51, 2)
    words = TABLE.select(["word"]).combine_chunks()
    put(client, stored, pa.table({"word": words.column("word").dictionary_encode()}))
    assert call(shared, "GET", path, range="rows=100-9000").table().column("word").to_pylist() == words.column("word").to_pylist()[100:9001]


@pytest.mark.parametrize("header", ["rows=", "rows=x-", "rows=5-1", "rows=0-1,4-5", "rows=10000-", "rows=-0", "rows=99999999999999999999-"])
def test_nonsense_range_is_refused(shared, stored, header):
    answer = call(shared, "GET", f"/api/v1/data/{stored}", range=header)
    answer.problem(416, "INVALID_ARGUMENT")
    assert answer.headers["content-range"] == f"rows */{ROWS}"


def test_range_of_another_unit_is_ignored(shared, stored):
    assert call(shared, "GET", f"/api/v1/data/{stored}", range="bytes=0-9").status == 200


def test_partitions_together_are_the_table(shared, client, name):
    put(client, name, TABLE, shards=4, shard_by=["id"])
    listed = call(shared, "GET", f"/api/v1/partitions/{name}?columns=id,word").json()
    assert (listed["table"], listed["rows"], listed["ordered"]) == (name, ROWS, False)
    pieces = []
    for index, partition in enumerate(listed["partitions"]):
        answer = call(shared, "GET", partition["url"], member=members(shared)[index % 3])
        assert answer.headers["x-volley-rows"] == str(partition["rows"])
        pieces.append(answer.table())
    assert len(pieces) > 1
    assert pa.concat_tables(pieces).sort_by("id") == TABLE.select(["id", "word"])
    url = listed["partitions"][0]["url"]
    assert "divided into other partitions" in call(shared, "GET", url[:-1] + "z").problem(409, "ABORTED")
    call(shared, "GET", url.replace("partition=0", "partition=999")).problem(404, "NOT_FOUND")
    call(shared, "GET", f"/api/v1/data/{name}?partition=0").problem(400, "INVALID_ARGUMENT")


def test_compressed_response_has_the_same_bytes(shared, stored):
    plain = call(shared, "GET", f"/api/v1/data/{stored}", accept="text/csv")
    zipped = call(shared, "GET", f"/api/v1/data/{stored}", accept="text/csv", accept_encoding="gzip")
    assert zipped.headers["content-encoding"] == "gzip" and gzip.decompress(zipped.body) == plain.body
    zstd = call(shared, "GET", f"/api/v1/data/{stored}", accept_encoding="gzip;q=0.5, zstd")
    assert zstd.headers["content-encoding"] == "zstd"
    with pa.CompressedInputStream(io.BytesIO(zstd.body), "zstd") as rows:
        assert pa.ipc.open_stream(rows).read_all() == TABLE
    ignored = call(shared, "GET", f"/api/v1/data/{stored}", accept_encoding="lz4")
    assert ignored.headers["content-encoding"] is None and ignored.table() == TABLE


def test_stored_buffers_are_sent_to_who_reads_them(shared, client, name):
    put(client, name, TABLE, compression="zstd")
    accept = f'{ARROW}; codecs="lz4, zstd"'
    stored = call(shared, "GET", f"/api/v1/data/{name}", accept=accept, accept_encoding="zstd")
    assert stored.headers["content-type"] == accept and stored.headers["content-encoding"] is None
    plain = call(shared, "GET", f"/api/v1/data/{name}")
    assert stored.table() == plain.table() == TABLE and len(stored.body) < len(plain.body)


def test_lists_and_descriptions_name_the_table(shared, client, stored):
    for member in members(shared):
        listed = call(shared, "GET", f"/api/v1/tables?prefix={stored}", member=member).json()["tables"]
        assert [(table["table"], table["rows"], table["ordered"]) for table in listed] == [(stored, ROWS, True)]
        described = call(shared, "GET", f"/api/v1/tables/{stored}", member=member).json()
        assert (described["version"], described["rows"]) == (listed[0]["version"], ROWS)
        assert described["columns"][0] == {"name": "id", "type": "Int64", "nullable": True}
    assert call(shared, "GET", "/api/v1/tables?prefix=none/at/all").json() == {"tables": []}


@pytest.mark.parametrize("odd", ["größe/ä b", "a?b#c/%d", "{x}/;y", "q\"'<script>", "..", "a/../b"])
def test_odd_names_have_a_path(shared, client, name, odd):
    from urllib.parse import quote

    odd = f"{name}/{odd}"
    path = "/".join(quote(part, safe="") for part in odd.split("/"))
    written = call(shared, "PUT", f"/api/v1/data/{path}", body=stream(TABLE.slice(0, 5)), content_type=ARROW)
    assert written.json()["table"] == odd
    assert call(shared, "GET", f"/api/v1/data/{path}").table() == get(client, odd) == TABLE.slice(0, 5)
    [partition] = call(shared, "GET", f"/api/v1/partitions/{path}").json()["partitions"]
    assert call(shared, "GET", partition["url"]).table() == TABLE.slice(0, 5)


@pytest.mark.parametrize("path", ["a%2Fb", "a%00b", "a%0Ab", "%ff", "%", "a%zz", "a//b", "a/", "/".join("a" * 17), "a" * 1025])
def test_hostile_names_are_refused(shared, path):
    for call_of in (("GET", "data"), ("PUT", "data"), ("GET", "tables"), ("GET", "partitions")):
        call(shared, call_of[0], f"/api/v1/{call_of[1]}/{path}").problem(400, "INVALID_ARGUMENT")


def test_missing_tables_paths_and_methods_are_problems(shared, stored):
    assert "none/here" in call(shared, "GET", "/api/v1/data/none/here").problem(404, "NOT_FOUND")
    call(shared, "GET", "/api/v1/nothing").problem(404, "NOT_FOUND")
    answer = call(shared, "DELETE", f"/api/v1/data/{stored}")
    answer.problem(405, "INVALID_ARGUMENT")
    assert answer.headers["allow"] == "GET, HEAD, PUT, POST"
    call(shared, "GET", f"/api/v1/data/{stored}", accept="image/png").problem(406, "INVALID_ARGUMENT")
    call(shared, "GET", f"/api/v1/data/{stored}?format=xlsx").problem(406, "INVALID_ARGUMENT")
    for query in ("limit=x", "limit=-1", "colums=id", "limit=1&limit=2", "columns=nope", "where=id+%3D", "null=NA", "format=parquet&null=NA"):
        call(shared, "GET", f"/api/v1/data/{stored}?{query}").problem(400, "INVALID_ARGUMENT")


def test_head_has_the_headers_alone(shared, stored):
    answer = call(shared, "HEAD", f"/api/v1/data/{stored}")
    assert (answer.status, answer.body, answer.headers["x-volley-rows"]) == (200, b"", str(ROWS))


def test_column_that_a_format_cannot_hold_is_named(shared, client, name):
    put(client, name, pa.table({"lists": pa.array([[1], None], pa.list_(pa.int64()))}))
    detail = call(shared, "GET", f"/api/v1/data/{name}?format=csv").problem(400, "INVALID_ARGUMENT")
    assert '"lists"' in detail and "nested" in detail
    assert call(shared, "GET", f"/api/v1/data/{name}?format=ndjson").body == b'{"lists":[1]}\n{"lists":null}\n'


def test_request_id_is_the_clients_and_in_every_response(shared):
    assert call(shared, "GET", "/api/v1/tables", x_request_id="job-7").headers["x-request-id"] == "job-7"
    for odd in ("", "x" * 200, "a b"):
        assert len(call(shared, "GET", "/api/v1/nothing", x_request_id=odd).headers["x-request-id"]) == 16


def test_document_lists_the_paths_that_are_served(shared):
    document = call(shared, "GET", "/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1") and len(document["paths"]) == 6
    for path, methods in document["paths"].items():
        for method in methods:
            answer = call(shared, method.upper(), path.replace("{table}", "no/such"))
            assert answer.status not in (405, 500, 501), (method, path, answer.body)


def test_sql_reads_and_changes(shared, client, stored):
    schema, table = stored.split("/")
    source = f'"{schema}"."{table}"'

    def run(statement, member=None, **headers):
        return call(shared, "POST", "/api/v1/sql", body=statement.encode(), member=member, content_type="application/sql", **headers)

    for member in members(shared):
        assert run(f"SELECT id, x FROM {source} WHERE id < 3", member).table() == TABLE.select(["id", "x"]).slice(0, 3)
        counted = run(f"SELECT count(*) AS n, max(id) AS most FROM {source};", member, accept="text/csv")
        assert counted.body == b"n,most\n10000,9999\n" and counted.headers["cache-control"] == "no-store"
    body = json.dumps({"sql": f"INSERT INTO {source} VALUES (-1, 'a', 0.5)"}).encode()
    done = call(shared, "POST", "/api/v1/sql", body=body, content_type="application/json").json()
    assert (done["statement"], done["rows"]) == ("INSERT", 1)
    refused = run(f"INSERT INTO {source} VALUES (-2, 'b', 0.5)", idempotency_key="i-1").problem(400, "INVALID_ARGUMENT")
    assert "takes effect again" in refused
    assert get(client, stored).num_rows == ROWS + 1
    run("SELEC 1").problem(400, "INVALID_ARGUMENT")
    run("SELECT 1; SELECT 2").problem(400, "INVALID_ARGUMENT")
    run("").problem(400, "INVALID_ARGUMENT")
    call(shared, "POST", "/api/v1/sql", body=b"SELECT 1", content_type="text/plain").problem(415, "INVALID_ARGUMENT")


def test_metrics_count_requests_by_operation(shared):
    member = shared.nodes[1]

    def counted():
        text = call(shared, "GET", "/metrics", member=member).body.decode()
        lines = [line for line in text.splitlines() if line.startswith("volley_http_requests_total") and 'status="404"' in line]
        return sum(float(line.split()[-1]) for line in lines if 'operation="readData"' in line)

    before = counted()
    call(shared, "GET", "/api/v1/data/no/such/table", member=member)
    assert counted() == before + 1
    call(shared, "GET", "/api/v1/tables", member=member)
    wait_until(lambda: held_memory(shared, member) == "0", 30, "nothing is held")


def held_memory(cluster, member):
    lines = call(cluster, "GET", "/metrics", member=member).body.decode().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith("volley_http_memory_bytes ")]
    return value


def test_slow_reader_holds_little_and_others_go_on(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--http-memory-bytes", str(64 << 20)))
    node, rows = cluster.nodes[0], 8_000_000
    large = pa.table({"id": pa.array(range(rows), pa.int64())})
    with cluster.client(node) as client:
        put(client, "large", large)
    before = node.memory_anonymous()
    slow = []
    for query in ("", "", "?format=csv"):
        held = socket.create_connection((node.host, 8836), timeout=60)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        accept = b"accept-encoding: zstd\r\n" if query else b""
        held.sendall(f"GET /api/v1/data/large{query} HTTP/1.1\r\nhost: {node.host}\r\n".encode() + accept + b"\r\n")
        assert held.recv(15).startswith(b"HTTP/1.1 "), query
        slow.append(held)
    assert call(cluster, "GET", "/api/v1/data/large?limit=10").table().num_rows == 10
    refused = call(cluster, "GET", "/api/v1/data/large?format=csv")
    assert "try again" in refused.problem(429, "RESOURCE_EXHAUSTED") and refused.headers["retry-after"] == "1"
    # This one would not fit without the others either.
    refused = call(cluster, "GET", "/api/v1/data/large?format=parquet")
    assert "too large" in refused.problem(507, "RESOURCE_EXHAUSTED") and refused.headers["retry-after"] is None
    grown = node.memory_anonymous() - before
    assert grown < 200 << 20, f"{grown >> 20} MiB for three readers of {large.nbytes >> 20} MiB each"
    for held in slow:
        held.close()
    wait_until(lambda: held_memory(cluster, node) == "0", 30, "the readers that are gone hold nothing")


def test_many_readers_at_once_get_whole_tables(shared, stored):
    results = []

    def read(index):
        accept = ("text/csv", ARROW, "application/x-ndjson")[index % 3]
        answer = call(shared, "GET", f"/api/v1/data/{stored}", member=members(shared)[index // 3 % 3], accept=accept)
        results.append((accept, answer.table().to_pydict() if accept == ARROW else answer.body))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    for accept, rows in results:
        assert rows == next(other for kind, other in results if kind == accept), accept
