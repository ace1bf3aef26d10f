"""Parquet files that are small and take much: memory, time, rows."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

MIB = 1 << 20
PARQUET = "application/vnd.apache.parquet"


def file(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False, **options)
    return sink.getvalue()


def shared_value():
    """A million rows that share one value of 16 MiB."""
    keys = pa.Array.from_buffers(pa.int32(), 1 << 20, [None, pa.py_buffer(bytes(4 << 20))])
    column = pa.DictionaryArray.from_arrays(keys, pa.array(["x" * (16 * MIB)]))
    return file(pa.table({"s": column}), dictionary_pagesize_limit=1 << 30)


def many_rows():
    """64 MiB of text in some kilobytes."""
    return file(pa.table({"s": pa.repeat("x" * 1024, 1 << 16)}))


def huge_page():
    """A page whose header says that it decompresses to 2 GiB."""
    # So large that its size has five bytes in the header, as that of 2 GiB has.
    body = bytearray(file(pa.table({"b": pa.array([bytes(200 * MIB)])}), use_dictionary=False))
    header = pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).data_page_offset
    # Thrift's compact protocol: the type 0, then the size, as variable-length zigzag.
    assert body[header:header + 3] == b"\x15\x00\x15"
    body[header + 3:header + 8] = b"\xfe\xff\xff\xff\x0f"
    return bytes(body)
