"""Servers that the case `thin` compares Volley with, on the loopback: a Parquet file over HTTP, and DuckDB's Quack.

    python thin_servers.py FILE.arrow PARQUET_PORT QUACK_PORT FOLDER

Waits for a line, prints where they serve as a line of JSON, and ends with the next line, or when its input ends. Quack needs the
packages of requirements.txt; without them its address is null.
"""

import functools
import http.server
import json
import os
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq

import quack

HOST = "127.0.0.1"


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass


def serve_parquet(table, port, folder):
    """The table as a file with ZSTD, the smallest that readers commonly get."""
    os.makedirs(folder, exist_ok=True)
    pq.write_table(table, os.path.join(folder, "table.parquet"), compression="zstd", row_group_size=1 << 20)
    server = http.server.ThreadingHTTPServer((HOST, port), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{HOST}:{port}/table.parquet"


def main():
    path, parquet_port, quack_port, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    sys.stdin.readline()
    table = pa.ipc.open_file(pa.memory_map(path)).read_all()
    ready = {"parquet": serve_parquet(table, parquet_port, os.path.join(folder, "parquet"))}
    served = quack.serve(table, HOST, quack_port)
    ready["quack"] = served[0] if served else None
    print(json.dumps(ready), flush=True)
    sys.stdin.readline()
    print("{}", flush=True)
    # The servers' threads need not end.
    os._exit(0)


main()
