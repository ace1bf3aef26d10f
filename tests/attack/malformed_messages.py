"""A writer whose messages say what is not so: lengths, offsets, indices, sizes, depths."""

import random
import struct
import zlib

import pyarrow as pa

import flatbuffer
from attack import CLIENT_CODES, Attack, Problems, check_clean, check_refused, tally
from flatbuffer import BODY_LENGTH, BUFFERS, LENGTH, NODES
from protobuf import field
from raw_flight import command_descriptor, ipc_messages, path_descriptor
from raw_http2 import RawConnection

TEXT = pa.table({"s": ["first", "second", "third"], "n": pa.array([1, 2, 3], pa.int64())})
CODED = pa.table({"d": pa.array(["x", "y", "x"]).dictionary_encode()})
TABLE = path_descriptor(b"attack", b"malformed")
MIB = 1 << 20


def text_with(change, index=1):
    """The messages of TEXT, one of them changed by `change(header, body)`; 1 is the batch."""
    messages = ipc_messages(TEXT)
    change(*messages[index])
    return messages


def in_batch(change):
    """As `text_with`; `change(batch)` gets the RecordBatch table."""
    return text_with(lambda header, body: change(flatbuffer.batch(header)))


def node(member, value):
    """The first FieldNode: its length (0) or null count (1)."""
    return in_batch(lambda batch: batch.set_long(batch.item(NODES, 0) + 8 * member, value))


def buffer(index, member, value):
    """A Buffer of the batch: its offset (0) or length (1). 0 to 2 are validity, offsets and data of the texts."""
    return in_batch(lambda batch: batch.set_long(batch.item(BUFFERS, index) + 8 * member, value))


def rows(value):
    def change(batch):
        batch.set_long(batch.position(LENGTH), value)
        for index in range(2):
            batch.set_long(batch.item(NODES, index), value)
    return in_batch(change)


def offset(index, value):
    """An offset of the texts."""
    def change(header, body):
        at = struct.unpack_from("<q", header, flatbuffer.batch(header).item(BUFFERS, 1))[0]
        struct.pack_into("<i", body, at + 4 * index, value)
    return text_with(change)


def replaced(old, new, index=1, part=1):
    """Bytes of a message replaced: of its body (1) or its header (0)."""
    def change(*message):
        at = bytes(message[part]).index(old)
        message[part][at : at + len(old)] = new
    return text_with(change, index)


def body_length(value):
    return text_with(lambda header, _: flatbuffer.message(header).set_long(flatbuffer.message(header).position(BODY_LENGTH), value))


def index_out_of_range(value):
    messages = ipc_messages(CODED)
    header, body = messages[2]
    at = struct.unpack_from("<q", header, flatbuffer.batch(header).item(BUFFERS, 1))[0]
    struct.pack_into("<i", body, at + 4, value)
    return messages


def dictionary_with(change):
    messages = ipc_messages(CODED)
    change(flatbuffer.batch(messages[1][0], is_dictionary=True))
    return messages


def declares(codec, size):
    """A compressed batch that says its first values have `size` bytes when they are decompressed."""
    numbers = pa.table({"n": pa.array([7] * 10_000, pa.int64())})
    messages = ipc_messages(numbers, compression=codec)
    header, body = messages[1]
    at = struct.unpack_from("<q", header, flatbuffer.batch(header).item(BUFFERS, 1))[0]
    struct.pack_into("<q", body, at, size)
    return messages


def zero_width(kind, count):
    """A batch of a type without bytes that says it has `count` rows."""
    messages = ipc_messages(pa.table({"z": pa.nulls(1).cast(kind) if kind != pa.null() else pa.nulls(1)}))
    batch = flatbuffer.batch(messages[1][0])
    batch.set_long(batch.position(LENGTH), count)
    batch.set_long(batch.item(NODES, 0), count)
    if kind == pa.null():
        batch.set_long(batch.item(NODES, 0) + 8, count)
    return messages


def many_columns(count):
    column = pa.array([1], pa.int8())
    return ipc_messages(pa.table([column] * count, names=[f"c{at}" for at in range(count)]))


