"""A cluster with users: its first administrator, sessions, service tokens, grants, audit logs; with TLS or without.

Passwords and tokens of a cluster are kept, so that a test can search all that its processes wrote for them.
"""

import atexit
import base64
import http.client
import json
import pathlib
import re
import secrets
import shutil
import tempfile

import grpc
import pyarrow as pa
import pyarrow.flight as flight

from cluster import Cluster, action, descriptor, finish, wait_until
from protobuf import SERVICE
from tls_cluster import TlsCluster, volley

ADMIN = "root"
# A login verifies a password, which takes a debug build on a busy machine some seconds at most.
LOGIN = flight.FlightCallOptions(timeout=30)
# Every member knows a change of users and grants after a second; this is for a busy machine.
KNOWN = 20


class Bearer(flight.ClientMiddlewareFactory):
    """Sends a token with each call."""

    def __init__(self, token):
        super().__init__()
        self.token = token

    def start_call(self, info):
        return BearerOfCall(self.token)


class BearerOfCall(flight.ClientMiddleware):
    def __init__(self, token):
        super().__init__()
        self.token = token

    def sending_headers(self):
        return {"authorization": f"Bearer {self.token}"}


class TutorialHandler(flight.ClientAuthHandler):
    """The older way to log in, as tutorials write it."""

    def __init__(self, username, password):
        super().__init__()
        self.basic_auth = flight.BasicAuth(username, password)
        self.token = None

    def authenticate(self, outgoing, incoming):
        outgoing.write(self.basic_auth.serialize())
        self.token = incoming.read()

    def get_token(self):
        return self.token


class UserMembers:
    """What a cluster with users has beyond one without; its members run with `--bootstrap-admin-file`."""

    def __init__(self, audit=("--audit-data", "all"), coordinator_options=(), **options):
        self.audit, self.sessions, self.secrets = audit, {}, set()
        self.administered = False
        self.vault = pathlib.Path(tempfile.mkdtemp(prefix="volley-test-vault-"))
        atexit.register(shutil.rmtree, self.vault, ignore_errors=True)
        self.passwords = {}
        self.keep_password(ADMIN)
        file = self.vault / "administrator"
        file.write_text(f"{ADMIN}:{self.passwords[ADMIN]}\n")
        super().__init__(coordinator_options=("--bootstrap-admin-file", str(file), *coordinator_options), **options)
        self.settle()

    def _flags(self, name, host, port):
        flags = super()._flags(name, host, port)
        if self.audit is not None:
            flags += ["--audit-log", str(self.folder / f"{name}.audit"), *self.audit]
        return flags

    def alive_nodes(self):
        # Logins before there is an administrator would fail, and slow down later ones.
        logs = (coordinator.log.read_text(errors="replace") for coordinator in self.coordinators)
        self.administered = self.administered or any("the first administrator was created" in log for log in logs)
        return super().alive_nodes() if self.administered else -1

    # Secrets

    def keep(self, token):
        """Remembers the secret of a service token, or the signature of a session token; returns the token."""
        self.secrets.add(token.split("_", 2)[2] if token.startswith("volley_") else token.rpartition(".")[2])
        return token

    def keep_password(self, user):
        """A new password of a user, and what the header of `Basic` makes of it."""
        password = self.passwords[user] = secrets.token_urlsafe(18)
        self.secrets |= {password, base64.b64encode(f"{user}:{password}".encode()).decode().rstrip("=")}
        return password

    def leaks(self, paths):
        """Which of these files contain a secret."""
        known = [secret.encode() for secret in self.secrets]
        contents = ((path, path.read_bytes()) for path in paths if path.is_file())
        return [path for path, content in contents if any(secret in content for secret in known)]

    def logs(self):
        """What the processes wrote for people: logs and audit logs."""
        return [path for path in self.folder.iterdir() if path.is_file()]

    # Clients

    def token_of(self, user, token):
        return self.session(user) if token is None and user is not None else token

    def client(self, member=None, user=ADMIN, token=None, **options):
        """A client that sends a bearer with each call: of a user, or `token`; with `user=None` nothing."""
        token = self.token_of(user, token)
        return super().client(member, middleware=[Bearer(token)] if token else [], **options)

    def dial(self, location, user=ADMIN, token=None, **options):
        """The same at a location of an endpoint."""
        middleware = [Bearer(self.token_of(user, token))]
        return flight.connect(location, **self.trust(middleware=middleware, **options))

    def channel(self, member):
        """A gRPC channel without TLS."""
        return grpc.insecure_channel(self.address(member).partition("://")[2])

    def cli(self, *words, user=ADMIN, member=None, stdin=None, env=()):
        """Runs `volley` against a member as a user."""
        login = {} if user is None else {"VOLLEY_USER": user, "VOLLEY_PASSWORD": self.passwords[user]}
        address = self.address(member or self.coordinators[0])
        return volley("--cluster", address, *words, env=login | dict(env), stdin=stdin)

    def http(self, member, path, source="127.0.0.1", **headers):
        """GET at a member's HTTP port without TLS, from an address; returns status, headers and text."""
        port = 8835 if member in self.coordinators else 8836
        connection = http.client.HTTPConnection(member.host, port, timeout=30, source_address=(source, 0))
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    # Identity

    def login(self, user=ADMIN, member=None, **options):
        """Logs in with the password; returns the session token."""
        with self.client(member, user=None, **options) as client:
            header, value = client.authenticate_basic_token(user, self.passwords[user], LOGIN)
        assert header == b"authorization" and value.startswith(b"Bearer "), header
        return self.keep(value.decode().removeprefix("Bearer "))

    def session(self, user):
        """A session token of a user; the same each time."""
        if user not in self.sessions:
            self.sessions[user] = self.login(user)
        return self.sessions[user]

    def admin(self, name, body=None):
        """Runs an action as the administrator."""
        with self.client() as client:
            return action(client, name, body)

    def add_user(self, *grants, name=None, groups=()):
        """A new user with a password and grants of (role, prefix) or (role, prefix, columns); returns its name."""
        name = name or f"user-{secrets.token_hex(4)}"
        self.admin("create_user", {"user": name, "password": self.keep_password(name), "groups": list(groups)})
        for grant in grants:
            self.grant(f"user:{name}", *grant)
        self.settle()
        return name

    def grant(self, to, role, prefix, columns=None):
        body = {"role": role, "prefix": prefix, "to": to}
        return self.admin("grant", body if columns is None else body | {"columns": columns})

    def revoke(self, to, role, prefix):
        """Every member knows it afterwards."""
        assert self.admin("revoke", {"role": role, "prefix": prefix, "to": to}) == {"revoked": True}
        self.settle()

    def token(self, user=ADMIN, ttl_s=3600):
        """A new service token of a user."""
        return self.keep(self.admin("create_token", {"user": user, "ttl_s": ttl_s})["token"])

    def accepts(self, member, token):
        with self.client(member, token=token) as client:
            try:
                action(client, "whoami")
            except (flight.FlightUnauthenticatedError, flight.FlightUnavailableError):
                return False
        return True

    def settle(self):
        """Waits until every running member knows all users, tokens and grants: it knows a token that is newer."""
        newest = self.token()
        running = [member for member in self.members() if member.alive()]
        wait_until(lambda: all(self.accepts(member, newest) for member in running), KNOWN, "every member knows a new token")

    def refused_everywhere(self, token):
        """Waits until no member accepts a token; returns what each says."""
        def texts():
            found = []
            for member in self.members():
                with self.client(member, token=token) as client:
                    try:
                        list(client.list_flights())
                        return None
                    except flight.FlightUnauthenticatedError as error:
                        found.append(str(error))
            return found

        return wait_until(texts, KNOWN, "every member refuses a token")

    # Data

    def redeem(self, endpoint, user=ADMIN, token=None, location=0, **options):
        """Reads an endpoint at one of its locations."""
        with self.dial(endpoint.locations[location], user, token, **options) as there:
            return there.do_get(endpoint.ticket).read_all()

    def rows(self, name, user=ADMIN, token=None, member=None, **options):
        """A whole table, each endpoint from its first location."""
        with self.client(member, user, token) as client:
            endpoints = client.get_flight_info(descriptor(name, **options)).endpoints
        return pa.concat_tables([self.redeem(endpoint, user, token) for endpoint in endpoints])

    # Audit logs

    def audited(self, **values):
        """The lines of all audit files that have these values."""
        found = []
        for path in sorted(self.folder.glob("*.audit*")):
            whole = path.read_text().rpartition("\n")[0].splitlines()
            found += [json.loads(line) | {"member": path.name.partition(".")[0]} for line in whole]
        return [line for line in found if all(line.get(key) == value for key, value in values.items())]

    def wait_audited(self, **values):
        """The same, once there is one."""
        return wait_until(lambda: self.audited(**values), 10, f"an audit log has {values}")

    def close(self):
        super().close()
        shutil.rmtree(self.vault, ignore_errors=True)


