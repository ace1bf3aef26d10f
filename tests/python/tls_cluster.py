"""A cluster with TLS on all ports, and the certificates of its members and clients.

`volley certs` makes the certificates, also those of another authority; only what it does not issue, one that has expired, is made here.
"""

import atexit
import datetime
import ipaddress
import json
import pathlib
import re
import shutil
import ssl
import subprocess
import tempfile

import pyarrow.flight as flight
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster import BIN, Cluster, environment, wait_until

# Each client of a test connects by itself: gRPC shares failed connections, and dials again only after a pause.
UNSHARED = [("grpc.use_local_subchannel_pool", 1)]
# No call on an idle cluster takes longer, seconds.
PROMPT = flight.FlightCallOptions(timeout=5)
REFUSED = "connection refused"


def volley(*words, env=(), stdin=None):
    """Runs `volley`, with a text as its standard input; returns its exit code, standard output and standard error."""
    command = [str(BIN / "volley"), *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, env=environment() | dict(env))


class Issued:
    """The files of a certificate and its key."""

    def __init__(self, cert, key):
        self.cert, self.key = pathlib.Path(cert), pathlib.Path(key)

    def pair(self):
        """As pyarrow's client takes them."""
        return {"cert_chain": self.cert.read_bytes(), "private_key": self.key.read_bytes()}

    def der(self):
        """The certificate as a TLS client sees it."""
        return ssl.PEM_cert_to_DER_cert(self.cert.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n")


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        done = volley("certs", "init", self.folder)
        assert done.returncode == 0, done.stderr
        self.ca, self.ca_key = self.folder / "ca.crt", self.folder / "ca.key"

    def issue(self, *holder):
        """`holder`: as ("--user", "ana")."""
        done = volley("--json", "certs", "issue", self.folder, *holder)
        assert done.returncode == 0, done.stderr
        files = json.loads(done.stdout)
        return Issued(files["certificate"], files["key"])

    def issue_expired(self, name, key_file, names, use):
        """A certificate for the key of another one; it expired a day ago."""
        ca = x509.load_pem_x509_certificate(self.ca.read_bytes())
        ca_key = serialization.load_pem_private_key(self.ca_key.read_bytes(), None)
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * day)
            .not_valid_after(now - day)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        file = self.folder / f"{name}-expired.crt"
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + self.ca.read_bytes())
        return Issued(file, key_file)

    def issue_expired_server(self, host, issued):
        names = [x509.IPAddress(ipaddress.ip_address(host))]
        return self.issue_expired(host, issued.key, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_expired_user(self, name, issued):
        names = [x509.UniformResourceIdentifier(f"volley://user/{name}")]
        return self.issue_expired(name, issued.key, names, ExtendedKeyUsageOID.CLIENT_AUTH)


class TlsCluster(Cluster):
    """Members that demand TLS of each other. `listeners`: names of Flight listeners, with TLS but for "plain". With names, the
    HTTP ports have no TLS, no address is advertised, and the listener "mutual" demands certificates of clients."""

    # Every refused connection is logged, however many there are in a second.
    variables = {"VOLLEY_LOG": "info,volley_common::server::serve::preface=debug"}

    def __init__(self, listeners=("",), **options):
        self.certificates = pathlib.Path(tempfile.mkdtemp(prefix="volley-test-tls-"))
        atexit.register(shutil.rmtree, self.certificates, ignore_errors=True)
        self.authority = Authority(self.certificates / "authority")
        self.listeners, self.peer_files, self.server_files = listeners, {}, {}
        super().__init__(**options)

    def _flags(self, name, host, port):
        role, number = re.fullmatch(r"([a-z]+)(\d+)", name).groups()
        peer = self.authority.issue("--member", f"{role}/{number if role == 'coordinator' else name}")
        server = self.authority.issue("--server", host)
        self.peer_files[name], self.server_files[name] = peer, server
        flags = ["--peer-ca", self.authority.ca, "--peer-cert", peer.cert, "--peer-key", peer.key]
        for at, listener in enumerate(self.listeners):
            prefix = listener and f"{listener}="
            flags += ["--listen", f"{prefix}{host}:{port + 1000 * at}"]
            if not listener:
                flags += ["--advertise", f"grpc+tls://{host}:{port}"]
            if listener != "plain":
                flags += ["--tls-cert", f"{prefix}{server.cert}", "--tls-key", f"{prefix}{server.key}"]
            if listener == "mutual":
                flags += ["--tls-client-ca", f"{prefix}{self.authority.ca}", "--tls-client-auth", "required"]
        return list(map(str, flags))

    def port(self, member, kind, listener=None):
        """HOST and port of a member's "flight", "peer" or "http" port."""
        first = {"flight": 8815, "peer": 8825, "http": 8835}[kind] + (member in self.nodes)
        return member.host, first + 1000 * (self.listeners.index(listener) if listener else 0)

    def address(self, member, listener=None, scheme="grpc+tls"):
        host, port = self.port(member, "flight", listener)
        return f"{scheme}://{host}:{port}"

    def trust(self, **options):
        """The options of a client that trusts the cluster's authority."""
        return {"tls_root_certs": self.authority.ca.read_bytes(), "generic_options": UNSHARED, **options}

    def client(self, member=None, listener=None, **options):
        return flight.connect(self.address(member or self.coordinators[0], listener), **self.trust(**options))

    def context(self, member=None):
        """Python's TLS, trusting the authority; with `member`, as that member towards another one."""
        context = ssl.create_default_context(cafile=self.authority.ca)
        if member is not None:
            context.check_hostname = False
            context.load_cert_chain(self.peer_files[member.name].cert, self.peer_files[member.name].key)
        return context

    def volley(self, *words, member=None, listener=None, scheme="grpc+tls", env=()):
        """Runs `volley` against a member."""
        address = self.address(member or self.coordinators[0], listener, scheme)
        return volley("--cluster", address, *words, env=env)

    def close(self):
        super().close()
        shutil.rmtree(self.certificates, ignore_errors=True)


def refused(client, timeout=5):
    """The text of the error of a client's call: the server cannot be used, and that is known in time."""
    with client, pytest.raises(flight.FlightUnavailableError) as error:
        list(client.list_flights(options=flight.FlightCallOptions(timeout=timeout)))
    return str(error.value)


def lines_after(member, attempt, *words):
    """The lines that a member logs from the attempt on, once one of them has all `words`."""
    begin = member.log.stat().st_size
    attempt()

    def lines():
        with open(member.log, "rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()
        return lines if any(all(word in line for word in words) for line in lines) else None

    return wait_until(lines, 5, f"{member.name} logs {words}")


def refusal(member, attempt, words=""):
    """The cause in the one line that a member logs about a connection that it refused; `words` tell it from others."""
    lines = [line for line in lines_after(member, attempt, REFUSED, words) if REFUSED in line and words in line]
    assert len(lines) == 1, lines
    return re.search(r'cause="?(.*?)"?( unlogged=\d+)?$', lines[0]).group(1)
