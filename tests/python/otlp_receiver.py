"""A collector of traces: it takes OTLP by gRPC or HTTP, and keeps the spans that it gets."""

import concurrent.futures
import dataclasses
import http.server
import threading

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclasses.dataclass(frozen=True)
class Span:
    trace: str
    id: str
    parent: str
    name: str
    attributes: dict = dataclasses.field(compare=False)
    resource: dict = dataclasses.field(compare=False)
    failed: bool = False

    @property
    def member(self):
        """The address of the peer port of the member that made it."""
        return self.resource["volley.peer_listen"]


class OtlpReceiver:
    def __init__(self, protocol="grpc"):
        self.spans, self.headers, self.lock = {}, [], threading.Lock()
        if protocol == "grpc":
            self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
            handler = grpc.unary_unary_rpc_method_handler(
                self._export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
            )
            self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})])
            port = self.server.add_insecure_port("127.0.0.1:0")
            self.server.start()
            self.close = lambda: self.server.stop(None)
        else:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._http_handler())
            port = self.server.server_address[1]
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
            self.close = self._close_http
        self.url = f"http://127.0.0.1:{port}"

    def _close_http(self):
        self.server.shutdown()
        self.server.server_close()

    def _http_handler(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                found = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                if found:
                    receiver._keep(ExportTraceServiceRequest.FromString(body), dict(self.headers.items()))
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if found else 404)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        return Handler

    def _export(self, request, context):
        self._keep(request, dict(context.invocation_metadata()))
        return ExportTraceServiceResponse()

    def _keep(self, request, headers):
        with self.lock:
            self.headers.append({name.lower(): value for name, value in headers.items()})
            for resource_spans in request.resource_spans:
                resource = values(resource_spans.resource.attributes)
                for span in (span for scope in resource_spans.scope_spans for span in scope.spans):
                    assert span.start_time_unix_nano <= span.end_time_unix_nano
                    kept = Span(
                        span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name,
                        values(span.attributes), resource, span.status.code == span.status.STATUS_CODE_ERROR,
                    )
                    self.spans[kept.id] = kept

    def all(self):
        with self.lock:
            return list(self.spans.values())

    def of_trace(self, trace):
        return [span for span in self.all() if span.trace == trace]


def values(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


class Tree:
    """The spans of a trace, below the span of a client."""

    def __init__(self, spans, client):
        self.by_id = {span.id: span for span in spans}
        self.client = client

    def is_complete(self):
        """Whether the parent of each span is there, too."""
        return all(span.parent in self.by_id or span.parent == self.client for span in self.by_id.values())

    def roots(self):
        return [span for span in self.by_id.values() if span.parent == self.client]

    def path(self, span):
        """The names from the root to a span."""
        above = self.by_id.get(span.parent)
        return (*(self.path(above) if above else ()), span.name)

    def named(self, name):
        return [span for span in self.by_id.values() if span.name == name]
