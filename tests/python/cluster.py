"""A cluster of real processes on loopback addresses of its own.

Every member listens on an address 127.A.B.N that no other cluster uses, with the default ports. So a
peer list can be written before its members run, and no port is guessed. Clusters of other processes
on this machine, also those of `tests/src/loopback.rs`, have other addresses.
"""

import atexit
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pyarrow.flight as flight

BIN = pathlib.Path(os.environ.get("VOLLEY_BIN_DIR", "target/debug")).resolve()


def wait_until(condition, seconds, what):
    """Polls until `condition()` is true, and returns its value."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        pause.wait(0.05)


class Member:
    """A server process with its command line, its variables and its log."""

    def __init__(self, name, host, command, folder, variables):
        self.name, self.host, self.command, self.folder, self.variables = name, host, command, folder, variables
        self.log = folder.parent / f"{name}.log"
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment() | self.variables
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()
        return self

    @staticmethod
    def _read(stdout, lines):
        """Has no `self`: the end of an earlier process's output must not get into the queue of the next one."""
        for line in stdout:
            lines.put(line.strip())
        lines.put(None)

    def wait_ready(self, seconds=60):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            line = None
        assert line and line.startswith(("ready grpc://", "ready grpc+tls://")), f"{self.name} did not start:\n{self.tail()}"
        return self

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9"""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def memory_anonymous(self):
        """Bytes of anonymous memory (RssAnon)."""
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0


def environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("VOLLEY_")} | {"RUST_LOG": "info"}


# A node writes to the disk on which the tests run however full it is.
ANY_DISK = ("--high-water", "100", "--low-water", "100")


def reserve():
    """A network as "127.A.B" that no other cluster uses, and the socket that reserves it; no member listens there."""
    for _ in range(1000):
        net = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        try:
            return net, socket.create_server((f"{net}.254", 8800))
        except OSError:
            continue
    raise AssertionError("no free address among 127.0.0.0/8: does this system have only 127.0.0.1?")


class Cluster:
    # Variables of all members.
    variables = {}

    def __init__(self, coordinators=3, nodes=4, zones=2, node_options=(), coordinator_options=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="volley-test-"))
        self.net, self.guard = reserve()
        peers = ",".join(f"{i}={self.net}.{i}:8825" for i in range(1, coordinators + 1))
        self.coordinators = [
            self._coordinator(i, peers, coordinator_options) for i in range(1, coordinators + 1)
        ]
        peer_ports = ",".join(f"{self.net}.{i}:8825" for i in range(1, coordinators + 1))
        self.node_options = node_options
        self.peer_ports = peer_ports
        self.nodes = [self._node(i, f"z{i % zones}") for i in range(1, nodes + 1)]
        atexit.register(self.close)
        for member in self.members():
            member.start()
        for member in self.members():
            member.wait_ready()
        wait_until(lambda: self.alive_nodes() == nodes, 30, "every node is known")

    def _flags(self, name, host, port):
        """The flags of a member's Flight listeners."""
        return ["--listen", f"{host}:{port}", "--advertise", f"grpc+tcp://{host}:{port}"]

    def _coordinator(self, i, peers, options):
        host, folder = f"{self.net}.{i}", self.folder / f"coordinator{i}"
        command = [
            str(BIN / "volley-coordinator"), "--id", str(i), "--peers", peers,
            *self._flags(f"coordinator{i}", host, 8815),
            "--peer-listen", f"{host}:8825", "--http-listen", f"{host}:8835",
            "--data-dir", str(folder), *options,
        ]
        return Member(f"coordinator{i}", host, command, folder, self.variables)

    def _node(self, i, zone):
        host, folder = f"{self.net}.{100 + i}", self.folder / f"node{i}"
        command = [
            str(BIN / "volley-node"), "--coordinators", self.peer_ports,
            *self._flags(f"node{i}", host, 8816),
            "--peer-listen", f"{host}:8826", "--http-listen", f"{host}:8836",
            "--data-dir", str(folder), "--zone", zone, *ANY_DISK, *self.node_options,
        ]
        return Member(f"node{i}", host, command, folder, self.variables)

    def members(self):
        return self.coordinators + self.nodes

    def address(self, member):
        port = 8815 if member in self.coordinators else 8816
        return f"grpc+tcp://{member.host}:{port}"

    def client(self, member=None, **options):
        return flight.connect(self.address(member or self.coordinators[0]), **options)

    def status(self, member=None):
        return action(self.client(member), "cluster_status")

    def alive_nodes(self):
        for coordinator in self.coordinators:
            if coordinator.alive():
                try:
                    nodes = self.status(coordinator)["nodes"]
                except flight.FlightError:
                    return -1
                return sum(1 for node in nodes if node["state"] == "alive")
        return -1

    def leader(self):
        """The leading coordinator."""
        def found():
            for coordinator in filter(Member.alive, self.coordinators):
                try:
                    leader = self.status(coordinator)["leader"]
                except flight.FlightError:
                    continue
                if leader and self.coordinators[leader - 1].alive():
                    return self.coordinators[leader - 1]
            return None
        return wait_until(found, 20, "a leader")

    def node_at(self, uri):
        return next(node for node in self.nodes if self.address(node) == uri)

    def parts_on_disk(self):
        # os.walk passes over folders that are removed meanwhile.
        files = (file for node in self.nodes for _, _, found in os.walk(node.folder / "parts") for file in found)
        return sorted(file for file in files if file.endswith(".arrow"))

    def close(self):
        for member in self.members():
            if member.alive():
                member.signal(signal.SIGCONT)
                member.kill()
        self.guard.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def action(client, name, body=None):
    """Runs a Volley action with a JSON body; returns its last result, parsed."""
    payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    results = [r.body.to_pybytes() for r in client.do_action(flight.Action(name, payload))]
    return json.loads(results[-1]) if results and results[-1] else None


def descriptor(name, **options):
    """A descriptor by path, or by a JSON command if there are options."""
    if options:
        return flight.FlightDescriptor.for_command(json.dumps({"table": name, **options}))
    return flight.FlightDescriptor.for_path(*name.split("/"))


def put(client, name, table, chunk=None, **options):
    """Puts a pyarrow table; returns the outcome, parsed."""
    writer, reader = client.do_put(descriptor(name, **options), table.schema)
    writer.write_table(table, max_chunksize=chunk)
    return finish(writer, reader)


def finish(writer, reader):
    writer.done_writing()
    last = None
    while (result := reader.read()) is not None:
        last = result.to_pybytes()
    writer.close()
    return json.loads(last)


def without_request_id(text):
    """The text of an error without the id of the request, which differs from call to call."""
    return re.sub(r" \(request [^)]*\)", "", text)


def get(client, name, **options):
    """Gets a whole table: every endpoint from its first location that answers."""
    import pyarrow as pa

    info = client.get_flight_info(descriptor(name, **options))
    return pa.concat_tables([read_endpoint(client, endpoint) for endpoint in info.endpoints])


def read_endpoint(client, endpoint):
    """Reads an endpoint from its first location that answers, at last from the member that was called."""
    for location in endpoint.locations:
        uri = location.uri.decode()
        try:
            if uri.startswith("arrow-flight-reuse-connection"):
                return client.do_get(endpoint.ticket).read_all()
            with flight.connect(uri) as there:
                return there.do_get(endpoint.ticket).read_all()
        except (flight.FlightUnavailableError, flight.FlightTimedOutError):
            continue
    return client.do_get(endpoint.ticket).read_all()
