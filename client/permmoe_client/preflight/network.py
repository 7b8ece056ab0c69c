"""The line to the coordinator, and the dates of all certificates on it."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

from cryptography import x509

from permmoe.errors import ConfigurationError
from permmoe_client.connection.impostor import common_name, is_issued_by, issuer_text
from permmoe_client.connection.route import Proxy, proxy_for
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.line import Line
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning
from permmoe_client.site import Coordinator

SERVER_DAYS, SITE_DAYS, AUTHORITY_DAYS = 14, 30, 90
"""How long before a certificate ends people want to hear of it: one command, a new kit, a new federation."""
PROXY_REMEDY = (
    "mend coordinator.proxy of site.yaml, or HTTPS_PROXY of permmoe-client's service; proxy: direct goes without one"
)
NEW_SERVER_CERTIFICATE = "tell the coordinator: permmoe-server rotate-certificate gives the server a new certificate"


def proxy(facts: Facts) -> Outcome:
    """The way is the client's own: straight, or through the proxy that the settings or the environment name."""
    line = _line(facts)
    if line.proxy.trouble:
        return failed(line.proxy.trouble, PROXY_REMEDY)
    if line.proxy.result is None:
        raise Skip("needs network.connects")
    return ok(line.proxy.result)


def resolves(facts: Facts) -> Outcome:
    """The name service of this machine knows the next stop: the coordinator, or the proxy before it."""
    attempt, host = _line(facts).addresses, _next_stop(facts).host
    if attempt.trouble:
        return failed(
            f"{host} has no address here ({attempt.trouble})",
            f"getent hosts {host}: mend the name in site.yaml, or the name service",
        )
    return ok(f"{host}: {', '.join(attempt.need('federation.host'))}")


def connects(facts: Facts) -> Outcome:
    """The port answers TCP, a proxy's before the coordinator's."""
    line, stop = _line(facts), _next_stop(facts)
    where = f"{stop.host}, port {stop.port}"
    if line.connected.trouble and isinstance(stop, Proxy):
        return failed(f"the proxy {where}, does not answer ({line.connected.trouble})", PROXY_REMEDY)
    if line.connected.trouble:
        return failed(
            f"{where} does not answer ({line.connected.trouble})",
            f"let the firewall pass outgoing TCP to {where}, or name the proxy that leads there (coordinator.proxy); "
            "if it does, ask the coordinator whether the server runs",
        )
    line.connected.need("network.resolves and network.proxy")
    return ok(f"{where} answers")


def speaks_tls(facts: Facts) -> Outcome:
    """Whatever answers speaks TLS."""
    attempt = _line(facts).peer
    if attempt.trouble:
        return failed(
            f"whatever answers there does not speak TLS 1.2 or newer ({attempt.trouble})",
            "compare 'host' and 'port' with the kit's; a firewall may answer in the coordinator's place",
        )
    attempt.need("network.connects")
    return ok("the other end shows a certificate")


def issuer(facts: Facts) -> Outcome:
    """A proxy that opens TLS has an authority of its own."""
    authority = facts.credentials.authority.need("files.authority")
    peer = _peer(facts)
    if not (trouble := issuer_text(peer, authority)):
        return ok(f"issued by {common_name(authority.subject)}")
    if peer.issuer == authority.subject:
        return failed(trouble, "ask the coordinator for a new kit")
    return failed(
        trouble,
        f"exempt {facts.coordinator.host}, port {facts.coordinator.port}, from TLS inspection; if there is none, "
        "compare 'host' with the kit's and tell the coordinator",
    )


def server_name(facts: Facts) -> Outcome:
    """In the subject alternative names, as RFC 9525 asks."""
    peer, host = _peer(facts), facts.coordinator.host
    if not _names(peer, host):
        return failed(
            f"the server's certificate is not for {host}",
            f"write the kit's 'host'; if it is {host}, tell the coordinator",
        )
    return ok(f"it is for {host}")


def server_expiry(facts: Facts) -> Outcome:
    """Renewal takes the coordinator one command."""
    return _expiry(facts, _peer(facts), "the server's certificate", SERVER_DAYS, NEW_SERVER_CERTIFICATE)


def site_expiry(facts: Facts) -> Outcome:
    """Renewal takes a new kit."""
    certificate = facts.credentials.certificate.need("files.certificate")
    return _expiry(facts, certificate, "the site's certificate", SITE_DAYS, "ask the coordinator for a new kit")


def authority_expiry(facts: Facts) -> Outcome:
    """The federation ends with its authority's certificate."""
    authority = facts.credentials.authority.need("files.authority")
    remedy = "ask the coordinator when the new federation is founded, and for its kit"
    return _expiry(facts, authority, "the federation's authority", AUTHORITY_DAYS, remedy)


