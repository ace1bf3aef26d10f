"""HTTP/2 below any library: frames by hand, so that a connection can do what clients never do, and read what it is answered."""

import socket
import struct
import time
import urllib.parse

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW = 4  # the number of SETTINGS_INITIAL_WINDOW_SIZE
CANCEL, ENHANCE_YOUR_CALM = 8, 11
MAX_WINDOW = (1 << 31) - 1
# A server that takes no bytes for so long has stopped to read the connection, seconds.
STUCK_AFTER = 5


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(headers):
    """Literal header fields, neither indexed nor Huffman-coded."""
    def text(value):
        value = value if isinstance(value, bytes) else value.encode()
        size = len(value)
        if size < 127:
            return bytes([size]) + value
        out, size = b"\x7f", size - 127
        while size > 127:
            out, size = out + bytes([size & 127 | 128]), size >> 7
        return out + bytes([size]) + value

    return b"".join(b"\0" + text(name) + text(value) for name, value in headers)


class Reply:
    """What came back on one stream."""

    def __init__(self):
        self.headers, self.data_bytes, self.is_ended, self.reset_code = {}, 0, False, None

    @property
    def code(self):
        """gRPC's code, if the reply has ended with one."""
        status = self.headers.get("grpc-status")
        return None if status is None else int(status)

    @property
    def message(self):
        return urllib.parse.unquote(self.headers.get("grpc-message", ""))


class RawConnection:
    """A connection to HOST:PORT. `source`: the address that it comes from; `window`: what the server may send on each stream;
    `stuck_after`: how long the server may take no bytes, seconds."""

    def __init__(self, address, source=None, window=65_535, is_greeted=True, stuck_after=STUCK_AFTER):
        host, port = address.rsplit(":", 1)
        self.host, self.replies, self.goaway, self.is_closed = host, {}, None, False
        self.is_settled, self.has_window, self.is_stuck, self.stuck_after = False, False, False, stuck_after
        self.next_stream, self.decoder, self.received, self.block = 1, hpack.Decoder(), bytearray(), bytearray()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(self.stuck_after)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect((host, int(port)))
        if is_greeted:
            settings = struct.pack(">HI", INITIAL_WINDOW, window)
            grant = struct.pack(">I", MAX_WINDOW - 65_535)
            self.send(PREFACE + frame(SETTINGS, payload=settings) + frame(WINDOW_UPDATE, payload=grant))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Sends bytes; false if the server has closed the connection, or does not read it."""
        if not self.is_closed:
            try:
                self.socket.sendall(data)
                return True
            except socket.timeout:
                self.is_closed = self.is_stuck = True
            except OSError:
                self.is_closed = True
        return False

    def request_headers(self, path, headers=()):
        common = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self.host)]
        return header_block([*common, ("content-type", "application/grpc"), ("te", "trailers"), *headers])

    def request(self, path, message=None, headers=(), is_last=True):
        """The frames of a call with one message, or with its headers only. They are not sent yet."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.replies[stream] = Reply()
        block = self.request_headers(path, headers)
        if message is None:
            return frame(HEADERS, END_HEADERS | (END_STREAM if is_last else 0), stream, block)
        body = b"\0" + struct.pack(">I", len(message)) + message
        pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        frames = [frame(DATA, END_STREAM if is_last and piece is pieces[-1] else 0, stream, piece) for piece in pieces]
        return frame(HEADERS, END_HEADERS, stream, block) + b"".join(frames)

    def read(self, until, seconds=STUCK_AFTER):
        """Reads frames until `until()` is true, the server closes the connection, or the time is over; returns `until()`."""
        deadline = time.monotonic() + seconds
        while not until():
            left = deadline - time.monotonic()
            if left <= 0 or not self._receive(left):
                break
        return until()

    def describe(self, stream):
        """What became of a call and of the connection, for a failure."""
        connection = {name: getattr(self, name) for name in ("goaway", "is_closed", "is_stuck", "is_settled", "has_window")}
        return f"{vars(self.replies[stream])}, {connection}"

    def settle(self):
        """Waits for the server's settings and its window, and acknowledges them: until then it takes 65,535 bytes."""
        return self.read(lambda: self.is_settled and self.has_window)

    def drain(self, seconds):
        """Reads what comes until the server closes the connection, or the time is over."""
        self.read(lambda: self.is_closed, seconds)

    def _receive(self, seconds):
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1 << 18)
        except socket.timeout:
            return False
        except OSError:
            data = b""
        finally:
            self.socket.settimeout(self.stuck_after)
        if not data:
            self.is_closed = True
            return False
        self.received += data
        self._take_frames()
        return True

    def _take_frames(self):
        at, received = 0, self.received
        while len(received) - at >= 9:
            size = int.from_bytes(received[at : at + 3], "big")
            if len(received) - at - 9 < size:
                break
            kind, flags, stream = struct.unpack_from(">BBI", received, at + 3)
            self._take(kind, flags, stream, bytes(received[at + 9 : at + 9 + size]))
            at += 9 + size
        del received[:at]

    def _take(self, kind, flags, stream, payload):
        reply = self.replies.get(stream) or Reply()
        if kind in (HEADERS, CONTINUATION):
            self.block += payload
            if flags & END_HEADERS:
                reply.headers.update(self.decoder.decode(bytes(self.block)))
                self.block.clear()
        elif kind == DATA:
            reply.data_bytes += len(payload)
        elif kind == RST_STREAM:
            reply.is_ended, reply.reset_code = True, struct.unpack(">I", payload)[0]
        elif kind == GOAWAY:
            self.goaway = struct.unpack_from(">I", payload, 4)[0]
        elif kind == WINDOW_UPDATE:
            self.has_window |= stream == 0
        elif kind in (PING, SETTINGS) and not flags & ACK:
            self.is_settled |= kind == SETTINGS
            self.send(frame(kind, ACK, payload=payload if kind == PING else b""))
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            reply.is_ended = True
