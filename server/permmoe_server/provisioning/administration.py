"""Commands on a federation's folder: they found it, add and remove sites, and renew the server's certificate.

    ca.crt  ca.key  server.crt  server.key  roster.signed.json  server.yaml  kits/NAME.zip  certificates/NAME.crt

Every file is replaced whole. One command at a time works on a folder, and no command touches another site's kit.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from permmoe.errors import ConfigurationError, nearest
from permmoe.federated.audit import SERVER_NAME
from permmoe.federated.roster import (
    FEDERATION_NAME,
    SITE_NAME,
    Roster,
    RosterError,
    fingerprint,
    public_key_text,
    read_roster,
    sign_roster,
)
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.authority import (
    REGION_NAME,
    Identity,
    checked_host,
    issue_server,
    issue_site,
    new_authority,
    new_node_key,
    read_identity,
)
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import locked, require_founded
from permmoe_server.provisioning.kit import Kit
from permmoe_server.settings import read_server, server_template
from permmoe_server.studies.receipt_file import forget_receipts


def init(folder: FederationFolder, name: str, host: str, port: int = 8443) -> str:
    """Found a federation in a folder that appears whole or not at all; return the fingerprint of its key.

    Raises ConfigurationError for a folder that holds anything, or an invalid name or host.
    """
    if not re.fullmatch(FEDERATION_NAME, name):
        raise ConfigurationError(
            f"{name!r} cannot name a federation; use up to 64 letters, digits, spaces and . _ - "
            "that begin with a letter or digit"
        )
    host = checked_host(host)
    _refuse_taken(folder)
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    authority = new_authority(name, now)
    new = FederationFolder(Path(tempfile.mkdtemp(prefix=f".{folder.path.name}.new-", dir=folder.path.parent)))
    try:
        write_file(new.authority_key, authority.key_pem)
        write_file(new.authority, authority.certificate_pem, mode=PUBLIC_MODE)
        write_file(new.settings, server_template(host, port).encode(), mode=PUBLIC_MODE)
        write_server(new, issue_server(authority, host, now, read_server(new.settings).certificate_days))
        _write_roster(new, Roster(federation=name, serial=1), authority)
        new.kits.mkdir(mode=0o700)
        try:
            new.path.replace(folder.path)
        except OSError:
            _refuse_taken(folder)
            raise
    finally:
        shutil.rmtree(new.path, ignore_errors=True)
    return fingerprint(authority.certificate)


def add_site(folder: FederationFolder, name: str, public_key: Path | None = None, region: str = "") -> Path:
    """Put a site on the roster and write its kit; return the kit's path.

    `public_key` is the public half of a key that the hospital made and keeps, which is the better way; without it the
    kit holds a new private key that is kept nowhere else. `region`: the one that the site connects to, by default the
    coordinator. Raises ConfigurationError for a name that is taken or invalid, a region that there is not, or a file
    without a usable key.
    """
    if not SITE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name a site; use up to 64 of a-z, 0-9, _ and - that begin with a letter or digit"
        )
    with locked(folder):
        authority, roster = authority_of(folder), list_sites(folder)
        if name in roster.names:
            raise ConfigurationError(
                f"site {name!r} is in the federation already; use another name, or remove it first"
            )
        if region:
            existing_region(folder, region)
        private, public = (None, _read_public_key(public_key, roster)) if public_key else new_node_key()
        # A site of this name that was removed may have had another key, and so another ledger.
        forget_receipts(folder.studies, name)
        new = roster.with_site(name, public.decode(), region)
        return _write_member(folder, authority, new, name, private, folder.kit_of(name))


def renew_site(folder: FederationFolder, name: str, public_key: Path | None = None, region: str | None = None) -> Path:
    """Give a site of the roster a new certificate and write a kit without a private key; return the kit's path.

    The first kit stays, since it may hold the site's only private key. The site stays on the roster throughout. With
    `public_key` its key is replaced by that one: the old key is refused from then on, and receipts for the ledger that
    was signed with it are forgotten. With `region` it moves there; an empty text is the coordinator. Raises
    ConfigurationError for a name that is not on the roster, a region that there is not, and for an unusable key.
    """
    with locked(folder):
        authority, roster = authority_of(folder), list_sites(folder)
        _refuse_unknown(name, roster)
        if region:
            existing_region(folder, region)
        if public_key or region is not None:
            [site], others = [one for one in roster.sites if one.name == name], roster.without_site(name)
            key = _read_public_key(public_key, others).decode() if public_key else site.public_key
            roster = others.with_site(name, key, site.region if region is None else region)
        if public_key:
            forget_receipts(folder.studies, name)
        return _write_member(folder, authority, roster, name, None, folder.renewed_kit_of(name))


def renew_due(folder: FederationFolder, now: datetime) -> tuple[str, ...]:
    """Give a new certificate to each site whose own has less than a third of its time left; return their names.

    The sites fetch them over their connections. Roster and kits stay as they are.
    """
    with locked(folder):
        authority, roster = authority_of(folder), list_sites(folder)
        days = read_server(folder.settings).site_certificate_days
        due = [site for site in roster.sites if _is_due(folder.certificate_of(site.name), authority, days, now)]
        for site in due:
            certificate = issue_site(authority, site.name, site.public_key, now, days)
            write_file(folder.certificate_of(site.name), certificate, mode=PUBLIC_MODE)
    return tuple(site.name for site in due)


def _is_due(path: Path, authority: Identity, days: int, now: datetime) -> bool:
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return True
    # "A certificate never outlives the authority": a new one would end then too.
    return end - now < timedelta(days=days) / 3 and end < authority.certificate.not_valid_after_utc


def _write_member(
    folder: FederationFolder, authority: Identity, roster: Roster, name: str, key: bytes | None, path: Path
) -> Path:
    """Write a site's certificate and its kit, to `path`, and the roster that it is on; return the kit's path."""
    settings, now = read_server(folder.settings), datetime.now(UTC)
    [site] = [site for site in roster.sites if site.name == name]
    reached = read_server(existing_region(folder, site.region).settings) if site.region else settings
    kit = Kit(
        federation=roster.federation,
        site=name,
        host=reached.host,
        port=reached.port,
        fingerprint=fingerprint(authority.certificate),
        authority_pem=authority.certificate_pem,
        signed_roster=sign_roster(roster, authority.key),
        certificate_pem=issue_site(authority, name, site.public_key, now, settings.site_certificate_days),
        node_key=key,
        made=now,
    )
    # The roster is written last: where the process is killed in between, the name is free, or has its old key, and the
    # same command replaces the kit.
    write_file(path, kit.to_zip())
    write_file(folder.certificate_of(name), kit.certificate_pem, mode=PUBLIC_MODE)
    write_file(folder.roster, kit.signed_roster, mode=PUBLIC_MODE)
    return path


def _refuse_unknown(name: str, roster: Roster) -> None:
    if name not in roster.names:
        hint = nearest(name, roster.names) if roster.sites else "no site has been added yet"
        raise ConfigurationError(f"no site {name!r} in the federation; {hint}")


def remove_site(folder: FederationFolder, name: str) -> None:
    """Take a site off the roster and delete its kit. Raises ConfigurationError for a name that is not on it."""
    with locked(folder):
        authority, roster = authority_of(folder), list_sites(folder)
        _refuse_unknown(name, roster)
        _write_roster(folder, roster.without_site(name), authority)
        folder.kit_of(name).unlink(missing_ok=True)
        folder.renewed_kit_of(name).unlink(missing_ok=True)
        folder.certificate_of(name).unlink(missing_ok=True)


def rotate_certificate(folder: FederationFolder, region: str = "") -> datetime:
    """Give the server a new key and certificate for the host in its server.yaml; return when it expires.

    With `region` it is that of a region's folder, which may be on another machine by now. The authority stays, so no
    site has to do anything. Key and certificate are two files: a process that is killed between them leaves two that do
    not match; the same command repairs this.
    """
    with locked(folder):
        served, name = (existing_region(folder, region), REGION_NAME) if region else (folder, SERVER_NAME)
        host, days = read_server(served.settings).host, read_server(folder.settings).certificate_days
        issued = issue_server(authority_of(folder), host, datetime.now(UTC), days, name)
        write_server(served, issued)
    return issued.certificate.not_valid_after_utc


def existing_region(folder: FederationFolder, name: str) -> FederationFolder:
    """Return the folder of a region. Raises ConfigurationError where there is none of this name."""
    region = folder.region(name)
    if not SITE_NAME.fullmatch(name) or not region.path.is_dir():
        names = [found.name for found in FederationFolder.all_in(folder.regions)]
        hint = nearest(name, names) if names else "permmoe-server add-region makes one"
        raise ConfigurationError(f"no region {name!r} in the federation; {hint}")
    return region


def list_sites(folder: FederationFolder) -> Roster:
    """Return the roster after verifying its signature. Raises ConfigurationError where it is invalid."""
    require_founded(folder)
    try:
        return read_roster(folder.roster.read_bytes(), authority_of(folder).certificate)
    except RosterError as error:
        raise ConfigurationError(f"{folder.roster}: {error}") from None


def server_identity(folder: FederationFolder) -> Identity:
    """Return the server's certificate and key. Raises ConfigurationError where they do not match."""
    require_founded(folder)
    return read_identity(folder.server, folder.server_key)


