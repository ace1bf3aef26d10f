"""Rows that are put by HTTP: one write, all of it or nothing."""

import gzip
import http.client
import io
import socket

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cluster import action, get, put, wait_until
from http_calls import ARROW, Answer, call, connection, stream

CSV, NDJSON, PARQUET = "text/csv", "application/x-ndjson", "application/vnd.apache.parquet"
TABLE = pa.table({"id": pa.array(range(1_000), pa.int64()), "word": pa.array([f"w{i % 7}" for i in range(1_000)])})


def body_of(table, media):
    sink = io.BytesIO()
    if media == ARROW:
        return stream(table, 100)
    if media == PARQUET:
        pq.write_table(table, sink)
    elif media == CSV:
        pa.csv.write_csv(table, sink)
    else:
        sink.write(b"".join(b'{"id": %d, "word": "%s"}\n' % (row["id"], row["word"].encode()) for row in table.to_pylist()))
    return sink.getvalue()


def versions(client, name):
    return action(client, "list_versions", {"table": name})["newest"]


@pytest.mark.parametrize("media", [ARROW, CSV, NDJSON, PARQUET])
def test_put_replaces_and_post_adds(shared, client, name, media):
    path = f"/api/v1/data/{name}"
    for member in (shared.coordinators[0], shared.nodes[0]):
        answer = call(shared, "PUT", path, body=body_of(TABLE, media), member=member, content_type=media)
        outcome = answer.json()
        assert (answer.status, outcome["table"], outcome["rows"]) == (200, name, 1_000), outcome
        assert answer.headers["x-volley-version"] == str(outcome["version"])
        assert get(client, name) == TABLE
        more = call(shared, "POST", path, body=body_of(TABLE.slice(0, 10), media), member=member, content_type=media)
        assert more.json()["version"] == outcome["version"] + 1
        assert get(client, name) == pa.concat_tables([TABLE, TABLE.slice(0, 10)])


def test_modes_are_those_of_the_method(shared, client, name):
    path, body = f"/api/v1/data/{name}", stream(TABLE)
    call(shared, "POST", path, body=body, content_type=ARROW).problem(404, "NOT_FOUND")
    assert call(shared, "POST", path + "?mode=create_append", body=body, content_type=ARROW).status == 200
    call(shared, "PUT", path + "?mode=create", body=body, content_type=ARROW).problem(409, "ALREADY_EXISTS")
    for method, query in (("PUT", "mode=append"), ("POST", "mode=replace"), ("PUT", "limit=3"), ("PUT", "shards=0")):
        call(shared, method, f"{path}?{query}", body=body, content_type=ARROW).problem(400, "INVALID_ARGUMENT")
    for header, value in (("content_range", "rows 0-9/1000"), ("if_match", '"v1-a"'), ("if_none_match", "*")):
        detail = call(shared, "PUT", path, body=stream(TABLE.slice(0, 1)), content_type=ARROW, **{header: value}).problem(400, "INVALID_ARGUMENT")
        assert header.replace("_", "-") in detail
    assert get(client, name) == TABLE


def test_options_are_kept_with_the_table(shared, client, name):
    query = "shards=3&shard_by=id&replicas=2&compression=zstd"
    assert call(shared, "PUT", f"/api/v1/data/{name}?{query}", body=stream(TABLE), content_type=ARROW).status == 200
    described = call(shared, "GET", f"/api/v1/tables/{name}").json()
    assert (described["shards"], described["shard_by"], described["compression"]) == (3, ["id"], "zstd")


def test_idempotency_key_takes_effect_once(shared, client, name):
    path = f"/api/v1/data/{name}"
    put(client, name, TABLE)
    last = name.split("/")[1]
    for key in (f"load-{last}", f'"quoted-{last}"'):
        before = get(client, name).num_rows
        outcomes = [
            call(shared, "POST", path, body=stream(TABLE), member=member, content_type=ARROW, idempotency_key=key).json()
            for member in (shared.nodes[0], shared.coordinators[0])
        ]
        assert outcomes[0]["version"] == outcomes[1]["version"] and outcomes[1]["repeated"]
        assert outcomes[0]["write_id"] == key.strip('"')
        assert get(client, name).num_rows == before + 1_000
    for bad in ("", "../x", "a b", "x" * 65):
        call(shared, "POST", path, body=stream(TABLE), content_type=ARROW, idempotency_key=bad).problem(400, "INVALID_ARGUMENT")


