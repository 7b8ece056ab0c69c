"""The federation: that the kit's files agree with one another, and this site is in it."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from permmoe.errors import nearest
from permmoe.federated.roster import fingerprint, site_fingerprint
from permmoe_client.connection.impostor import common_name, is_issued_by
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.line import is_host
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning

OLD_ROSTER_DAYS = 365
NEW_KIT = "ask the coordinator for a new kit"


def settings(facts: Facts) -> Outcome:
    """A site without a coordinator connects to nothing."""
    if facts.site.coordinator is None:
        return warning(
            "the settings have no 'coordinator', so this site connects to nobody",
            "take that part from the site.yaml of your kit",
        )
    return ok("the settings say how to reach the coordinator")


def host(facts: Facts) -> Outcome:
    """The host is a name or an address, without scheme, port or path."""
    name = facts.coordinator.host
    if not is_host(name):
        return failed(f"'host' is {name!r}", "write the name or address alone, and the port in 'port'")
    return ok(f"{name}, port {facts.coordinator.port}")


def roster(facts: Facts) -> Outcome:
    """The authority of the kit signed the roster."""
    signer = facts.credentials.authority.need("files.authority")
    facts.credentials.signed_roster.need("files.roster")
    attempt = facts.credentials.roster
    if attempt.result is None:
        return failed(attempt.trouble, f"use roster and ca.crt of one kit, or {NEW_KIT}")
    return ok(f"signed by the key {fingerprint(signer)}; compare it by telephone")


def roster_age(facts: Facts) -> Outcome:
    """The gateway asks the coordinator's own roster; the site's copy says whom to expect beside it."""
    number = facts.credentials.roster.need("federation.roster").serial
    written = datetime.fromtimestamp(facts.coordinator.roster.stat().st_mtime, UTC)
    if (certificate := facts.credentials.certificate.result) is not None:
        # Both come in one kit, and the certificate's date is signed; files of older kits are dated 1980.
        written = max(written, certificate.not_valid_before_utc)
    detail = f"serial number {number}, written {written:%Y-%m-%d}"
    if (facts.world.now() - written).days > OLD_ROSTER_DAYS:
        return warning(detail, "ask the coordinator whether there is a newer roster")
    return ok(detail)


def member(facts: Facts) -> Outcome:
    """The roster has a site of this name."""
    names = facts.credentials.roster.need("federation.roster").names
    name = facts.site.name
    if name not in names:
        hint = nearest(name, names) if names else "the roster is empty"
        return failed(f"the roster has no site {name!r}; {hint}", f"write the kit's 'name', or {NEW_KIT}")
    return ok(f"{name} is one of {len(names)}")


def member_key(facts: Facts) -> Outcome:
    """The coordinator accepts the roster's key and no other."""
    sites = facts.credentials.roster.need("federation.roster").sites
    listed = next((site.public_key for site in sites if site.name == facts.site.name), None)
    if listed is None:
        raise Skip("needs federation.member")
    public = facts.credentials.key.need("files.key").public_key()
    own = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    if own != listed:
        return failed(
            f"the roster has {site_fingerprint(listed)} for this site, its own key is {site_fingerprint(own)}",
            f"use the key that the coordinator was sent, or {NEW_KIT}",
        )
    return ok(site_fingerprint(own))


def peers(facts: Facts) -> Outcome:
    """What a single site sends is no average."""
    names = facts.credentials.roster.need("federation.roster").names
    if len(names) < 2:
        return warning(
            f"the roster has {len(names)} site(s): what this one sends would not be averaged with anybody's",
            "wait for other sites, and for the newer roster, before you approve a study",
        )
    return ok(f"{len(names)} sites")


def certificate_issuer(facts: Facts) -> Outcome:
    """The gateway lets in certificates of its own authority only."""
    signer = facts.credentials.authority.need("files.authority")
    if not is_issued_by(facts.credentials.certificate.need("files.certificate"), signer):
        return failed(
            "the site's certificate is not of this authority", f"use site.crt and ca.crt of one kit; {NEW_KIT}"
        )
    return ok(f"issued by {common_name(signer.subject)}")


def certificate_name(facts: Facts) -> Outcome:
    """A kit of another site shows here."""
    name = common_name(facts.credentials.certificate.need("files.certificate").subject)
    if name != facts.site.name:
        return failed(
            f"the certificate is of the site {name!r}, the settings are of {facts.site.name!r}",
            "use site.yaml and site.crt of one kit",
        )
    return ok(name)


def certificate_use(facts: Facts) -> Outcome:
    """A server's certificate lets nobody in."""
    certificate = facts.credentials.certificate.need("files.certificate")
    try:
        uses = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        uses = {ExtendedKeyUsageOID.CLIENT_AUTH}
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        return failed("the certificate may not be used by a client", "name the kit's site.crt in 'certificate'")
    return ok("it may be shown to a server")


CHECKS = (
    Check("federation.settings", "The settings say how to reach the coordinator", settings),
    Check("federation.host", "The coordinator's host is a name or an address alone", host),
    Check("federation.roster", "The roster is signed by the federation's authority", roster),
    Check("federation.roster_age", "The roster is not old", roster_age),
    Check("federation.member", "This site is on the roster", member),
    Check("federation.member_key", "The roster has this site's key", member_key),
    Check("federation.peers", "There are other sites", peers),
    Check(
        "federation.certificate_issuer", "The site's certificate is of the federation's authority", certificate_issuer
    ),
    Check("federation.certificate_name", "The site's certificate is in this site's name", certificate_name),
    Check("federation.certificate_use", "The site's certificate is a client's", certificate_use),
)
