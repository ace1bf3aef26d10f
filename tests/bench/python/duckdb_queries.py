"""Runs queries with DuckDB over Parquet files, for `cargo bench-sql`.

Each line of JSON is answered by one: `import` makes the connection, `table` makes a view of a Parquet file, `query` runs a query, takes
all its rows, and answers with its seconds, and the CPU seconds of this process meanwhile.
"""

import json
import sys
import time


class Engine:
    def __init__(self):
        self.connection = None

    def answer(self, request):
        if request["do"] == "import":
            import duckdb

            self.connection = duckdb.connect()
            return {"version": duckdb.__version__}
        if request["do"] == "table":
            path = request["path"].replace("'", "''")
            self.connection.execute(f"CREATE VIEW {request['name']} AS SELECT * FROM read_parquet('{path}')")
            return {}
        begin, cpu = time.monotonic(), time.process_time()
        self.connection.execute(request["sql"]).fetchall()
        return {"seconds": time.monotonic() - begin, "cpu": time.process_time() - cpu}


def main():
    engine = Engine()
    for line in sys.stdin:
        try:
            answer = engine.answer(json.loads(line))
        except Exception as error:  # The other process reports it, and goes on.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
