"""Callers of the HTTP port are those of Flight: the same identity, rights and audit log."""

import pyarrow as pa
import pytest

from http_calls import ARROW, call, stream
from identity_cluster import basic

TABLE = pa.table({"i": pa.array(range(100), pa.int64())})
PATHS = ["/api/v1/tables", "/api/v1/tables/a/b", "/api/v1/partitions/a/b", "/api/v1/data/a/b"]


def both(cluster):
    return (cluster.coordinators[0], cluster.nodes[0])


@pytest.mark.parametrize("value", [None, "Bearer nonsense", "Basic !!!"])
def test_caller_without_identity_gets_nothing(secured, value):
    sent = {"authorization": value} if value else {}
    for member in both(secured):
        for path in PATHS:
            answer = call(secured, "GET", path, member=member, **sent)
            answer.problem(401, "UNAUTHENTICATED")
            assert "Basic" in answer.headers["www-authenticate"] and "Bearer" in answer.headers["www-authenticate"]
        for body, media in ((stream(TABLE), ARROW), (b"i\n1\n", "text/csv")):
            call(secured, "PUT", "/api/v1/data/a/b", body=body, member=member, content_type=media, **sent).problem(401, "UNAUTHENTICATED")
        statement = call(secured, "POST", "/api/v1/sql", body=b"SELECT 1", member=member, content_type="application/sql", **sent)
        statement.problem(401, "UNAUTHENTICATED")
        assert call(secured, "GET", "/api/v1/openapi.json", member=member, **sent).status == 200


def test_rights_are_those_of_flight(secured, name):
    owner, reader = secured.add_user(("owner", name)), secured.add_user(("reader", name))
    stranger = secured.add_user(("reader", "other/prefix"))
    secured.settle()
    path = f"/api/v1/data/{name}/t"
    for member in both(secured):
        of = {user: {"authorization": f"Bearer {secured.session(user)}"} for user in (owner, reader, stranger)}
        assert call(secured, "PUT", path, body=stream(TABLE), member=member, content_type=ARROW, **of[owner]).status == 200
        assert call(secured, "GET", path, member=member, **of[reader]).table() == TABLE
        for media, body in ((ARROW, stream(TABLE)), ("text/csv", b"i\n1\n")):
            refused = call(secured, "POST", path, body=body, member=member, content_type=media, **of[reader])
            assert reader in refused.problem(403, "PERMISSION_DENIED")
        drop = f'DROP TABLE "{name}"."t"'.encode()
        call(secured, "POST", "/api/v1/sql", body=drop, member=member, content_type="application/sql", **of[reader]).problem(403, "PERMISSION_DENIED")
        call(secured, "GET", path, member=member, **of[stranger]).problem(404, "NOT_FOUND")
        listed = call(secured, "GET", f"/api/v1/tables?prefix={name}", member=member, **of[stranger])
        assert listed.json() == {"tables": []}


def test_password_and_service_token_identify(secured, name):
    user = secured.add_user(("owner", name))
    token = secured.token(user)
    secured.settle()
    for member in both(secured):
        for value in (f"Bearer {token}", basic(user, secured.passwords[user]), f"Bearer {secured.session(user)}"):
            written = call(secured, "PUT", f"/api/v1/data/{name}/t", body=stream(TABLE), member=member, content_type=ARROW, authorization=value)
            assert written.status == 200, written.body
            assert call(secured, "GET", f"/api/v1/data/{name}/t?format=csv", member=member, authorization=value).status == 200
    assert call(secured, "GET", f"/api/v1/data/{name}/t", authorization=f"Bearer {token}").table() == TABLE
