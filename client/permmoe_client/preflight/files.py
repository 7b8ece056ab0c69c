"""Files and folders: there, open to whom they should be and to nobody else, with room."""

from __future__ import annotations

import math
import stat
from pathlib import Path

from cryptography import x509

from permmoe.runtime.text import size_text
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning

BYTES_A_VOXEL = 2
"""A cached volume is float16."""
LEDGER_BYTES = 100_000_000
"""Room for the record of what left: some kilobytes a round, so years of studies."""
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket, Linux's unix(7)."""
NEW_KIT = "unpack the kit again, or ask the coordinator for a new one"


def settings_mode(facts: Facts) -> Outcome:
    """Who may write the settings decides what may leave."""
    if _mode(facts.path) & 0o022:
        return failed(f"others may write {facts.path}", f"chmod go-w {facts.path}")
    return ok("only its owner may write it")


def key_mode(facts: Facts) -> Outcome:
    """The rule for keys is that of ssh."""
    key = facts.coordinator.key
    if not key.is_file():
        raise Skip("needs files.key")
    if _mode(key) & 0o077:
        return failed(f"others may read or write {key}", f"chmod 600 {key}")
    return ok("only its owner may read it")


def key_owner(facts: Facts) -> Outcome:
    """A service that runs under another account than the one that unpacked the kit cannot read the key."""
    key = facts.coordinator.key
    if not key.is_file():
        raise Skip("needs files.key")
    if facts.world.owner(key) != facts.world.user():
        return warning(
            f"{key} belongs to another account than the one that runs this check",
            "run this check as the account that will run permmoe-client, or give the kit's folder to it (chown -R)",
        )
    return ok("it belongs to this account")


def key_folder(facts: Facts) -> Outcome:
    """Who may write the folder may put another key, or another authority, in its place."""
    folder = facts.coordinator.key.parent
    if not folder.is_dir():
        raise Skip("needs files.key")
    if _mode(folder) & 0o022:
        return failed(f"others may write {folder}, and so replace the key", f"chmod 700 {folder}")
    return ok(f"only its owner may write {folder}")


def key(facts: Facts) -> Outcome:
    """The key is EC P-384, without a passphrase."""
    path, attempt = facts.coordinator.key, facts.credentials.key
    if attempt.trouble:
        return failed(attempt.trouble, "put the private key that belongs to the kit's certificate there")
    attempt.need("files.key_mode")
    return ok(f"{path}: EC P-384")


def certificate(facts: Facts) -> Outcome:
    """The site's own certificate can be read."""
    path, attempt = facts.coordinator.certificate, facts.credentials.certificate
    return ok(f"{path} can be read") if attempt.result else failed(attempt.trouble, NEW_KIT)


def authority(facts: Facts) -> Outcome:
    """The certificate of the federation's authority can be read."""
    path, attempt = facts.coordinator.authority, facts.credentials.authority
    if attempt.result is None:
        return failed(attempt.trouble, NEW_KIT)
    try:
        is_authority = attempt.result.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        return failed(f"{path} is a certificate, but not of an authority", f"name the kit's ca.crt, or {NEW_KIT}")
    return ok(f"{path} can be read")


def roster(facts: Facts) -> Outcome:
    """The roster can be read; another check verifies its signature."""
    path, attempt = facts.coordinator.roster, facts.credentials.signed_roster
    return ok(f"{path} can be read") if attempt.result is not None else failed(attempt.trouble, NEW_KIT)


def pair(facts: Facts) -> Outcome:
    """A certificate is of use only with its own key."""
    own = facts.credentials.key.need("files.key").public_key()
    if facts.credentials.certificate.need("files.certificate").public_key() != own:
        return failed(
            f"{facts.coordinator.certificate} is not the certificate of {facts.coordinator.key}",
            "use the certificate of the kit that was made for this key, or ask the coordinator for a new kit",
        )
    return ok("the certificate is of this key")


def cache(facts: Facts) -> Outcome:
    """Preprocessed images go into the cache folder."""
    return _folder(facts, facts.site.cache, "cache")


def cache_mode(facts: Facts) -> Outcome:
    """The cache folder holds patients' images."""
    return _closed(facts.site.cache, "patients' images")


def cache_space(facts: Facts) -> Outcome:
    """Visits × modalities × voxels, less what is there already."""
    needed = cache_bytes(facts)
    present = sum(entry.stat().st_size for entry in facts.site.cache.glob("*.npy"))
    return _space(facts, facts.site.cache, max(0, needed - present), "cache")


def prepared(facts: Facts) -> Outcome:
    """Images that the site prepares go into a folder of their own."""
    if facts.site.prepare is None:
        return ok("the site prepares no images")
    return _folder(facts, facts.site.prepare.folder, "prepare.folder")


def prepared_mode(facts: Facts) -> Outcome:
    """The folder of prepared images holds patients' images, and pictures of them."""
    if facts.site.prepare is None:
        return ok("the site prepares no images")
    return _closed(facts.site.prepare.folder, "patients' images")


def ledger(facts: Facts) -> Outcome:
    """The ledger is the record of what left."""
    return _folder(facts, _ledger_folder(facts), "ledger")


