"""Requests to the HTTP ports of a cluster, as a client without Volley's code makes them."""

import http.client
import io
import json

import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"


class Answer:
    """A response that was read to its end."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)

    def table(self):
        return pa.ipc.open_stream(io.BytesIO(self.body)).read_all()

    def problem(self, status, code):
        """The problem document of a response that must have this status and code."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json()
        assert (document["status"], document["code"]) == (status, code), document
        assert document["request_id"] == self.headers["x-request-id"]
        return document["detail"]


def connection(cluster, member, timeout=60):
    return http.client.HTTPConnection(member.host, 8835 if member in cluster.coordinators else 8836, timeout=timeout)


def call(cluster, method, path, body=None, member=None, **headers):
    """One request on a connection of its own; `_` in names of headers stands for `-`."""
    sent = connection(cluster, member or cluster.nodes[0])
    try:
        sent.request(method, path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(sent.getresponse())
    finally:
        sent.close()


def stream(table, chunk=None):
    """A table as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return sink.getvalue()
