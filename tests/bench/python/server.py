"""The C++ Flight server of a tutorial: tables in memory, sent by `RecordBatchStream`.

    python server.py HOST:PORT

Prints `ready grpc://HOST:PORT` when it serves. Tickets are a table's name, or JSON: {"table", "columns",
"part": [index, count], "compression"}.
"""

import json
import sys

import pyarrow as pa
import pyarrow.flight as flight

ENDPOINTS = 4


def asked(words):
    return json.loads(words) if words.startswith(b"{") else {"table": words.decode()}


class Tables(flight.FlightServerBase):
    def __init__(self, address):
        super().__init__(f"grpc://{address}")
        self.uri = f"grpc+tcp://{address}"
        self.tables = {}

    @staticmethod
    def name_of(descriptor):
        return asked(descriptor.command)["table"] if descriptor.command else "/".join(p.decode() for p in descriptor.path)

    def do_put(self, context, descriptor, reader, writer):
        batches = []
        while True:
            try:
                batches.append(reader.read_chunk().data)
            except StopIteration:
                break
        table = pa.Table.from_batches(batches, reader.schema)
        name = self.name_of(descriptor)
        self.tables[name] = table
        outcome = {"table": name, "version": 1, "rows": table.num_rows, "bytes": table.nbytes, "parts": 1, "write_id": ""}
        writer.write(json.dumps(outcome).encode())

    def do_get(self, context, ticket):
        wanted = asked(ticket.ticket)
        table = self.tables[wanted["table"]]
        if "columns" in wanted:
            table = table.select(wanted["columns"])
        if "part" in wanted:
            index, count = wanted["part"]
            first, last = (table.num_rows * at // count for at in (index, index + 1))
            table = table.slice(first, last - first)
        options = pa.ipc.IpcWriteOptions(compression=wanted.get("compression"))
        return flight.RecordBatchStream(table, options=options)

    def get_flight_info(self, context, descriptor):
        name = self.name_of(descriptor)
        table = self.tables[name]
        tickets = [json.dumps({"table": name, "part": [at, ENDPOINTS]}) for at in range(ENDPOINTS)]
        endpoints = [flight.FlightEndpoint(ticket, [self.uri]) for ticket in tickets]
        return flight.FlightInfo(table.schema, descriptor, endpoints, table.num_rows, table.nbytes)

    def do_action(self, context, action):
        if action.type != "drop_table":
            raise NotImplementedError(action.type)
        self.tables.pop(asked(action.body.to_pybytes())["table"], None)
        pa.default_memory_pool().release_unused()
        return [b"{}"]


def main():
    server = Tables(sys.argv[1])
    print(f"ready grpc://{sys.argv[1]}", flush=True)
    server.serve()


main()
