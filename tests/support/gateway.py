"""A gateway on real sockets: certificates of an authority, an upstream server that records, and a client."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from permmoe_server.gateway.refusals import Refusals
from tests.support.patience import PATIENCE_SECONDS

PULL = b"/v1/site/next-message"
MANY = {"requests_per_second": 1e6, "request_burst": 10**6}


@dataclass(frozen=True)
class Authority:
    """Files of a test authority: its certificate, the server's certificate for 127.0.0.1 with its key, and a site's."""

    ca: Path
    certificate: Path
    key: Path
    site: Path
    """Certificate and key in one file."""
    expired_site: Path

    def trust(self, site: Path | None = None) -> ssl.SSLContext:
        """Return the TLS settings with which a site of this or another authority connects."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(site or self.site)
        return context


def make_authority(folder: Path) -> Authority:
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"test authority {folder.name}")])

    def sign(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, is_ca: bool, *more: x509.ExtensionType, hours: float = 1
    ) -> bytes:
        builder = x509.CertificateBuilder(issuer_name=ca_name, subject_name=subject, public_key=public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=2))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=hours))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    serves = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    files = Authority(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "site.pem", "expired.pem")))
    files.ca.write_bytes(sign(ca_name, ca_key.public_key(), True))
    files.certificate.write_bytes(sign(x509.Name([]), key.public_key(), False, loopback, serves))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.key.write_bytes(secret)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    for path, hours in ((files.site, 1), (files.expired_site, -1)):
        path.write_bytes(secret + sign(x509.Name([]), key.public_key(), False, usage, hours=hours))
    return files


@contextmanager
def running(server: uvicorn.Server) -> Iterator[int]:
    """The server in a thread on an ephemeral port. It listens before the thread starts, so a client may connect."""
    with serving(server, _at_a_port()) as listener:
        yield listener.getsockname()[1]


def _at_a_port() -> socket.socket:
    # Only of a socket that says TCP does asyncio send small answers at once; the kernel would keep each back for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@contextmanager
def serving(server: uvicorn.Server, listener: socket.socket) -> Iterator[socket.socket]:
    """The server in a thread, at a socket that listens already."""
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@dataclass
class Upstream:
    """A real server at a Unix socket that records what reaches it. It answers `reply`, unless `is_silent`."""

    path: Path
    reply: bytes = b"an answer"
    seen: list[tuple[str, bytes, list[tuple[bytes, bytes]], bytes]] = field(default_factory=list)
    is_silent: bool = False
    left: int = 0
    """Requests that were given up before they were answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.seen.append((scope["method"], target, scope["headers"], body))
        if self.is_silent:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left += 1
            return
        headers = [(b"content-type", b"application/protobuf"), (b"flwr-kept", b"yes"), (b"keep-alive", b"timeout=9")]
        await send({"type": "http.response.start", "status": 209, "headers": headers})
        await send({"type": "http.response.body", "body": self.reply})


@dataclass(frozen=True)
class Door:
    """A running gateway, seen from outside."""

    port: int
    trust: ssl.SSLContext
    app: Starlette
    upstream: Upstream

    def connect(self, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)
        # Else the kernel keeps a request back for 40 ms, until the end of the handshake has been acknowledged.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.trust.wrap_socket(plain, server_hostname="127.0.0.1", session=session)

    def send(self, request: bytes, session: ssl.SSLSession | None = None) -> bytes:
        """Return all that comes back on a new connection; it is empty when the gateway cuts the connection off."""
        with self.connect(session) as client:
            client.sendall(request)
            return read_all(client)

    def is_open_to_others(self) -> bool:
        before = len(self.upstream.seen)
        answer = self.send(post(PULL, b"honest"))
        arrived = self.upstream.seen[before:]
        return status(answer) == 209 and [(t, b) for _, t, _, b in arrived] == [(PULL, b"honest")]

    def refused(self) -> dict[str, int]:
        refusals: Refusals = self.app.state.refusals
        return {rule: count for rule, count in refusals.by_rule().items() if count}


def read_all(client: ssl.SSLSocket) -> bytes:
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return received


def read_one(client: ssl.SSLSocket, ending: bytes) -> bytes:
    received = b""
    while not received.endswith(ending):
        chunk = client.recv(65536)
        assert chunk, received
        received += chunk
    return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def post(path: bytes, body: bytes = b"", *headers: bytes, close: bool = True) -> bytes:
    ending = (b"connection: close",) if close else ()
    lines = [b"POST %s HTTP/1.1" % path, b"host: door", b"content-length: %d" % len(body), *ending, *headers]
    return b"\r\n".join([*lines, b"", body])


OpenDoor = Callable[..., Door]
