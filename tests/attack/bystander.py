"""A client that does no harm, in a process of its own: measures how long its calls take while others attack.

    python bystander.py CONFIGURATION     (JSON: coordinator, node, header)

Reads `begin` and `end` from its standard input; after `end` prints the seconds of each call by kind, and its errors, as one line
of JSON.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight

TABLE = "bystander/small"
ROWS = pa.table({"n": range(100), "s": ["some text"] * 100})
# A call that takes longer counts as failed, seconds.
DEADLINE = 30
UNSHARED = [("grpc.use_local_subchannel_pool", 1)]


class Caller:
    """Makes the bystander's calls, one after the other."""

    def __init__(self, coordinator, node, header):
        self.addresses = {"coordinator": coordinator, "node": node}
        headers = [tuple(part.encode() for part in header)] if header else []
        self.options = flight.FlightCallOptions(timeout=DEADLINE, headers=headers)
        self.coordinator, self.node = flight.connect(coordinator), flight.connect(node)
        self.descriptor = flight.FlightDescriptor.for_path(*TABLE.split("/"))

    def connect(self):
        """A new connection, and the first call on it."""
        with flight.connect(self.addresses["coordinator"], generic_options=UNSHARED) as client:
            client.get_schema(self.descriptor, self.options)

    def plan(self):
        self.info = self.coordinator.get_flight_info(self.descriptor, self.options)

    def first_byte(self):
        reader = self.node.do_get(self.info.endpoints[0].ticket, self.options)
        assert reader.read_chunk().data.num_rows

    def put(self):
        writer, reader = self.node.do_put(self.descriptor, ROWS.schema, self.options)
        with writer:
            writer.write_table(ROWS)
            writer.done_writing()
            while reader.read() is not None:
                pass


KINDS = ("put", "connect", "plan", "first_byte")


def measure(caller, is_active):
    """Calls in turn while `is_active`; returns seconds by kind, and errors."""
    seconds, errors = {kind: [] for kind in KINDS}, []
    while is_active.is_set():
        for kind in KINDS:
            begin = time.monotonic()
            try:
                getattr(caller, kind)()
                seconds[kind].append(time.monotonic() - begin)
            except (flight.FlightError, pa.ArrowException, OSError, KeyError) as error:
                errors.append(f"{kind}: {type(error).__name__}: {str(error)[:300]}")
    return {"seconds": seconds, "errors": errors}


def main():
    caller, is_active = Caller(**json.loads(sys.argv[1])), threading.Event()
    result = []
    for line in sys.stdin:
        if line.strip() == "begin":
            is_active.set()
            result.clear()
            thread = threading.Thread(target=lambda: result.append(measure(caller, is_active)))
            thread.start()
        else:
            is_active.clear()
            thread.join()
            print(json.dumps(result[0]), flush=True)


class Bystander:
    """That process, as the suite sees it; inside a `with` block it measures."""

    def __init__(self, cluster):
        login = cluster.headers("bob")
        asked = {
            "coordinator": cluster.address(cluster.coordinators[0]),
            "node": cluster.address(cluster.nodes[0]),
            "header": login[0] if login else None,
        }
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), json.dumps(asked)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)

    def __enter__(self):
        self._say("begin")
        return self

    def __exit__(self, *_):
        self._say("end")
        result = json.loads(self.process.stdout.readline())
        self.seconds, self.errors = result["seconds"], result["errors"]

    def _say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def p99(self):
        """The 99th percentile of each kind of call, seconds; none of a kind that never succeeded."""
        return {kind: percentile_99(values) for kind, values in self.seconds.items() if values}

    def close(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE)


def percentile_99(values):
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


if __name__ == "__main__":
    main()