# What is sent, and what the refusal says. All are INVALID_ARGUMENT or RESOURCE_EXHAUSTED.
REFUSED = {
    "an offset beyond the data": (lambda: offset(1, 1_000_000), "offset|length|beyond|exceed"),
    "a negative offset": (lambda: offset(0, -1), "offset|negative"),
    "offsets that go back": (lambda: offset(1, 12), "offset|monoton|decreas|order"),
    "the largest offset": (lambda: offset(3, (1 << 31) - 1), "offset|length|beyond|exceed"),
    "text that is no UTF-8": (lambda: replaced(b"first", b"\xff\xfe\xff\xfe\xff"), "UTF-8|utf8"),
    "text of overlong UTF-8": (lambda: replaced(b"second", b"\xc0\xae\xc0\xae\xc0\xaf"), "UTF-8|utf8"),
    "a surrogate in text": (lambda: replaced(b"first", b"\xed\xa0\x80\xed\xb0"), "UTF-8|utf8"),
    "a column's name that is no UTF-8": (lambda: replaced(b"s\0", b"\xff\0", index=0, part=0), "UTF-8|utf8"),
    "a negative number of rows": (lambda: rows(-1), "-1|negative|rows|length"),
    "the smallest number of rows": (lambda: rows(-(1 << 63)), "negative|rows|length|-9223372036854775808"),
    "2^62 rows": (lambda: rows(1 << 62), "rows|length|buffer|bytes"),
    "a negative length of a column": (lambda: node(0, -1), "-1|negative|rows|length"),
    "a column longer than its batch": (lambda: node(0, 4), "rows|length"),
    "a negative number of nulls": (lambda: node(1, -1), "-1|negative|null"),
    "more nulls than rows": (lambda: node(1, 1 << 40), "null"),
    "a negative offset of a buffer": (lambda: buffer(2, 0, -8), "-8|negative|buffer"),
    "a negative length of a buffer": (lambda: buffer(2, 1, -1), "-1|negative|buffer"),
    "a buffer beyond the body": (lambda: buffer(2, 0, 1 << 20), "buffer|body"),
    "a buffer of 2^62 bytes": (lambda: buffer(2, 1, 1 << 62), "buffer|body"),
    "a buffer whose end overflows": (lambda: buffer(2, 0, (1 << 63) - 8), "buffer|body"),
    "a negative length of the body": (lambda: body_length(-1), "body"),
    "a body of 1 TB that is not sent": (lambda: body_length(1 << 40), "body"),
    "an index beyond its dictionary": (lambda: index_out_of_range(1_000_000), "dictionar|index|key|out of bounds"),
    "a negative index": (lambda: index_out_of_range(-1), "dictionar|index|key|out of bounds"),
    "a dictionary of -1 values": (lambda: dictionary_with(lambda b: b.set_long(b.position(LENGTH), -1)), "-1|negative|rows|length"),
    "LZ4 that declares 1 TB": (lambda: declares("lz4", 1 << 40), "declare|decompress|limit|bytes"),
    "ZSTD that declares 1 TB": (lambda: declares("zstd", 1 << 40), "declare|decompress|limit|bytes"),
    "LZ4 that declares 2^63 - 1 bytes": (lambda: declares("lz4", (1 << 63) - 1), "declare|decompress|limit|bytes"),
    "ZSTD that declares -2 bytes": (lambda: declares("zstd", -2), "declare|decompress|negative|-2|bytes"),
    "ZSTD that declares too little": (lambda: declares("zstd", 8), "decompress|bytes|ZSTD|buffer"),
    "100,000 levels of lists": (lambda: [(flatbuffer.nested_schema(100_000), b"")], "nest|deep|depth|level|flatbuffer"),
    "1,000 levels of lists": (lambda: [(flatbuffer.nested_schema(1_000), b"")], "nest|deep|depth|level|flatbuffer"),
}

# These may be taken, if they cost as little as they have bytes; otherwise the refusal gives a reason.
TAKEN_OR_REFUSED = {
    "2^31 rows of nulls": lambda: zero_width(pa.null(), 1 << 31),
    "2^31 rows of binary(0)": lambda: zero_width(pa.binary(0), 1 << 31),
    "2^31 rows of an empty struct": lambda: zero_width(pa.struct([]), 1 << 31),
    "2^31 rows of lists of no items": lambda: zero_width(pa.list_(pa.int8(), 0), 1 << 31),
    "2^63 - 1 rows of nulls": lambda: zero_width(pa.null(), (1 << 63) - 1),
    "100,000 columns": lambda: many_columns(100_000),
    "10,000 columns": lambda: many_columns(10_000),
}