def test_text_has_the_types_of_the_table_it_is_added_to(shared, client, name):
    small = pa.table({"id": pa.array([1], pa.int16()), "word": pa.array(["01"])})
    put(client, name, small)
    path = f"/api/v1/data/{name}"
    assert call(shared, "POST", path, body=b"word,id\n02,2\n", content_type=CSV).status == 200
    assert get(client, name).to_pylist() == [{"id": 1, "word": "01"}, {"id": 2, "word": "02"}]
    detail = call(shared, "POST", path, body=b"id,word\n3,a\n70000,b\n", content_type=CSV).problem(400, "INVALID_ARGUMENT")
    assert "line 3" in detail and "id" in detail, detail
    detail = call(shared, "POST", path, body=b"id,wort\n3,a\n", content_type=CSV).problem(400, "INVALID_ARGUMENT")
    assert "wort" in detail, detail
    assert get(client, name).num_rows == 2


@pytest.mark.parametrize("media, body, why", [
    (ARROW, b"", "has no end"),
    (ARROW, b"not arrow at all", "not an Arrow stream"),
    (ARROW, b"ARROW1\0\0", "an Arrow file"),
    (ARROW, b"\xff\xff\xff\xff\xff\xff\xff\x7f", "not an Arrow stream"),
    (ARROW, stream(TABLE)[:-8], "has no end"),
    (ARROW, stream(TABLE)[:-9], "has no end"),
    (ARROW, stream(TABLE) + b"x", "follows the end"),
    (ARROW, stream(TABLE) + stream(TABLE), "follows the end"),
    (CSV, b"", "empty"),
    (CSV, b"a,b\n1\n", "line 2"),
    (CSV, b"PAR1\x15\x00", "Parquet"),
    (NDJSON, b"{\"a\": 1}\n{\"a\": \n", "line 2"),
    (NDJSON, b"", "no JSON objects"),
    (PARQUET, b"PAR1 but not really", "Parquet"),
    (PARQUET, b"", "empty"),
])
def test_body_of_nonsense_is_refused_and_stores_nothing(shared, client, name, media, body, why):
    detail = call(shared, "PUT", f"/api/v1/data/{name}", body=body, content_type=media).problem(400, "INVALID_ARGUMENT")
    assert why in detail, detail
    with pytest.raises(KeyError, match="no table"):
        get(client, name)


@pytest.mark.parametrize("kind", ["cells", "row", "keys"])
def test_text_that_would_take_any_memory_is_refused(shared, client, name, kind):
    media, body, why = {
        "cells": (CSV, ",".join(f"c{i}" for i in range(70_000)) + "\n", "more than 65536 cells"),
        "row": (NDJSON, '{"a": "' + "x" * (17 << 20) + '"}\n', "of more than 16 MiB"),
        "keys": (NDJSON, "".join(f'{{"k{i}": 1}}\n' for i in range(70_000)), "too many columns"),
    }[kind]
    detail = call(shared, "PUT", f"/api/v1/data/{name}", body=body.encode(), content_type=media).problem(400, "INVALID_ARGUMENT")
    assert why in detail, detail
    with pytest.raises(KeyError, match="no table"):
        get(client, name)


@pytest.mark.parametrize("media", ["", "text/plain", "application/json", "multipart/form-data; boundary=x", "application/octet-stream"])
def test_other_content_types_are_refused(shared, name, media):
    call(shared, "PUT", f"/api/v1/data/{name}", body=b"", content_type=media).problem(415, "INVALID_ARGUMENT")


def test_compressed_body_is_refused(shared, name):
    answer = call(shared, "PUT", f"/api/v1/data/{name}", body=b"", content_type=CSV, content_encoding="gzip")
    answer.problem(415, "INVALID_ARGUMENT")
    for media in (CSV, NDJSON, PARQUET):
        detail = call(shared, "PUT", f"/api/v1/data/{name}", body=gzip.compress(b"a\n1\n"), content_type=media).problem(400, "INVALID_ARGUMENT")
        assert "compressed as a whole" in detail


def test_remedies_are_those_of_http(shared, name):
    path = f"/api/v1/data/{name}"
    detail = call(shared, "PUT", path, body=b"a,b\n1,2\n", content_type=PARQUET).problem(400, "INVALID_ARGUMENT")
    assert "the content-type text/csv" in detail and "--" not in detail, detail


