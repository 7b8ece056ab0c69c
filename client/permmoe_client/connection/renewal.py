"""A site's certificate and roster, kept up to date over its connection to the coordinator, and its ledger held against
the coordinator's newest receipt.

What comes is believed for the authority's signatures on it and for nothing else: a roster that is signed and no older
than the site's own, with this site and its key on it; a certificate of the authority for this very key and name. A
coordinator that was broken into can withhold them, and can forge neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from permmoe.federated.audit import AuditError
from permmoe.federated.membership import MemberPapers, read_papers
from permmoe.federated.roster import RosterError, read_roster
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_client.connection.identity import load_certificate, load_key
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import Coordinator

LOG = logging.getLogger("permmoe.client")

RENEWAL_SECONDS = 6 * 3600.0
"""Between two looks at what the coordinator has."""
SOON_DAYS = 60
"""A certificate that ends within this time and was not renewed is worth a warning."""


def renew(
    coordinator: Coordinator, name: str, ledger: Ledger, fetch: Callable[[], bytes], version: str, now: datetime
) -> bool:
    """Fetch what the coordinator has for this site, and keep what is newer; return whether there is a new certificate.

    Raises LedgerError where the coordinator has a receipt for an entry that the ledger lacks: it was put back from a
    copy, or removed. Nothing else that comes, and no other file that cannot be written, ends the connection: the log
    says what to do.
    """
    try:
        papers = read_papers(fetch())
    except ValueError:
        LOG.warning("the coordinator's gateway does not hand out certificates and rosters: it is of an older version")
        return False
    if papers.version != version:
        LOG.warning(
            "this site runs permmoe %s and the coordinator %s: rounds may fail until both run one version; agree on it "
            "with the coordinator, and install it here or there",
            version, papers.version,
        )  # fmt: skip
    if papers.receipt is not None:
        try:
            ledger.hold_against(papers.receipt, load_certificate(coordinator.authority))
        except AuditError as error:
            LOG.warning("the receipt that the coordinator handed out is not believed: %s", error)
    _keep(coordinator.roster, lambda: newer_roster(papers, coordinator, name), "roster")
    is_new = _keep(coordinator.certificate, lambda: newer_certificate(papers, coordinator, name, now), "certificate")
    end = load_certificate(coordinator.certificate).not_valid_after_utc
    if (end - now).days < SOON_DAYS:
        LOG.warning(
            "this site's certificate ends on %s; ask the coordinator for permmoe-server renew-site FOLDER %s",
            f"{end:%Y-%m-%d}", name,
        )  # fmt: skip
    return is_new


def newer_roster(papers: MemberPapers, coordinator: Coordinator, name: str) -> bytes | None:
    """The roster that came, where it is newer than the site's own. Raises RosterError for one not to be believed."""
    authority = load_certificate(coordinator.authority)
    own = read_roster(coordinator.roster.read_bytes(), authority)
    came = read_roster(papers.roster, authority, minimum_serial=own.serial)
    public = load_key(coordinator.key).public_key()
    key = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    # "The roster is of this federation, and this site is on it with its own key."
    if came.federation != own.federation or {site.name: site.public_key for site in came.sites}.get(name) != key:
        raise RosterError("it is of another federation, or lacks this site with its key")
    return papers.roster if came.serial > own.serial else None


def newer_certificate(papers: MemberPapers, coordinator: Coordinator, name: str, now: datetime) -> bytes | None:
    """The certificate that came, where it ends later than the site's own.

    Raises ValueError for one not to be believed.
    """
    if papers.certificate is None:
        return None
    came = x509.load_pem_x509_certificate(papers.certificate)
    try:
        # "The authority signed it."
        came.verify_directly_issued_by(load_certificate(coordinator.authority))
    except (InvalidSignature, TypeError):
        raise ValueError("the federation's authority did not sign it") from None
    # "It is for this site's own key and name, and for a client."
    names = came.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if came.public_key() != load_key(coordinator.key).public_key() or [str(n.value) for n in names] != [name]:
        raise ValueError("it is for another key or another site")
    try:
        uses = came.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        uses = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise ValueError("it is not for a client")
    # "It is valid now": a clock that is off must not take the old one away.
    if not came.not_valid_before_utc <= now < came.not_valid_after_utc:
        raise ValueError("it is not valid at this time")
    own = load_certificate(coordinator.certificate)
    # Written anew: what else the text of a PEM file may hold does not come along.
    newer = came.not_valid_after_utc > own.not_valid_after_utc
    return came.public_bytes(serialization.Encoding.PEM) if newer else None


def _keep(path: Path, newer: Callable[[], bytes | None], what: str) -> bool:
    """Replace a file where there is something newer; return whether it was replaced."""
    try:
        content = newer()
        if content is None:
            return False
        write_file(path, content, mode=path.stat().st_mode & 0o777 if path.exists() else PUBLIC_MODE)
    except (RosterError, ValueError) as error:
        LOG.warning("the %s that the coordinator handed out is not kept: %s", what, error)
        return False
    except OSError as error:
        LOG.warning(
            "a newer %s is there and %s cannot be written (%s): let this account write to its folder",
            what, path.name, error.strerror,
        )  # fmt: skip
        return False
    LOG.info("a newer %s was fetched from the coordinator and is in use from now on", what)
    return True