def require_secret_keys(folder: FederationFolder) -> None:
    """Raise ConfigurationError where another account than the owner could read a private key, or change it."""
    for key in (folder.authority_key, folder.server_key, folder.executor_secret):
        if key.exists() and key.stat().st_mode & 0o077:
            raise ConfigurationError(
                f"{key} can be read by others (mode {key.stat().st_mode & 0o777:04o}); run: chmod 600 {key}. Where "
                "somebody may have read it, make a new one: permmoe-server rotate-certificate for server.key, a new "
                "federation for ca.key, a new region for executor.secret"
            )


def authority_of(folder: FederationFolder) -> Identity:
    """Return the authority's certificate and key. Raises ConfigurationError where they do not match."""
    return read_identity(folder.authority, folder.authority_key)


def _read_public_key(path: Path, roster: Roster) -> bytes:
    if not path.is_file():
        raise ConfigurationError(f"no public key at {path}; name the file that the hospital sent")
    try:
        text = public_key_text(path.read_bytes())
    except RosterError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    for site in roster.sites:
        if site.public_key == text:
            raise ConfigurationError(f"{path}: this is the key of site {site.name!r}; every site needs its own")
    return text.encode()


def write_server(folder: FederationFolder, server: Identity) -> None:
    """Write a server's key and certificate."""
    write_file(folder.server_key, server.key_pem)
    write_file(folder.server, server.certificate_pem, mode=PUBLIC_MODE)


def _write_roster(folder: FederationFolder, roster: Roster, authority: Identity) -> None:
    write_file(folder.roster, sign_roster(roster, authority.key), mode=PUBLIC_MODE)


def _refuse_taken(folder: FederationFolder) -> None:
    if folder.authority.exists():
        raise ConfigurationError(f"{folder.path} holds a federation already; name another folder")
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise ConfigurationError(f"{folder.path} is not empty; name a new folder")
