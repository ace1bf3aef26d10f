"""An OIDC issuer for tests: its documents over HTTPS, keys that rotate, tokens good and bad; and the proxy on the way to it."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import select
import socket
import ssl
import threading
import time
import urllib.request

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

# Only the proxy knows this host.
HOST = "keys.issuer.test"
ISSUER = f"https://{HOST}"
AUDIENCE = "volley-test"
# The claims that name principal and groups.
PRINCIPAL_CLAIM = "login"
GROUPS_CLAIM = "realm_access.roles"
DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/jwks"


def encoded(content):
    """base64url, as a JWT has it."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class SigningKey:
    """An RSA key with an id."""

    def __init__(self, key_id):
        self.id = key_id
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwk(self):
        numbers = self.private.public_key().public_numbers()
        modulus, exponent = (number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (numbers.n, numbers.e))
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": encoded(modulus), "e": encoded(exponent)}

    def public_pem(self):
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, message):
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def token(self, login="eve", groups=(), lifetime=600, sign=None, algorithm="RS256", key_id=None, **claims):
        """A token that expires after `lifetime` seconds; `sign` replaces the signature, `claims` other claims."""
        now = int(time.time())
        payload = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": f"id-of-{login}", "iat": now, "exp": now + lifetime,
            PRINCIPAL_CLAIM: login, "realm_access": {"roles": list(groups)},
        }
        header = {"alg": algorithm, "typ": "JWT", "kid": key_id or self.id}
        message = f"{encoded(header)}.{encoded(payload | claims)}"
        return f"{message}.{encoded((sign or self.sign)(message.encode()))}"

    def unsigned(self):
        """A token of the algorithm `none`."""
        return self.token(algorithm="none", sign=lambda message: b"")

    def signed_by_the_public_key(self):
        """A token whose HMAC has the published key as its secret."""
        return self.token(algorithm="HS256", sign=lambda message: hmac.digest(self.public_pem(), message, hashlib.sha256))


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Writes no log."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *arguments):
        pass


class LocalServer:
    """A server on a loopback port, in a thread of its own; it can be stopped and started again at its port."""

    def __init__(self, handler, context=None):
        self.handler, self.context, self.port = handler, context, 0
        self.start()

    def start(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        if self.context is not None:
            self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Issuer:
    """An issuer that publishes these keys."""

    def __init__(self, certificate, *keys):
        self.keys, self.fetches = list(keys), 0
        issuer = self

        class Documents(QuietHandler):
            def do_GET(self):
                document = issuer.document(self.path)
                body = json.dumps(document).encode()
                self.send_response(404 if document is None else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        self.server = LocalServer(Documents, context)

    def document(self, path):
        if path == DISCOVERY:
            return {"issuer": ISSUER, "jwks_uri": ISSUER + JWKS, "id_token_signing_alg_values_supported": ["RS256"]}
        if path == JWKS:
            self.fetches += 1
            return {"keys": [key.jwk() for key in self.keys]}
        return None

    def close(self):
        self.server.stop()


class ConnectProxy:
    """A proxy for HTTPS. It leads every host to one port of this machine, and keeps what was asked for."""

    def __init__(self, port):
        self.targets = []
        proxy = self

        class Tunnels(QuietHandler):
            def do_CONNECT(self):
                proxy.targets.append(self.path)
                self.close_connection = True
                try:
                    upstream = socket.create_connection(("127.0.0.1", port), timeout=10)
                except OSError:
                    self.send_error(http.client.BAD_GATEWAY)
                    return
                self.send_response(http.client.OK)
                self.end_headers()
                self.wfile.flush()
                with upstream, contextlib.suppress(OSError):
                    pass_both_ways(self.connection, upstream)

        self.server = LocalServer(Tunnels)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def close(self):
        self.server.stop()


def pass_both_ways(one, other):
    """Passes bytes on until one side ends."""
    while True:
        readable, _, _ = select.select([one, other], [], [], 30)
        if not readable:
            return
        for source in readable:
            data = source.recv(64 << 10)
            if not data:
                return
            (other if source is one else one).sendall(data)


def discover(proxy, ca):
    """The discovery document of the issuer, read through the proxy."""
    context = ssl.create_default_context(cafile=ca)
    handlers = urllib.request.ProxyHandler({"https": proxy.url}), urllib.request.HTTPSHandler(context=context)
    with urllib.request.build_opener(*handlers).open(ISSUER + DISCOVERY, timeout=10) as reply:
        return json.load(reply)
