"""Protobuf messages as bytes, for calls that no library makes."""

# The methods of Flight begin with it.
SERVICE = "/arrow.flight.protocol.FlightService/"


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, content):
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(message):
    """The top-level fields of a protobuf message: number → list of values."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            value = number()
        else:
            size = {1: 8, 5: 4}.get(tag & 7) or number()
            value, at = message[at : at + size], at + size
        found.setdefault(tag >> 3, []).append(value)
    return found