@pytest.mark.parametrize("media", [ARROW, CSV, PARQUET])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_that_is_cut_off_commits_nothing(shared, client, name, media, chunked):
    """The connection ends in the middle of the body, on a boundary of messages too."""
    put(client, name, TABLE.slice(0, 1))
    before, body = versions(client, name), body_of(TABLE, media)
    for cut in (len(body) // 2, len(body) - 8):
        sent = connection(shared, shared.nodes[0])
        sent.putrequest("PUT", f"/api/v1/data/{name}")
        sent.putheader("content-type", media)
        sent.putheader(*(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(body)))))
        sent.endheaders()
        sent.send(b"%x\r\n%s\r\n" % (cut, body[:cut]) if chunked else body[:cut])
        sent.sock.shutdown(socket.SHUT_WR)
        try:
            answer = Answer(sent.getresponse())
            assert answer.status >= 400, answer.body
        except (ConnectionError, http.client.HTTPException):
            pass
        sent.close()
    wait_until(lambda: not open_writes(client, name), 60, "the writes are ended")
    assert versions(client, name) == before and get(client, name) == TABLE.slice(0, 1)


def open_writes(client, name):
    """Of the table alone: other tests leave writes open until they expire."""
    return [write for write in action(client, "list_writes")["writes"] if write["table"] == name]


def refused_by_its_head(cluster, head, member=None):
    """The response to a request of which only the head is sent."""
    member = member or cluster.nodes[0]
    with socket.create_connection((member.host, 8835 if member in cluster.coordinators else 8836), timeout=60) as sent:
        received = b""
        try:
            sent.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
            while b"\r\n\r\n" not in received and (piece := sent.recv(4096)):
                received += piece
        except ConnectionError:
            pass  # It was closed before all of the head was read.
        return received.decode(errors="replace")


def test_body_that_says_that_it_is_too_large_is_refused_unread(own):
    cluster = own(coordinators=1, nodes=1, node_options=("--max-http-body-bytes", "1000"))
    node = cluster.nodes[0]
    head = f"PUT /api/v1/data/t HTTP/1.1\nhost: {node.host}\ncontent-type: text/csv\nexpect: 100-continue\n"
    assert refused_by_its_head(cluster, head + "content-length: 1001\n").startswith("HTTP/1.1 413")
    statement = f"POST /api/v1/sql HTTP/1.1\nhost: {node.host}\ncontent-type: application/sql\nexpect: 100-continue\n"
    assert refused_by_its_head(cluster, statement + "content-length: 2000000\n").startswith("HTTP/1.1 413")
    for media in (CSV, ARROW):
        chunks = iter([b"id\n", b"1\n" * 400, b"2\n" * 400])
        if media == ARROW:
            chunks = iter([stream(TABLE)[:900], stream(TABLE)[900:]])
        try:
            answer = call(cluster, "PUT", "/api/v1/data/t", body=chunks, content_type=media)
            answer.problem(413, "RESOURCE_EXHAUSTED")
        except ConnectionError:
            pass  # The reply came before the body was sent.
    with cluster.client() as client, pytest.raises(KeyError, match="no table"):
        get(client, "t")


def test_bombs_of_headers_are_refused_and_others_served(shared):
    for head in ("x" * 70_000, "\n".join(f"x-{i}: 1" for i in range(200))):
        member = shared.nodes[0]
        answer = refused_by_its_head(shared, f"GET /api/v1/tables HTTP/1.1\nhost: {member.host}\n{head}: 1\n")
        assert answer.startswith(("HTTP/1.1 431", "HTTP/1.1 400")) or not answer, answer
    assert call(shared, "GET", "/api/v1/tables?prefix=x").status == 200


def test_page_of_another_site_changes_nothing(shared, client, name):
    path, body = f"/api/v1/data/{name}", stream(TABLE)
    detail = call(shared, "PUT", path, body=body, content_type=ARROW, origin="https://evil.example").problem(403, "PERMISSION_DENIED")
    assert "http_cors_origins" in detail
    asked = call(shared, "OPTIONS", path, origin="https://evil.example", access_control_request_method="PUT")
    assert asked.status == 204 and asked.headers["access-control-allow-origin"] is None
    # A page whose host name resolves to this machine.
    call(shared, "GET", "/api/v1/tables", host="evil.example:8836").problem(403, "PERMISSION_DENIED")
    own_page = f"http://{shared.nodes[0].host}:8836"
    assert call(shared, "PUT", path, body=body, content_type=ARROW, origin=own_page).status == 200


def test_listed_origin_may_call(own):
    origin = "https://app.example"
    cluster = own(coordinators=1, nodes=1, node_options=("--http-cors-origins", origin))
    asked = call(cluster, "OPTIONS", "/api/v1/data/t", origin=origin, access_control_request_method="PUT")
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (204, origin)
    assert "idempotency-key" in asked.headers["access-control-allow-headers"]
    written = call(cluster, "PUT", "/api/v1/data/t", body=stream(TABLE), content_type=ARROW, origin=origin)
    assert written.headers["access-control-allow-origin"] == origin
    assert "x-volley-version" in written.headers["access-control-expose-headers"]