class UserCluster(UserMembers, Cluster):
    """Without TLS."""

    def trust(self, **options):
        return options


class UserTlsCluster(UserMembers, TlsCluster):
    """With TLS."""


def searched(cluster):
    """A cluster for a fixture. Then its logs are shown if the test fails, and searched for passwords and tokens of the tests."""
    yield cluster
    for member in cluster.members():
        print(f"--- {member.name}\n{member.tail()}")
    leaks = cluster.leaks(cluster.logs())
    cluster.close()
    assert leaks == [], "a log has a password or token that the tests used"


def token_id(token):
    """The id of a service token."""
    return re.fullmatch(r"volley_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", token).group(1)


def claims(token):
    """Header and payload of a session token."""
    header, payload, _ = token.split(".")
    return [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, payload)]


def basic(user, password, padded=True):
    """The value of the header by which a client sends its password."""
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Basic {encoded if padded else encoded.rstrip('=')}"


def headers(**values):
    """Call options with these headers."""
    pairs = [(key.replace("_", "-").encode(), value.encode()) for key, value in values.items()]
    return flight.FlightCallOptions(timeout=30, headers=pairs)


def handshake(channel, *messages, **metadata):
    """A Handshake; returns the token of the reply's header, or None, and the payloads of its messages, as they were sent."""
    call = channel.stream_stream(SERVICE + "Handshake")(iter(messages), metadata=list(metadata.items()), timeout=30)
    replies = list(call)
    bearer = dict(call.initial_metadata()).get("authorization")
    return bearer and bearer.removeprefix("Bearer "), replies


def get_schema(client, *arguments):
    """The schema of a table. pyarrow's get_schema raises OSError when others raise FlightUnauthenticatedError."""
    try:
        return client.get_schema(*arguments)
    except OSError as error:
        if "unauthenticated error" in str(error):
            raise flight.FlightUnauthenticatedError(str(error)) from error
        raise


def put_schema(client, name, schema, **options):
    """A put without rows. The writer of a refused put with rows may fail before it learns why."""
    return finish(*client.do_put(descriptor(name, **options), schema))


def refusal_of(call):
    """The error by which a call is refused for want of identity or rights; None if it is not. Other errors, such as those of a
    missing table or an invalid body, are no refusals."""
    try:
        call()
    except (flight.FlightUnauthenticatedError, flight.FlightUnauthorizedError) as error:
        return error
    except (flight.FlightError, pa.ArrowException, KeyError, StopIteration):
        pass
    return None
