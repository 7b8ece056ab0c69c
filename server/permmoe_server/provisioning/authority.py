"""Certificates and keys of a federation: its authority, its server's certificate, the sites' node keys.

Times are passed in. X.509 as RFC 5280 profiles it; sites verify host names against the subject alternative name only.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import SERVER_NAME

CLOCK_SKEW = timedelta(hours=1)
"""A certificate is valid from this long before it was made: some hospitals' clocks are slow."""
AUTHORITY_DAYS = 3650
REGION_NAME = "regional server"
"""The subject of a region's certificate: it serves TLS to sites, and what it signs they do not believe."""
DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True)
class Identity:
    """A certificate and the private key that belongs to it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """Return the key as PKCS #8, not encrypted: it belongs in a file that only its owner can read."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def certificate_pem(self) -> bytes:
        """Return the certificate (PEM), which is public."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def new_authority(federation: str, now: datetime, days: int = AUTHORITY_DAYS) -> Identity:
    """Make the federation's root, EC P-384. It may sign certificates, but no further authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, federation)])
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return Identity(key, certificate)


def issue_server(authority: Identity, host: str, now: datetime, days: int, name: str = SERVER_NAME) -> Identity:
    """Return a new key and certificate for a server, for its host, 127.0.0.1 and localhost. Renewal is a second call.

    `name`: SERVER_NAME for the coordinator's, whose word sites believe; REGION_NAME for one that only delivers. It ends
    with the authority at the latest. Raises ConfigurationError for an invalid host or an expired authority.
    """
    end = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
    if end <= now:
        raise ConfigurationError(
            f"the federation's authority expired on {end:%Y-%m-%d}; start a new federation with permmoe-server init"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _issued(authority, subject, key.public_key(), now, end, ExtendedKeyUsageOID.SERVER_AUTH)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    return Identity(key, certificate)


def issue_site(authority: Identity, name: str, public_key: str, now: datetime, days: int = AUTHORITY_DAYS) -> bytes:
    """Return a certificate (PEM) for a site's key; it ends with the authority at the latest.

    `public_key` is EC P-384 as OpenSSH writes it. The gateway admits the certificate only while the key is on the
    roster.
    """
    key = serialization.load_ssh_public_key(public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    end = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
    certificate = _issued(authority, subject, key, now, end, ExtendedKeyUsageOID.CLIENT_AUTH).sign(
        authority.key, hashes.SHA384()
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def new_node_key() -> tuple[bytes, bytes]:
    """Return a new private and public key of a site, EC P-384 in OpenSSH form, as Flower's nodes take them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public


def load_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file. Raises ConfigurationError where there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing; take it from a back-up") from None
    except ValueError:
        raise ConfigurationError(f"{path} is damaged; take it from a back-up") from None


def read_identity(certificate: Path, key: Path) -> Identity:
    """Return a certificate and its key from PEM files. Raises ConfigurationError where they are absent or no pair."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error.filename} is missing; take it from a back-up") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{certificate} or {key} is damaged; take both from one back-up") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
        raise ConfigurationError(f"{certificate} and {key} do not belong together; take both from one back-up")
    return Identity(private, loaded)


def checked_host(host: str) -> str:
    """Return a DNS name or IP address in lower case. Raises ConfigurationError for anything else, a port included."""
    name = host.lower()
    if not _is_address(name) and not DNS_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{host!r} is no host name; give a name or an IP address without a scheme or port, such as fl.example.org"
        )
    return name


def _issued(
    authority: Identity,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
    usage: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    """Return the part that certificates of servers and sites share: one use, and no right to issue others."""
    issuer_key = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, authority.certificate.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(host: str) -> list[x509.GeneralName]:
    names = dict.fromkeys([checked_host(host), "127.0.0.1", "localhost"])
    return [x509.IPAddress(ipaddress.ip_address(n)) if _is_address(n) else x509.DNSName(n) for n in names]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
