"""Clients of a cluster under faults.

A `Client` knows some addresses of the cluster, and repeats a call at another member while one is unavailable. A `Workload` is
several clients that append to tables, read them, and compare what they read with the acknowledged appends.

    python workload.py ADDRESS NAME [CA]    puts the table NAME, fetches it from everywhere, and prints the locations and rows as
                                            JSON; CA: the text of the CAs in PEM, for grpc+tls://. It logs in
                                            by VOLLEY_USER and VOLLEY_PASSWORD, if they are set

It needs pyarrow only, and runs beside a test as well as in a container of it.
"""

import base64
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight

# Batches that arrive by Flight are not aligned, and pyarrow's grouping would warn about each of them.
os.environ.setdefault("ACERO_ALIGNMENT_HANDLING", "ignore")

# Seconds of one attempt: a paused member accepts a connection and does not answer.
ATTEMPT = 10
# Seconds after which a call that was repeated has failed.
CALL_LIMIT = 120
# Seconds during which an address that failed is tried last.
AVOIDED = 10
# Errors after which a client repeats a call (docs/guarantees.md).
RETRIABLE = (flight.FlightUnavailableError, flight.FlightTimedOutError)
REUSE = "arrow-flight-reuse-connection"
# gRPC would wait for up to 2 minutes between attempts to connect, and share that among all connections to an address.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]

# Rows of one append, and appends to a table before the next one is begun.
ROWS = 100
APPENDS = 100
# Rows of the table that is only read.
BASE_ROWS = 400_000
BASE = "verify/base"
KEYED = {"shards": 8, "shard_by": ["i"]}
# Enough shards that every node has one: of three nodes, all but once in 400,000 times.
SPREAD = {"shards": 32, "shard_by": ["i"]}


class Failed(Exception):
    """A call failed though it was repeated."""


class Wrong(Exception):
    """A read does not match the acknowledged writes."""


def descriptor(name, **options):
    return flight.FlightDescriptor.for_command(json.dumps({"table": name, **options}))


def options():
    return flight.FlightCallOptions(timeout=ATTEMPT, headers=login())


