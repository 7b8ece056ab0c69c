"""Whoever answers in the coordinator's place: named, so that a hospital knows whom to ask. Nothing is sent to it."""

from __future__ import annotations

import socket
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from permmoe.errors import ConfigurationError
from permmoe.plain_text import plain
from permmoe_client.connection.identity import client_context, load_certificate
from permmoe_client.connection.route import Proxy, open_way
from permmoe_client.site import Coordinator

TIMEOUT_SECONDS = 10.0


def shown_certificate(way: socket.socket, host: str, context: ssl.SSLContext) -> x509.Certificate:
    """The certificate that the other end shows, not verified. The socket is closed, and `context` believes anybody
    from then on. Raises OSError, ValueError."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with way, context.wrap_socket(way, server_hostname=host) as secured:
        shown = secured.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown or b"")


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority's key signed the certificate, whatever the dates say."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def common_name(name: x509.Name) -> str:
    """The name's last common name, or all of it where it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[-1].value) if found else name.rfc4514_string()


def issuer_text(peer: x509.Certificate, authority: x509.Certificate) -> str:
    """Who signed a certificate that the authority did not, and what that most likely means; empty where it did."""
    if is_issued_by(peer, authority):
        return ""
    if peer.issuer == authority.subject:
        return "the server's certificate is of another authority with the same name: was the federation founded anew?"
    return (
        f"the server's certificate is of {plain(common_name(peer.issuer))!r}, not of the federation's authority: most "
        "likely a proxy opens TLS to inspect it"
    )


def who_answers(coordinator: Coordinator, proxy: Proxy | None) -> str:
    """`issuer_text` of whoever answers at this moment; empty where that cannot be told."""
    try:
        way = open_way(coordinator, proxy, _connect, TIMEOUT_SECONDS)
        peer = shown_certificate(way, coordinator.host, client_context(coordinator))
        return issuer_text(peer, load_certificate(coordinator.authority))
    except (OSError, ValueError, ConfigurationError):
        return ""


def _connect(host: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((host, port), timeout=seconds)
