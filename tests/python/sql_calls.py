"""SQL by plain Flight calls, and tables to query."""

import json

import pyarrow as pa
import pyarrow.flight as flight

from cluster import read_endpoint
from protobuf import field, fields

# A query that runs longer than any test, with little memory.
ENDLESS = "SELECT count(*) AS n FROM generate_series(1, 1000000000000) WHERE value % 7 <> 3"


def sql_name(table):
    """A table's name in a statement."""
    schema, _, last = table.rpartition("/")
    return f'"{schema}"."{last}"' if schema else f'"{last}"'


def command(statement):
    return json.dumps({"sql": statement}).encode()


def plan(client, statement):
    return client.get_flight_info(flight.FlightDescriptor.for_command(command(statement)))


def query(client, statement, read=read_endpoint):
    """The rows of a query, its endpoints one after the other. Their schema must be the FlightInfo's."""
    info = plan(client, statement)
    parts = [read(client, endpoint) for endpoint in info.endpoints]
    for part in parts:
        assert part.schema.equals(info.schema, check_metadata=True), (part.schema, info.schema)
    return pa.concat_tables(parts)


def update(client, statement):
    """Runs a statement that changes tables; returns how many rows it has written."""
    descriptor = flight.FlightDescriptor.for_command(command(statement))
    writer, reader = client.do_put(descriptor, pa.schema([]))
    writer.done_writing()
    reply = reader.read()
    writer.close()
    # A count of zero has no bytes.
    return fields(reply.to_pybytes())[1][0] if reply is not None and reply.size else 0


def cancel(client, info):
    """CancelFlightInfo."""
    list(client.do_action(flight.Action("CancelFlightInfo", field(1, info.serialize()))))


def rows(table):
    """Rows as a sorted list, for results without an order."""
    return sorted(map(tuple, (row.values() for row in table.to_pylist())), key=repr)
