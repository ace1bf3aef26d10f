"""The cluster under attack: one coordinator and two nodes with small budgets of memory, and the users of the attacks.

Without users (`is_open`) everybody may do everything; with them, each attack has the rights of its role, and callers without identity have none.
"""

import pathlib
import sys

import pyarrow as pa
import pyarrow.flight as flight

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

from cluster import Cluster, action, put, wait_until  # noqa: E402

from raw_flight import RawClient  # noqa: E402

MIB = 1 << 20
PUT_MEMORY, RELAY_MEMORY = 64 * MIB, 128 * MIB
# What a member may take beside its budgets while it serves clients that do no harm.
SPARE = 64 * MIB
# What a user may do: name → role and prefix.
ROLES = {"mallory": ("owner", "/"), "rita": ("reader", "read"), "bob": ("owner", "bystander")}
ADMINISTRATOR = "root"
READ_TABLE, READ_ROWS = "read/large", 400_000


class Credentials(flight.ClientMiddlewareFactory, flight.ClientMiddleware):
    """Sends the header of a login with every call."""

    def __init__(self, header):
        flight.ClientMiddlewareFactory.__init__(self)
        flight.ClientMiddleware.__init__(self)
        self.header = header

    def start_call(self, info):
        return self

    def sending_headers(self):
        return dict([self.header])


class AttackCluster(Cluster):
    """See the file's description. `headers(user)` and `client(user=...)` have the credentials of a user."""

    def __init__(self, is_open):
        self.is_open, self.logins = is_open, {}
        # What attacks may have taken beside the budgets, for each stream or connection.
        self.extra_bytes = 0
        budgets = ["--relay-memory-bytes", str(RELAY_MEMORY)]
        super().__init__(coordinators=1, nodes=2, coordinator_options=budgets,
                         node_options=[*budgets, "--put-memory-bytes", str(PUT_MEMORY)])
        if not is_open:
            self._create_users()
        self._put_tables()
        self.pids = {member.name: member.process.pid for member in self.members()}
        self.resting = {member.name: member.memory_anonymous() for member in self.members()}

    def _coordinator(self, i, peers, options):
        if not self.is_open:
            file = self.folder / "administrator"
            file.write_text(f"{ADMINISTRATOR}:{self.password(ADMINISTRATOR)}\n")
            options = [*options, "--bootstrap-admin-file", str(file)]
        return super()._coordinator(i, peers, options)

    @staticmethod
    def password(user):
        return f"the password of {user}"

    def _create_users(self):
        with self.client() as root:
            for user, (role, prefix) in ROLES.items():
                action(root, "create_user", {"user": user, "password": self.password(user)})
                action(root, "grant", {"role": role, "prefix": prefix, "to": f"user:{user}"})
        for user in ROLES:
            wait_until(lambda: self._login(user), 30, f"{user} can log in")
            wait_until(lambda: self._is_known(user), 30, f"every member knows {user}")

    def _put_tables(self):
        """A table to read, of some 12 MB: more than a stream has of a window."""
        numbers = pa.array(range(READ_ROWS), pa.int64())
        text = pa.array([f"row {at:012}" for at in range(READ_ROWS)])
        with self.client(user="mallory") as client:
            put(client, READ_TABLE, pa.table({"n": numbers, "s": text}), shards=1, replicas=1)

    def _is_known(self, user):
        for member in self.members():
            with flight.connect(self.address(member), middleware=[Credentials(self.logins[user])]) as client:
                try:
                    action(client, "whoami")
                except flight.FlightUnauthenticatedError:
                    return False
        return True

    def _login(self, user):
        """The header of a session; `None` while it cannot be had."""
        if user not in self.logins:
            try:
                with flight.connect(self.address(self.coordinators[0])) as client:
                    self.logins[user] = client.authenticate_basic_token(user, self.password(user))
            except (flight.FlightError, pa.ArrowException):
                return None
        return self.logins[user]

    def login(self, user):
        """A pair of name and value, as pyarrow and gRPC take them; `None` in an open cluster and for callers without identity."""
        if self.is_open or user is None:
            return None
        return wait_until(lambda: self._login(user), 70, f"{user} can log in")

    def headers(self, user):
        """The credentials of a user as headers of text."""
        login = self.login(user)
        return [(login[0].decode(), login[1].decode())] if login else []

    def client(self, member=None, user=ADMINISTRATOR, **options):
        login = self.login(user)
        if login:
            options["middleware"] = [Credentials(login)]
        return super().client(member, **options)

    def raw(self, member, user):
        """A client whose messages are bytes."""
        return RawClient(self.host_port(member), self.headers(user))

    def host_port(self, member):
        return self.address(member).removeprefix("grpc+tcp://")

    def limit(self, member):
        """The bytes of anonymous memory that a member may have, whatever clients do."""
        puts = PUT_MEMORY if member in self.nodes else 0
        return self.resting[member.name] + puts + RELAY_MEMORY + SPARE + self.extra_bytes

    def sources(self, count):
        """Addresses of this machine that no member has: attackers that come from several machines."""
        return [f"{self.net}.{200 + at % 50}" for at in range(count)]