def proves_itself(facts: Facts) -> Outcome:
    """The server passes all of TLS's rules, with the federation's authority as the only one."""
    attempt = _line(facts).tls_version
    if not attempt.trouble:
        attempt.need("network.speaks_tls, files.pair and network.site_expiry")
        return ok("the server proves itself by the federation's authority")
    peer, authority = _peer(facts), facts.credentials.authority.need("files.authority")
    is_current = peer.not_valid_before_utc <= facts.world.now() < peer.not_valid_after_utc
    if not (is_issued_by(peer, authority) and _names(peer, facts.coordinator.host) and is_current):
        raise Skip("needs network.issuer, network.server_name and network.server_expiry")
    return failed(f"TLS fails: {attempt.trouble}", NEW_SERVER_CERTIFICATE)


def tls_version(facts: Facts) -> Outcome:
    """The gateway offers TLS 1.3."""
    version = _line(facts).tls_version.need("network.proves_itself")
    if version != "TLSv1.3":
        return warning(
            f"{version}, although the coordinator's gateway offers TLS 1.3",
            "renew this machine's OpenSSL, or ask whether a firewall lowers the version",
        )
    return ok(version)


def admitted(facts: Facts) -> Outcome:
    """The server accepts the site's certificate, and its roster has the site's key."""
    _line(facts).tls_version.need("network.proves_itself")
    answer = _line(facts).answer
    if answer.trouble:
        return failed(
            f"the server ended the connection ({answer.trouble}): it did not take the site's certificate",
            "ask the coordinator for a new kit, and whether this site was removed",
        )
    if answer.need("network.proves_itself").status == 403:
        return failed(
            "the server knows the site's certificate, but its roster has not the site's key",
            "ask the coordinator whether this site was removed",
        )
    return ok("the server takes the site's certificate")


def health(facts: Facts) -> Outcome:
    """The server answers `GET /health`."""
    status = _line(facts).answer.need("network.admitted").status
    if status == 403:
        raise Skip("needs network.admitted")
    if status != 200:
        return failed(f"the server answers with HTTP status {status}", "tell the coordinator, or try again later")
    return ok("the server is well")


def _line(facts: Facts) -> Line:
    """Raises Skip where nothing was tried."""
    _ = facts.coordinator
    if facts.offline:
        raise Skip("nothing is asked of the network while offline", "check again with the network")
    return facts.line


def _next_stop(facts: Facts) -> Proxy | Coordinator:
    try:
        return proxy_for(facts.coordinator, facts.world.environment) or facts.coordinator
    except ConfigurationError:
        raise Skip("needs network.proxy") from None


def _peer(facts: Facts) -> x509.Certificate:
    return _line(facts).peer.need("network.speaks_tls")


def _names(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for a host: an address, or a name with at most its first label a wildcard."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = host.lower().rstrip(".")
        wildcard = "*." + wanted.partition(".")[2]
        return any(name.lower() in (wanted, wildcard) for name in names.get_values_for_type(x509.DNSName))


def _expiry(facts: Facts, certificate: x509.Certificate, what: str, days: int, remedy: str) -> Outcome:
    end, now = certificate.not_valid_after_utc, facts.world.now()
    if end <= now:
        return failed(f"{what} expired on {end:%Y-%m-%d}", remedy)
    if end - now < timedelta(days=days):
        return warning(f"{what} expires on {end:%Y-%m-%d}, in {(end - now).days} days", remedy)
    return ok(f"until {end:%Y-%m-%d}")


CHECKS = (
    Check("network.proxy", "The way to the coordinator is open: straight, or through a proxy", proxy),
    Check("network.resolves", "The coordinator's host has an address", resolves),
    Check("network.connects", "The coordinator's port answers", connects),
    Check("network.speaks_tls", "The other end speaks TLS", speaks_tls),
    Check("network.issuer", "The other end is the coordinator's server, no proxy that opens TLS", issuer),
    Check("network.server_name", "The server's certificate is for this host", server_name),
    Check("network.server_expiry", f"The server's certificate lasts {SERVER_DAYS} days or more", server_expiry),
    Check("network.site_expiry", f"The site's certificate lasts {SITE_DAYS} days or more", site_expiry),
    Check("network.authority_expiry", f"The federation lasts {AUTHORITY_DAYS} days or more", authority_expiry),
    Check("network.proves_itself", "The server proves itself", proves_itself),
    Check("network.tls_version", "The connection is TLS 1.3", tls_version),
    Check("network.admitted", "The server takes the site's certificate", admitted),
    Check("network.health", "The server says that it is well", health),
)
