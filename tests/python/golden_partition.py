"""A second implementation of Volley's partition function, written from docs/partitioning.md.

Run it to print the golden values that common/src/partition/tests.rs holds:

    python tests/python/golden_partition.py            # name and hash of every case
    python tests/python/golden_partition.py --check    # compare with the Rust test's file
"""

import math
import pathlib
import re
import struct
import sys

import xxhash

NULL = b"\x00"
VALUE = b"\x01"


def integer(value):
    """Any integer, date, time, timestamp or duration: 8 bytes, two's complement."""
    return VALUE + (value & (2**64 - 1)).to_bytes(8, "little")


def floating(value):
    if math.isnan(value):
        return VALUE + (0x7FF8000000000000).to_bytes(8, "little")
    return VALUE + struct.pack("<d", value + 0.0 if value else 0.0)


def boolean(value):
    return VALUE + (b"\x01" if value else b"\x00")


def decimal(unscaled, scale):
    return VALUE + unscaled.to_bytes(32, "little", signed=True) + struct.pack("<b", scale)


def sized(value):
    data = value.encode() if isinstance(value, str) else value
    return VALUE + len(data).to_bytes(8, "little") + data


def year_month(months):
    return VALUE + struct.pack("<i", months)


def day_time(days, milliseconds):
    return VALUE + struct.pack("<ii", days, milliseconds)


def month_day_nano(months, days, nanoseconds):
    return VALUE + struct.pack("<iiq", months, days, nanoseconds)


def row_hash(*columns):
    return xxhash.xxh3_64_intdigest(b"".join(columns))


def shard(shards, *columns):
    return row_hash(*columns) % shards


LONG = "a string that is longer than sixteen bytes, and than any inline view; " * 5

GOLDEN = {
    "null": row_hash(NULL),
    "int 0": row_hash(integer(0)),
    "int 5": row_hash(integer(5)),
    "int -1": row_hash(integer(-1)),
    "int8 min": row_hash(integer(-128)),
    "int64 min": row_hash(integer(-(2**63))),
    "int64 max": row_hash(integer(2**63 - 1)),
    "uint64 max": row_hash(integer(2**64 - 1)),
    "float 0": row_hash(floating(-0.0)),
    "float 1.5": row_hash(floating(1.5)),
    "float nan": row_hash(floating(float("nan"))),
    "float -inf": row_hash(floating(float("-inf"))),
    "false": row_hash(boolean(False)),
    "true": row_hash(boolean(True)),
    "decimal 123.45": row_hash(decimal(12345, 2)),
    "decimal -1 scale -3": row_hash(decimal(-1, -3)),
    "decimal 10**75": row_hash(decimal(10**75, 0)),
    "date 19000": row_hash(integer(19000)),
    "timestamp 1700000000000": row_hash(integer(1700000000000)),
    "string empty": row_hash(sized("")),
    "string volley": row_hash(sized("volley")),
    "string unicode": row_hash(sized("Zürich ✈")),
    "string long": row_hash(sized(LONG)),
    "bytes 00ff": row_hash(sized(b"\x00\xff")),
    "interval 14 months": row_hash(year_month(14)),
    "interval 3 days -500 ms": row_hash(day_time(3, -500)),
    "interval 1 2 3": row_hash(month_day_nano(1, 2, 3)),
    "two columns": row_hash(integer(7), sized("x")),
    "two columns, null first": row_hash(NULL, sized("x")),
    "two columns, null second": row_hash(integer(7), NULL),
}


def rust_golden():
    """The cases of the Rust test, as `("name", 0x…)` pairs."""
    path = pathlib.Path(__file__).parents[2] / "common/src/partition/tests.rs"
    pairs = re.findall(r'\("([^"]+)", (0x[0-9a-f_]+)\)', path.read_text())
    return {name: int(value.replace("_", ""), 16) for name, value in pairs}


def main():
    if sys.argv[1:] == ["--check"]:
        rust = rust_golden()
        wrong = [name for name in GOLDEN.keys() | rust.keys() if GOLDEN.get(name) != rust.get(name)]
        for name in sorted(wrong):
            print(f"{name}: Python {GOLDEN.get(name)}, Rust {rust.get(name)}", file=sys.stderr)
        sys.exit(1 if wrong else 0)
    for name, value in GOLDEN.items():
        print(f'    ("{name}", 0x{value:016x}),')


if __name__ == "__main__":
    main()
