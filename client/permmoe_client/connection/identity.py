"""The site's key and certificate, as TLS and Flower take them. The key is read, used, and never written anywhere."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.errors import ConfigurationError
from permmoe.federated.roster import Roster, read_roster
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import Coordinator, SiteConfig


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The site's private key, EC P-384, OpenSSH or PEM form. Raises ConfigurationError.

    A key that others could read is refused, as ssh refuses it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path} can be read by others; run: chmod 600 {path}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"no key at {path}; put the site's private key there (see the kit's README)") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); run as the account that owns it") from None
    is_openssh = content.lstrip().startswith(b"-----BEGIN OPENSSH")
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"{path} is no private key that can be read without a passphrase; make one with "
            "`ssh-keygen -t ecdsa -b 384 -N ''` and protect its folder instead"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError(f"{path} is not an EC P-384 key; `ssh-keygen -t ecdsa -b 384` makes one")
    return key


def load_certificate(path: Path) -> x509.Certificate:
    """A certificate from a PEM file. Raises ConfigurationError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(f"no certificate at {path}; unpack it from the kit") from None
    except ValueError:
        raise ConfigurationError(f"{path} is no certificate, or a damaged one; unpack it from the kit again") from None


def open_ledger(site: SiteConfig) -> Ledger | None:
    """The site's ledger; None for a site that connects to no coordinator. Raises ConfigurationError for its key."""
    if site.coordinator is None or site.ledger is None:
        return None
    return Ledger(site.ledger, site.name, load_key(site.coordinator.key))


def check_roster(coordinator: Coordinator, name: str) -> Roster:
    """The roster of the kit, once it is found signed by the authority and to hold this site with this key.

    Raises ConfigurationError, RosterError.
    """
    try:
        signed = coordinator.roster.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{coordinator.roster}: {error.strerror}; unpack it from the kit") from None
    roster = read_roster(signed, load_certificate(coordinator.authority))
    public = load_key(coordinator.key).public_key()
    own = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    keys = {site.name: site.public_key for site in roster.sites}
    if keys.get(name) != own:
        raise ConfigurationError(
            f"the roster has no site {name!r} with the key {coordinator.key}; use name, roster and key of one kit"
        )
    return roster


def client_context(coordinator: Coordinator, now: datetime | None = None) -> ssl.SSLContext:
    """TLS that believes the federation's authority and nobody else, and shows the site's certificate.

    Raises ConfigurationError for files that are absent, damaged, expired, or no pair.
    """
    key, certificate = load_key(coordinator.key), load_certificate(coordinator.certificate)
    if certificate.public_key() != key.public_key():
        raise ConfigurationError(
            f"{coordinator.certificate} is not the certificate of {coordinator.key}; use the certificate of the kit "
            "that was made for this key, or ask the coordinator for a new kit"
        )
    end = certificate.not_valid_after_utc
    if end <= (now or datetime.now(UTC)):
        raise ConfigurationError(
            f"{coordinator.certificate} expired on {end:%Y-%m-%d}, so the coordinator's gateway lets this site in no "
            "more; ask the coordinator to run permmoe-server renew-site, and put the site.crt of the kit that it "
            "writes in this one's place"
        )
    load_certificate(coordinator.authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(coordinator.authority)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # OpenSSL takes a key from a file only: this one is in memory, and gone when it is closed.
    handle = os.memfd_create("site", os.MFD_CLOEXEC)
    try:
        os.write(handle, pem + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return context