def ledger_mode(facts: Facts) -> Outcome:
    """Who may write it may approve studies."""
    folder = _ledger_folder(facts)
    if folder.is_dir() and _mode(folder) & 0o022:
        return failed(f"others may write {folder}, and so approve studies", f"chmod 700 {folder}")
    return ok("only its owner may write it")


def ledger_space(facts: Facts) -> Outcome:
    """Nothing may leave that cannot be recorded."""
    return _space(facts, _ledger_folder(facts), LEDGER_BYTES, "ledger")


def state(facts: Facts) -> Outcome:
    """What a study keeps at the site alone, and a training that may be interrupted."""
    return _folder(facts, _state_folder(facts), "state")


def state_mode(facts: Facts) -> Outcome:
    """Models that one hospital trained say more about its patients than those of a federation."""
    return _closed(_state_folder(facts), "models of this hospital alone")


def logs(facts: Facts) -> Outcome:
    """The log goes to a folder, or to standard error."""
    if facts.site.logs is None:
        return ok("the log goes to standard error")
    return _folder(facts, facts.site.logs, "logs")


def health_socket(facts: Facts) -> Outcome:
    """The socket's folder has to exist, and its path has to be short."""
    path = facts.site.health_socket
    if path is None:
        return ok("no health probes are asked for")
    if len(str(path.absolute()).encode()) > SOCKET_PATH_BYTES:
        return failed(
            f"{path} is longer than the {SOCKET_PATH_BYTES} bytes that a socket's path may have",
            "name a shorter path, as /run/permmoe/health.sock",
        )
    if not path.parent.is_dir() or not facts.world.is_writable(path.parent):
        return failed(f"{path.parent} is no folder that this account may write", f"make the folder {path.parent}")
    return ok(f"{path} can be made")


def cache_bytes(facts: Facts) -> int:
    """What all preprocessed images take."""
    return facts.image_count * math.prod(facts.model.grid.shape) * BYTES_A_VOXEL


def _ledger_folder(facts: Facts) -> Path:
    if facts.site.ledger is None:
        raise Skip("the settings have no 'ledger'")
    return facts.site.ledger


def _state_folder(facts: Facts) -> Path:
    if facts.site.state is None:
        raise Skip("the settings have no 'state', so a restart costs the training that it interrupts")
    return facts.site.state


def _closed(folder: Path, content: str) -> Outcome:
    if folder.is_dir() and _mode(folder) & 0o077:
        return failed(f"others may look into {folder}, which holds {content}", f"chmod 700 {folder}")
    return ok(f"only its owner may look into {folder}" if folder.is_dir() else "it will be made for its owner only")


def _folder(facts: Facts, folder: Path, setting: str) -> Outcome:
    nearest = _nearest(folder)
    remedy = f"make {folder} writable by this account, or name another folder in '{setting}'"
    if not nearest.is_dir():
        return failed(f"{nearest} is a file, not a folder", remedy)
    if not facts.world.is_writable(nearest):
        return failed(f"this account may not write {nearest}", remedy)
    return ok(f"{folder} can be written" if nearest == folder else f"{folder} can be made")


def _space(facts: Facts, folder: Path, needed: int, setting: str) -> Outcome:
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise Skip(f"needs files.{setting}")
    free = facts.world.free_bytes(nearest)
    detail = f"{size_text(float(free))} free, {size_text(float(needed))} needed"
    if free < needed:
        return failed(detail, f"make room on the disk of {nearest}, or name a folder on another disk in '{setting}'")
    return ok(detail)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


CHECKS = (
    Check("files.settings_mode", "Only their owner may write the settings", settings_mode),
    Check("files.key", "The site's private key can be used", key),
    Check("files.key_mode", "Nobody else can read the private key", key_mode),
    Check("files.key_owner", "The private key belongs to this account", key_owner),
    Check("files.key_folder", "Nobody else can replace the private key", key_folder),
    Check("files.certificate", "The site's certificate can be read", certificate),
    Check("files.pair", "Certificate and private key belong together", pair),
    Check("files.authority", "The certificate of the federation's authority can be read", authority),
    Check("files.roster", "The roster can be read", roster),
    Check("files.cache", "The cache folder can be used", cache),
    Check("files.cache_mode", "Nobody else can look into the cache folder", cache_mode),
    Check("files.cache_space", "The cache folder's disk has room for all images", cache_space),
    Check("files.prepared", "The folder of prepared images can be used", prepared),
    Check("files.prepared_mode", "Nobody else can look into the folder of prepared images", prepared_mode),
    Check("files.ledger", "The ledger's folder can be used", ledger),
    Check("files.ledger_mode", "Nobody else can write the ledger", ledger_mode),
    Check("files.ledger_space", "The ledger's disk has room", ledger_space),
    Check("files.state", "The folder of interrupted trainings can be used", state),
    Check("files.state_mode", "Nobody else can look into the folder of interrupted trainings", state_mode),
    Check("files.logs", "The log can be written", logs),
    Check("files.health_socket", "The socket for health probes can be made", health_socket),
)