def login():
    """The header of VOLLEY_USER and VOLLEY_PASSWORD, if they are set. It is sent with every call, because the session of a
    Handshake may end before the test; members keep the logins of the last minute."""
    user, password = os.environ.get("VOLLEY_USER"), os.environ.get("VOLLEY_PASSWORD")
    if not user:
        return []
    return [(b"authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode()))]


class Client:
    """Calls a cluster at the given addresses and at the locations that it returns."""

    def __init__(self, addresses, ca=None):
        self.addresses = list(addresses)
        self.tls = {"tls_root_certs": ca} if ca else {}
        self.connections = {}
        self.failures = {}
        self.repeated = 0
        self.lock = threading.Lock()
        self.fetchers = ThreadPoolExecutor(8)
        self.pause = threading.Event()

    def at(self, address):
        with self.lock:
            if address not in self.connections:
                self.connections[address] = flight.connect(address, generic_options=CHANNEL, **self.tls)
            return self.connections[address]

    def forget(self, address):
        """After a failure: a new connection the next time, and other addresses first."""
        with self.lock:
            self.connections.pop(address, None)
            self.failures[address] = time.monotonic()

    def ordered(self, addresses):
        """In random order, those that failed lately last."""
        mixed = random.sample(addresses, len(addresses))
        late = time.monotonic() - AVOIDED
        return sorted(mixed, key=lambda address: self.failures.get(address, 0) > late)

    def call(self, what, attempt):
        """Calls `attempt` with a connection, repeatedly while members are unavailable; returns its result."""
        begin, wait = time.monotonic(), 0.05
        while True:
            address = self.ordered(self.addresses)[0]
            try:
                return attempt(self.at(address))
            except RETRIABLE as error:
                self.forget(address)
                self.repeated += 1
                if time.monotonic() - begin > CALL_LIMIT:
                    raise Failed(f"{what}: no success for {CALL_LIMIT} s; at last, from {address}: {error}") from error
            except (flight.FlightError, pa.ArrowException, OSError) as error:
                raise Failed(f"{what}, by {address}: {type(error).__name__}: {error}") from error
            self.pause.wait(wait)
            wait = min(2 * wait, 1)

    def put(self, name, rows, **how):
        """Puts rows; a `write_id` makes it one write, however often it is repeated."""

        def attempt(connection):
            writer, reader = connection.do_put(descriptor(name, **how), rows.schema, options())
            with writer:
                writer.write_table(rows)
                writer.done_writing()
                while (result := reader.read()) is not None:
                    last = result.to_pybytes()
            return json.loads(last)

        return self.call(f"a put to {name}", attempt)

    def fetch(self, name):
        """All rows of a table: its endpoints in parallel, each from the first location that answers."""

        def attempt(connection):
            info = connection.get_flight_info(descriptor(name), options())
            return pa.concat_tables(self.fetchers.map(lambda e: self.fetch_endpoint(connection, e), info.endpoints))

        return self.call(f"a read of {name}", attempt)

    def fetch_endpoint(self, home, endpoint):
        uris = [location.uri.decode() for location in endpoint.locations]
        for uri in self.ordered([uri for uri in uris if not uri.startswith(REUSE)]):
            try:
                return self.at(uri).do_get(endpoint.ticket, options()).read_all()
            except RETRIABLE:
                self.forget(uri)
        # Every member redeems every ticket.
        return home.do_get(endpoint.ticket, options()).read_all()

    def action(self, name, body=None):
        """The last result of a Volley action."""
        wanted = flight.Action(name, json.dumps(body or {}).encode())
        answers = self.call(name, lambda at: [r.body.to_pybytes() for r in at.do_action(wanted, options())])
        return json.loads(answers[-1])


def rows_of(n, count=ROWS):
    """The rows of append `n`; every value follows from `n` and the row's number `i`."""
    i = pa.array(range(count), pa.int64())
    return pa.table({"n": pa.array([n] * count, pa.int64()), "i": i, **content(pa.scalar(n, pa.int64()), i)})


def content(n, i):
    v = pc.add(pc.multiply(i, 1_000_003), n)
    return {"v": v, "s": pc.binary_join_element_wise("row", pc.cast(v, pa.string()), " ")}


def check_rows(name, found, acknowledged, begun, rows=ROWS):
    """Raises Wrong unless `found` has every acknowledged append once and in whole, and none that was never begun."""
    should = content(found["n"], found["i"])
    for column, values in should.items():
        if not pc.all(pc.equal(found[column], values)).as_py():
            raise Wrong(f"{name}: the column {column} has values that were never put")
    counted = found.group_by("n").aggregate([("i", "count"), ("i", "count_distinct"), ("i", "max")])
    columns = [counted[c].to_pylist() for c in ("n", "i_count", "i_count_distinct", "i_max")]
    there = {n: got for n, *got in zip(*columns)}
    if lost := set(acknowledged) - set(there):
        raise Wrong(f"{name}: {len(lost)} acknowledged appends are missing, among them {min(lost)}")
    if foreign := set(there) - set(begun):
        raise Wrong(f"{name}: the appends {sorted(foreign)[:5]} were never begun")
    if broken := [n for n, got in there.items() if got != [rows, rows, rows - 1]]:
        raise Wrong(f"{name}: append {broken[0]} is there with {there[broken[0]]} instead of {rows} rows, each once")


class Ledger:
    """A table with one writer: how many appends were begun and acknowledged."""

    def __init__(self, name):
        self.name = name
        self.begun = 0
        self.acknowledged = 0

    def check(self, client):
        """Reads the table, during appends too, and checks it."""
        least = self.acknowledged
        found = client.fetch(self.name)
        check_rows(self.name, found, range(least), range(self.begun))


class Workload:
    """Two writers and a reader, which run inside a `with` block."""

    def __init__(self, addresses, name="work", ca=None):
        self.addresses = addresses
        self.ca = ca
        # An earlier run on the same volumes has other names.
        self.name = f"verify/{name}-{random.randrange(1 << 32):08x}"
        self.ledgers = []
        self.stopping = threading.Event()
        self.error = None
        self.clients = []
        self.finished = {}
        self.counts = {"appends": 0, "reads": 0}
        self.longest = 0.0
        self.lock = threading.Lock()
        self.threads = []

    def __enter__(self):
        for k in range(2):
            self.begin(f"writer {k}", self.write, k)
        self.begin("reader", self.read)
        return self

    def begin(self, who, work, *arguments):
        client = Client(self.addresses, self.ca)
        self.clients.append(client)
        self.finished[who] = 0
        thread = threading.Thread(target=self.guard, args=(who, work, client, *arguments), daemon=True)
        self.threads.append(thread)
        thread.start()

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(CALL_LIMIT + ATTEMPT)

    def guard(self, who, work, client, *arguments):
        try:
            work(who, client, *arguments)
        except Exception as error:  # of any kind: the test must fail with it
            self.error = self.error or error

    def timed(self, who, kind, work):
        begin = time.monotonic()
        work()
        with self.lock:
            self.counts[kind] += 1
            self.finished[who] += 1
            self.longest = max(self.longest, time.monotonic() - begin)

    def write(self, who, client, k):
        table = 0
        while not self.stopping.is_set():
            ledger = Ledger(f"{self.name}/{k}/{table}")
            for n in range(APPENDS):
                self.timed(who, "appends", lambda: self.append(client, ledger, n))
                if n == 0:
                    self.ledgers.append(ledger)
                # The pace of the load.
                if self.stopping.wait(0.05):
                    return
            self.timed(who, "reads", lambda: ledger.check(client))
            table += 1

    @staticmethod
    def append(client, ledger, n):
        ledger.begun = n + 1
        how = {"mode": "append"} if n else {"mode": "create", **KEYED}
        client.put(ledger.name, rows_of(n), write_id=f"{ledger.name}/{n}".replace("/", "."), **how)
        ledger.acknowledged = n + 1

    def read(self, who, client):
        while not self.stopping.is_set():
            self.timed(who, "reads", lambda: check_base(client))
            if self.ledgers:
                self.timed(who, "reads", lambda: random.choice(self.ledgers).check(client))
            self.stopping.wait(0.1)

    def check(self):
        if self.error:
            raise self.error

    def progress(self, calls=3, seconds=CALL_LIMIT):
        """Waits until every client has completed some calls that began after this one."""
        # The current call began before.
        wanted = {who: done + 1 + calls for who, done in self.finished.items()}
        deadline = time.monotonic() + seconds
        while late := [who for who in wanted if self.finished[who] < wanted[who]]:
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"the {late[0]} has not ended {calls} calls in {seconds} s")
            self.stopping.wait(0.1)
        self.check()

    def figures(self):
        """The figures since the last call: counts, repeated attempts, the longest call in seconds."""
        with self.lock:
            now = {**self.counts, "repeated": sum(client.repeated for client in self.clients), "longest": self.longest}
            self.counts = dict.fromkeys(self.counts, 0)
            self.longest = 0.0
            for client in self.clients:
                client.repeated = 0
        return now

    def everything(self):
        """Reads and checks every table of the run; returns the number of acknowledged appends."""
        client = Client(self.addresses, self.ca)
        for ledger in self.ledgers:
            ledger.check(client)
        check_base(client)
        return sum(ledger.acknowledged for ledger in self.ledgers)


def put_base(client):
    client.put(BASE, rows_of(0, BASE_ROWS), **SPREAD)


def check_base(client):
    check_rows(BASE, client.fetch(BASE), [0], [0], BASE_ROWS)


def locations(client, name):
    """The locations of a table's endpoints: a list for each."""
    info = client.call(f"the plan of {name}", lambda at: at.get_flight_info(descriptor(name), options()))
    return [[location.uri.decode() for location in endpoint.locations] for endpoint in info.endpoints]


def everywhere(client, name):
    """Fetches every endpoint of a table from each of its locations; returns the rows by location."""

    def attempt(connection):
        rows = {}
        for endpoint in connection.get_flight_info(descriptor(name), options()).endpoints:
            for location in endpoint.locations:
                uri = location.uri.decode()
                at = connection if uri.startswith(REUSE) else client.at(uri)
                piece = at.do_get(endpoint.ticket, options()).read_all()
                rows[uri] = rows.get(uri, 0) + piece.num_rows
        return rows

    return client.call(f"a read of {name} from everywhere", attempt)


def round_trip(address, name, ca=None, rows=100_000):
    """Puts a table and fetches it, in parallel and from every location; returns locations, rows and times."""
    client = Client([address], ca)
    begin = time.monotonic()
    client.put(name, rows_of(7, rows), **SPREAD)
    put = time.monotonic()
    check_rows(name, client.fetch(name), [7], [7], rows)
    got = time.monotonic()
    return {
        "locations": locations(client, name),
        "rows": everywhere(client, name),
        "put_s": round(put - begin, 2),
        "get_s": round(got - put, 2),
    }


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    print(json.dumps(round_trip(*sys.argv[1:])))
