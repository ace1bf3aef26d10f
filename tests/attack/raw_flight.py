"""Flight calls whose messages are bytes, so that they can say what no library says, and the errors that answer them."""

import io

import grpc
import pyarrow as pa

from protobuf import SERVICE, field

# No call of an attack waits longer for its answer, seconds.
DEADLINE = 60
# The numbers of gRPC's codes, as trailers have them.
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def path_descriptor(*components):
    """A FlightDescriptor; components are bytes, which need not be UTF-8."""
    return b"\x08\x01" + b"".join(field(3, component) for component in components)


def command_descriptor(command):
    return b"\x08\x02" + field(2, command)


def flight_data(header, body=b"", descriptor=None):
    """A FlightData message."""
    first = b"" if descriptor is None else field(1, descriptor)
    return first + field(2, bytes(header)) + (field(1000, bytes(body)) if body else b"")


def ipc_messages(table, **options):
    """The messages of a table's IPC stream: pairs of header and body, which can be changed."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(sink.getvalue()))
    return [(bytearray(m.metadata.to_pybytes()), bytearray(m.body.to_pybytes() if m.body else b"")) for m in reader]


def put_messages(messages, descriptor):
    """The messages of a DoPut."""
    return [flight_data(*message, descriptor if at == 0 else None) for at, message in enumerate(messages)]


class RawClient:
    """A connection to one member, as one user."""

    def __init__(self, address, metadata=()):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.channel, self.metadata = grpc.insecure_channel(address, options=options), list(metadata)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, method, *messages, is_stream=False):
        """Makes a call; returns the name of its code, its error's text, and its replies."""
        stub = self.channel.stream_stream if is_stream else self.channel.unary_stream
        request = iter(messages) if is_stream else messages[0]
        replies = []
        try:
            for reply in stub(SERVICE + method)(request, timeout=DEADLINE, metadata=self.metadata):
                replies.append(reply)
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", replies
        return "OK", "", replies

    def put(self, messages, descriptor):
        """A DoPut of IPC messages; returns as `call`."""
        return self.call("DoPut", *put_messages(messages, descriptor), is_stream=True)

    def action(self, name, body):
        return self.call("DoAction", field(1, name.encode()) + field(2, body))
