"""Values of the types that arrow-adbc's validation suite ingests."""

import numpy as np
import pyarrow as pa

UNITS = ("s", "ms", "us", "ns")


def temporal(kind, zones=(None,)):
    return [pa.array([None, -42, 0, 42], kind(unit, zone) if zone else kind(unit)) for unit in UNITS for zone in zones]


TEXTS, BYTES = [None, "", "", "1234", "例"], [None, b"", b"\x00\x01", b"\x01\x02\x03\x04", b"\xfe\xff"]
INTERVALS = [None, *map(pa.MonthDayNano, [(-5, -5, -42_000), (0, 0, 0), (5, 5, 42_000)])]
# By the type in the name of the case, columns in the order in which they are read back.
INGESTED = {
    "Bool": [pa.array([None, False, True])],
    **{f"Int{bits}": [pa.array([None, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1], f"int{bits}")] for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": [pa.array([None, 0, 2**bits - 1], f"uint{bits}")] for bits in (8, 16, 32, 64)},
    "Float16": [pa.array([None, np.float16(-1.5), np.float16(1.5)], pa.float16())],
    "Float32": [pa.array([None, -1.5, 1.5], pa.float32())],
    "Float64": [pa.array([None, -1.5, 1.5], pa.float64())],
    "String": [pa.array(TEXTS, pa.string())],
    "LargeString": [pa.array(TEXTS, pa.large_string())],
    "StringView": [pa.array([None, "", "", "longer than 12 bytes", "例"], pa.string_view())],
    "Binary": [pa.array(BYTES, pa.binary())],
    "LargeBinary": [pa.array(BYTES, pa.large_binary())],
    "FixedSizeBinary": [pa.array([None, b"abcd", b"efgh", b"ijkl", b"mnop"], pa.binary(4))],
    "BinaryView": [pa.array(BYTES, pa.binary_view())],
    "Duration": temporal(pa.duration),
    "Date32": [pa.array([None, 0, 42], pa.date32())],
    "Timestamp": temporal(pa.timestamp),
    "TimestampTz": temporal(pa.timestamp, zones=("UTC", "America/Los_Angeles")),
    "Interval": [pa.array(INTERVALS, pa.month_day_nano_interval())],
    "StringDictionary": [pa.array(TEXTS[1:]).dictionary_encode()],
    "ListOfInt32": [pa.array([None, [1, 2, 3], [4, 5]], pa.list_(pa.int32()))],
    "ListOfString": [pa.array([None, ["abc", "defg"], ["hijk"]], pa.list_(pa.string()))],
}
# The types of results that are others than those of the tables.
READ_AS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
