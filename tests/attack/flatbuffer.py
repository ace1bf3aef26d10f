"""The flatbuffers of Arrow IPC messages: finds fields in valid ones, to change their bytes, and builds what no library writes.

Slots are the positions of fields in Message.fbs and Schema.fbs of Apache Arrow.
"""

import struct

# Message
VERSION, HEADER_TYPE, HEADER, BODY_LENGTH = range(4)
# RecordBatch; a dictionary batch has one in its slot DATA.
LENGTH, NODES, BUFFERS, COMPRESSION = range(4)
DATA = 1
# Field
NAME, NULLABLE, TYPE_TYPE, TYPE, DICTIONARY, CHILDREN = range(6)

# The number of MetadataVersion V5.
METADATA_V5 = 4
HEADER_SCHEMA = 1
TYPE_NULL, TYPE_LIST = 1, 12


class Table:
    """A table in a message that can be changed."""

    def __init__(self, data, at):
        self.data, self.at = data, at

    def position(self, slot):
        """Where the field is; the writer must have stored it."""
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        size = struct.unpack_from("<H", self.data, vtable)[0]
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)[0] if 4 + 2 * slot < size else 0
        assert offset, f"the field {slot} is not stored"
        return self.at + offset

    def target(self, slot):
        """Where the offset of the field points to."""
        at = self.position(slot)
        return at + struct.unpack_from("<I", self.data, at)[0]

    def table(self, slot):
        return Table(self.data, self.target(slot))

    def item(self, slot, index):
        """Where the item of a vector of pairs of 64-bit numbers begins: a FieldNode or a Buffer."""
        at = self.target(slot)
        assert index < struct.unpack_from("<I", self.data, at)[0]
        return at + 4 + 16 * index

    def set_long(self, at, value):
        struct.pack_into("<q", self.data, at, value)


def message(header):
    """The root table of a message's header, a bytearray."""
    return Table(header, struct.unpack_from("<I", header, 0)[0])


def batch(header, is_dictionary=False):
    """The RecordBatch in a message's header."""
    found = message(header).table(HEADER)
    return found.table(DATA) if is_dictionary else found


def nested_schema(depth):
    """The header of a schema message with one field: lists of lists, so deep, and nulls in the innermost. Offsets point forward, so
    parents stand before their children; all fields have one vtable, one type and one name."""
    out = bytearray(4)

    def place(layout, *values):
        out.extend(bytes(-len(out) % 4))
        out.extend(struct.pack("<" + layout, *values))
        return len(out) - struct.calcsize("<" + layout)

    def point(at, to):
        struct.pack_into("<I", out, at, to - at)

    # A vtable has its own size, that of its tables, and where in them each slot is. A table begins with the distance to it.
    vtable = place("5H", 10, 12, 4, 6, 8)
    root = place("ihBBI", len(out) + -len(out) % 4 - vtable, METADATA_V5, HEADER_SCHEMA, 0, 0)
    point(0, root)
    vtable = place("4H", 8, 8, 0, 4)
    schema = place("iI", len(out) - vtable, 0)
    point(root + 8, schema)
    fields = place("II", 1, 0)
    point(schema + 4, fields)
    vtable = place("8H", 16, 20, 8, 0, 4, 12, 0, 16)
    first = len(out)
    point(fields + 4, first)
    # A field has 20 bytes; the vector of its children has its length, and the offset of the next field, which follows.
    size = 28
    kind = first + size * depth + 4
    name = kind + 4
    for at in range(first, first + size * depth, size):
        is_last = at + size * 2 > kind
        field_kind = TYPE_NULL if is_last else TYPE_LIST
        out += struct.pack("<iB3xIII", at - vtable, field_kind, name - at - 8, kind - at - 12, 4)
        out += struct.pack("<II", 0 if is_last else 1, 0 if is_last else 4)
    # A type without fields, and the name.
    out += struct.pack("<HHiI4s", 4, 4, 4, 1, b"n")
    return bytes(out + bytes(-len(out) % 8))