def send_each(cases, check, cluster, effort):
    """Every message to every kind of member, and a sound put on the same connection after it."""
    problems, answers, made = Problems(), [], {what: make() for what, make in cases.items()}
    for _ in effort.rounds():
        for member in (cluster.coordinators[0], cluster.nodes[0]):
            with cluster.raw(member, "mallory") as client:
                for what, messages in made.items():
                    result = client.put(messages, TABLE)
                    answers.append(result[0])
                    with problems.collected():
                        check(f"{what}, at {member.name}", result)
                result = client.put(ipc_messages(TEXT), path_descriptor(b"attack", b"sound"))
                assert result[0] == "OK", f"a sound put after these: {result}"
    problems.raise_any()
    return tally(answers)


def refused_messages(cluster, effort):
    def check(what, result):
        words = REFUSED[what.rpartition(", at ")[0]][1]
        check_refused(what, result, words, {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"})
    return send_each({what: make for what, (make, _) in REFUSED.items()}, check, cluster, effort)


def costly_messages(cluster, effort):
    return send_each(TAKEN_OR_REFUSED, check_clean, cluster, effort)


def changed_bytes(cluster, effort):
    """Valid messages with bytes changed by chance: anything may come of it but a fault of the server."""
    chance, codes = random.Random(14), []
    for number in effort.rounds():
        for member in (cluster.coordinators[0], cluster.nodes[0]):
            with cluster.raw(member, "mallory") as client:
                for _ in range(20):
                    messages = ipc_messages(chance.choice([TEXT, CODED]))
                    part = chance.choice([part for message in messages for part in message if part])
                    for _ in range(chance.randint(1, 4)):
                        part[chance.randrange(len(part))] = chance.randrange(256)
                    result = client.put(messages, path_descriptor(b"attack", b"changed"))
                    check_clean(f"round {number}", result)
                    codes.append(result[0])
    return tally(codes)


def nested_requests(cluster, effort):
    """What is parsed before any message of rows: types, options, JSON and protobuf, nested 100,000 times."""
    deep = 100_000
    json_list, json_map = b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep
    kind = b'{"table": "attack/deep", "fields": [{"name": "c", "type": "' + b"List(" * deep + b"Int8" + b")" * deep + b'"}]}'
    groups = b"\x0b" * deep + b"\x0c" * deep
    problems = Problems()

    def check(what, result, words=".", codes=CLIENT_CODES):
        with problems.collected():
            check_refused(f"{what} at {member.name}", result, words, codes)

    for _ in effort.rounds():
        for member in (cluster.coordinators[0], cluster.nodes[0]):
            with cluster.raw(member, "mallory") as client:
                for text in (json_list, json_map, b'{"table": ' + json_list + b"}"):
                    check("options", client.call("GetFlightInfo", command_descriptor(text)), "JSON|nest|recurs|name|1,024")
                    check("a ticket", client.call("DoGet", field(1, text)))
                    check("an action", client.action("create_table", text))
                check("a type", client.action("create_table", kind), "nest|deep|depth|level|type")
                check("protobuf", client.call("GetFlightInfo", groups), codes=CLIENT_CODES | {"INTERNAL"})
    problems.raise_any()
    return "types, options, JSON and protobuf"


def gzip_bombs(cluster, effort):
    """A message of zeros that gzip makes a thousand times smaller."""
    size = effort.count(1 << 30)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        for method in ("GetFlightInfo", "DoPut", "DoAction", "ListFlights"):
            with RawConnection(cluster.host_port(member)) as connection:
                connection.settle()
                headers = [*cluster.headers("mallory"), ("grpc-encoding", "gzip")]
                path = "/arrow.flight.protocol.FlightService/" + method
                request = bytearray(connection.request(path, packed, headers))
                # The message's prefix says that it is compressed.
                request[request.index(b"\0" + struct.pack(">I", len(packed)))] = 1
                connection.send(bytes(request))
                reply = connection.replies[1]
                connection.read(lambda: reply.is_ended, 60)
                assert reply.code or reply.reset_code is not None, f"{method} at {member.name}: {vars(reply)}"
    return f"{len(packed)} bytes for {size // MIB} MiB"


ATTACKS = [
    Attack("lying messages", "offsets, lengths, indices, UTF-8, sizes and depths that are not so", refused_messages),
    Attack("costly messages", "2^31 rows without bytes, 100,000 columns", costly_messages),
    Attack("changed bytes", "valid messages with bytes changed by chance", changed_bytes),
    Attack("nested requests", "JSON, types and protobuf nested 100,000 times", nested_requests),
    Attack("gzip bombs", "messages that decompress to a thousand times their size", gzip_bombs),
]
