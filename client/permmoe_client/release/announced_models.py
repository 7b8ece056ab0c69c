"""What the ledger says of the models that the coordinator announced: the chain so far, and who signed it.

An entry holds the links that the entries of its study before it lack, so that a ledger has the whole chain of each
study, and two ledgers can be compared without anybody's help.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import AuditError, Entry, parse_entry
from permmoe.federated.model_chain import (
    Announcement,
    Link,
    SignedHead,
    check_head,
    head_from,
    head_of,
    pack_links,
    unpack_links,
)

FACT = "announced"


@dataclass(frozen=True)
class AnnouncedModels:
    """A study's chain, as a ledger has it."""

    links: tuple[Link, ...]
    signed: SignedHead


def announced_facts(announcement: Announcement | None) -> dict[str, Any]:
    """What an entry says of the models announced with its instruction; nothing where there were none."""
    if announcement is None:
        return {}
    new = announcement.links[announcement.known :]
    return {
        FACT: {"head": announcement.signed.values(), "after": announcement.known, "links": pack_links(new).hex()},
    }


def head_in(entry: Entry) -> SignedHead | None:
    """The head that an entry has, not verified; None without one. Raises AuditError."""
    found = entry.facts.get(FACT)
    return head_from(_mapping(found).get("head")) if found is not None else None


def chains_of(entries: Iterable[Entry], authority: x509.Certificate | None = None) -> dict[str, AnnouncedModels]:
    """The chain of each study in a ledger, by the study's digest; signatures are checked where the authority is known.

    Raises AuditError that names the first entry whose head does not follow from the links up to it.
    """
    chains: dict[str, AnnouncedModels] = {}
    for entry in entries:
        try:
            signed = head_in(entry)
            if signed is None:
                continue
            study = str(entry.facts.get("study"))
            before = chains[study].links if study in chains else ()
            links = _links_after(entry, before)
            if signed.head != head_of(study, links):
                raise AuditError("the chain of models is not the one that was signed")
            if authority:
                check_head(signed, authority)
        except AuditError as error:
            raise AuditError(f"entry {entry.sequence}: {error}") from None
        chains[study] = AnnouncedModels(links, signed)
    return chains


def chains_in(file: Path, authority: x509.Certificate) -> dict[str, AnnouncedModels]:
    """The chains of another site's ledger. Its coordinator's signatures are checked, and of its own none: a site cannot
    forge what it was sent. Raises AuditError, and ConfigurationError for a file that cannot be read."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be read ({error.strerror}); name another site's ledger.jsonl"
        ) from None
    return chains_of(map(parse_entry, lines), authority)


def _links_after(entry: Entry, before: tuple[Link, ...]) -> tuple[Link, ...]:
    """The links up to an entry's head, where the entries before it have these."""
    found = _mapping(entry.facts[FACT])
    try:
        after, new = int(found["after"]), unpack_links(bytes.fromhex(str(found["links"])))
    except (KeyError, TypeError, ValueError):
        raise AuditError("the chain of models is damaged") from None
    if not 0 <= after <= len(before):
        raise AuditError("the chain of models has a gap")
    return (*before[:after], *new)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise AuditError("the chain of models is damaged")
    return value
