"""The certificates of the tests, made by `volley certs`, and the files that pods find where Secrets are mounted."""

import base64
import json
import socket
import ssl
import subprocess
from pathlib import Path


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder, binaries):
        self.folder, self.volley = Path(folder), Path(binaries) / "volley"
        self.certs("init", self.folder)
        self.ca = self.folder / "ca.crt"

    def certs(self, *words):
        words = [self.volley, "--json", "certs", *words]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"volley certs: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def issue(self, *holder, **more):
        """The files of a certificate and its key; `holder`: as ("--node", "n1"). Replaces an earlier one."""
        words = [word for key, value in more.items() for word in (f"--{key}", value)]
        made = self.certs("issue", self.folder, *holder, "--force", *words)
        return Path(made["certificate"]), Path(made["key"])


def member(uri):
    """The holder of a member's certificate, of its URI: volley://node/n1."""
    return ("--member", uri.removeprefix("volley://"))


def server_secret(authority, names, **more):
    """The contents of a Secret for the ports of clients: tls.crt, tls.key, ca.crt."""
    first, *others = names
    certificate, key = authority.issue("--server", first, *(["--san", ",".join(others)] if others else []), **more)
    return pair("tls", certificate, key) | {"ca.crt": authority.ca.read_bytes()}


def member_secret(authority, uri):
    """The same for a member, as cert-manager makes it."""
    return pair("tls", *authority.issue(*member(uri))) | {"ca.crt": authority.ca.read_bytes()}


def members_secret(authority, uris, **more):
    """The contents of the Secret of a role: each member's certificate and key, with the names of `volley certs`."""
    files = {"ca.crt": authority.ca.read_bytes()}
    for uri in uris:
        certificate, key = authority.issue(*member(uri), **more)
        files |= pair(certificate.stem, certificate, key)
    return files


def pair(stem, certificate, key):
    return {f"{stem}.crt": certificate.read_bytes(), f"{stem}.key": key.read_bytes()}


def first_certificate(pem):
    """The first certificate of a PEM file, in DER."""
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(pem.decode().partition(end)[0] + end)


def served_certificate(host, port, name, ca):
    """The certificate that a port presents, verified by the name and the CA's PEM text, in DER; None if there is no answer."""
    context = ssl.create_default_context(cadata=ca)
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=name) as connection:
                return connection.getpeercert(binary_form=True)
    except OSError:
        return None


def manifest(name, files):
    """A Secret as kubectl applies it."""
    data = {key: base64.b64encode(content).decode() for key, content in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": data}
