"""A federation's folder: founded, sites added and removed, the server's certificate renewed.

    ca.crt  ca.key  server.crt  server.key  roster.signed.json  server.yaml  kits/NAME.zip

Every file is replaced whole, one command at a time works on a folder, and no command touches another site's kit.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, field_validator

from permmoe.config import Configuration, read_config
from permmoe.errors import ConfigurationError, nearest
from permmoe.federated.records import SITE_NAME
from permmoe.federated.roster import (
    FEDERATION_NAME,
    Roster,
    RosterError,
    fingerprint,
    public_key_text,
    read_roster,
    sign_roster,
)
from permmoe_server.authority import (
    Identity,
    checked_host,
    issue_server,
    new_authority,
    new_node_key,
    read_identity,
    write_file,
)
from permmoe_server.kit import Kit

AUTHORITY_FILE, AUTHORITY_KEY_FILE = "ca.crt", "ca.key"
SERVER_FILE, SERVER_KEY_FILE = "server.crt", "server.key"
ROSTER_FILE = "roster.signed.json"
CONFIG_FILE = "server.yaml"
KITS_FOLDER = "kits"
LOCK_FILE = ".lock"


class ServerConfig(Configuration):
    """What the coordinator decides for the server; server.yaml in the federation's folder."""

    host: str = Field(description="name or IP address that sites reach the server by")
    port: int = Field(8443, ge=1, le=65535, description="TCP port that sites reach the server by")
    certificate_days: int = Field(90, ge=1, description="validity of a server certificate, days")

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        try:
            return checked_host(host)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None


def init(folder: Path, name: str, host: str, port: int = 8443) -> str:
    """Found a federation in a folder that appears whole or not at all; returns the fingerprint of its key.

    Raises ConfigurationError for a folder that holds anything, or an invalid name or host.
    """
    if not re.fullmatch(FEDERATION_NAME, name):
        raise ConfigurationError(
            f"{name!r} cannot name a federation; use up to 64 letters, digits, spaces and . _ - "
            "that begin with a letter or digit"
        )
    host = checked_host(host)
    _refuse_taken(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    authority = new_authority(name, now)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        write_file(new / AUTHORITY_KEY_FILE, authority.key_pem, secret=True)
        write_file(new / AUTHORITY_FILE, authority.certificate_pem, secret=False)
        write_file(new / CONFIG_FILE, _server_template(host, port).encode(), secret=False)
        _write_server(new, issue_server(authority, host, now, read_server(new).certificate_days))
        _write_roster(new, Roster(federation=name, serial=1), authority)
        (new / KITS_FOLDER).mkdir(mode=0o700)
        try:
            new.replace(folder)
        except OSError:
            _refuse_taken(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return fingerprint(authority.certificate)


def add_site(folder: Path, name: str, public_key: Path | None = None) -> Path:
    """Put a site on the roster and write its kit; returns the kit's path.

    `public_key`: the half of a key that the hospital made and keeps, which is the better way; without it the kit holds
    a new private key that is kept nowhere else. Raises ConfigurationError for a name that is taken or invalid, or a
    file without a usable key.
    """
    if not SITE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name a site; use up to 64 of a-z, 0-9, _ and - that begin with a letter or digit"
        )
    with _locked(folder):
        authority, roster = _authority(folder), list_sites(folder)
        if name in roster.names:
            raise ConfigurationError(
                f"site {name!r} is in the federation already; use another name, or remove it first"
            )
        private, public = (None, _read_public_key(public_key, roster)) if public_key else new_node_key()
        roster = roster.with_site(name, public.decode())
        server = read_server(folder)
        kit = Kit(
            federation=roster.federation,
            site=name,
            host=server.host,
            port=server.port,
            fingerprint=fingerprint(authority.certificate),
            authority_pem=authority.certificate_pem,
            signed_roster=sign_roster(roster, authority.key),
            node_key=private,
        )
        path = _kit_path(folder, name)
        # The roster last: after a kill between the two the name is still free, and the same command replaces the kit.
        write_file(path, kit.to_zip(), secret=True)
        write_file(folder / ROSTER_FILE, kit.signed_roster, secret=False)
    return path


def remove_site(folder: Path, name: str) -> None:
    """Take a site off the roster and delete its kit. Raises ConfigurationError for a name that is not on it."""
    with _locked(folder):
        authority, roster = _authority(folder), list_sites(folder)
        if name not in roster.names:
            hint = nearest(name, roster.names) if roster.sites else "no site has been added yet"
            raise ConfigurationError(f"no site {name!r} in the federation; {hint}")
        _write_roster(folder, roster.without_site(name), authority)
        _kit_path(folder, name).unlink(missing_ok=True)


def rotate_certificate(folder: Path) -> datetime:
    """Give the server a new key and certificate for the host in server.yaml; returns when it ends.

    The authority stays, so no site has to do anything. Key and certificate are two files: a kill between them leaves
    two that do not match, which the same command mends.
    """
    with _locked(folder):
        server = read_server(folder)
        issued = issue_server(_authority(folder), server.host, datetime.now(UTC), server.certificate_days)
        _write_server(folder, issued)
    return issued.certificate.not_valid_after_utc


def list_sites(folder: Path) -> Roster:
    """The roster, its signature verified."""
    _refuse_missing(folder)
    try:
        return read_roster((folder / ROSTER_FILE).read_bytes(), _authority(folder).certificate)
    except RosterError as error:
        raise ConfigurationError(f"{folder / ROSTER_FILE}: {error}") from None


def read_server(folder: Path) -> ServerConfig:
    """The settings in the folder's server.yaml. Raises ConfigurationError."""
    return read_config(folder / CONFIG_FILE, ServerConfig)


def server_identity(folder: Path) -> Identity:
    """The server's certificate and key. Raises ConfigurationError where they do not match."""
    _refuse_missing(folder)
    return read_identity(folder / SERVER_FILE, folder / SERVER_KEY_FILE)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder alone; the system lets go of the lock when the process ends, however it ends."""
    _refuse_missing(folder)
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another command is changing {folder}; repeat this one when it has ended"
            ) from None
        yield
    finally:
        os.close(handle)


def _authority(folder: Path) -> Identity:
    return read_identity(folder / AUTHORITY_FILE, folder / AUTHORITY_KEY_FILE)


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


def _kit_path(folder: Path, name: str) -> Path:
    return folder / KITS_FOLDER / f"{name}.zip"


def _write_server(folder: Path, server: Identity) -> None:
    write_file(folder / SERVER_KEY_FILE, server.key_pem, secret=True)
    write_file(folder / SERVER_FILE, server.certificate_pem, secret=False)


def _write_roster(folder: Path, roster: Roster, authority: Identity) -> None:
    write_file(folder / ROSTER_FILE, sign_roster(roster, authority.key), secret=False)


def _refuse_taken(folder: Path) -> None:
    if (folder / AUTHORITY_FILE).exists():
        raise ConfigurationError(f"{folder} holds a federation already; name another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty; name a new folder")


def _refuse_missing(folder: Path) -> None:
    if not (folder / AUTHORITY_FILE).is_file():
        raise ConfigurationError(f"no federation in {folder}; found one with permmoe-server init, or name its folder")


def _server_template(host: str, port: int) -> str:
    return f"""\
# What the coordinator decides for the server.

# Name or IP address that sites reach the server by. After a change: permmoe-server rotate-certificate, and tell the
# sites, whose federation.json has the address too.
host: {json.dumps(host)}

# TCP port that sites reach the server by.
port: {port}

# Validity of a server certificate, days. permmoe-server rotate-certificate makes a new one; sites notice nothing.
certificate_days: 90
"""
