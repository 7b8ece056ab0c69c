"""Which PET tracer a label means, and which modality it shows, by any of the names that a tracer goes by."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Tracer:
    """A PET tracer of amyloid or tau."""

    name: str
    """Its canonical name, which files and models carry."""
    modality: str
    """`amyloid` or `tau`."""
    aliases: tuple[str, ...]
    """Other names, written without the isotope."""


TRACERS = (
    Tracer("AV45", "amyloid", ("florbetapir", "FBP", "Amyvid")),
    Tracer("FBB", "amyloid", ("florbetaben", "BAY949172", "Neuraceq")),
    Tracer("FMM", "amyloid", ("flutemetamol", "GE067", "Vizamyl")),
    Tracer("PiB", "amyloid", ("Pittsburgh compound B",)),
    Tracer("NAV4694", "amyloid", ("AZD4694", "flutafuranol", "NAV")),
    Tracer("AV1451", "tau", ("T807", "flortaucipir", "FTP", "Tauvid")),
    Tracer("MK6240", "tau", ("florquinitau",)),
    Tracer("PI2620", "tau", ()),
    Tracer("RO948", "tau", ("RO6958948",)),
    Tracer("GTP1", "tau", ()),
    Tracer("APN1607", "tau", ("PM-PBB3", "florzolotau")),
)


def canonical_tracer(label: str) -> str | None:
    """A tracer's canonical name, such as AV45 for `18F-AV45`, `florbetapir F18` or `Amyvid`; None for any other."""
    tracer = _BY_KEY.get(_key(label))
    return tracer.name if tracer else None


def modality_of(label: str) -> str | None:
    """`amyloid` or `tau`; None for any other tracer, such as FDG."""
    tracer = _BY_KEY.get(_key(label))
    return tracer.modality if tracer else None


def tracer_in(text: str) -> str | None:
    """The canonical name of the tracer that a free text names, such as a series' description; None where it names none.

    Names that are made of words (`AV-45`) may be written apart. Of several the first counts.
    """
    words = re.findall(r"[A-Za-z0-9]+", text)
    for start in range(len(words)):
        # The longest first: `AV 1451` is no `AV1`.
        for end in range(min(len(words), start + 3), start, -1):
            if name := canonical_tracer("".join(words[start:end])):
                return name
    return None


def names_another(text: str, tracer: str) -> bool:
    """Whether a free text names another tracer than this one, FDG included; one that names none does not."""
    named = tracer_in(text)
    is_fdg = re.search(r"FDG|fluorodeoxyglucose", text, re.IGNORECASE) is not None
    return is_fdg if named is None else named != tracer


def _key(label: str) -> str:
    """Letters and digits without the isotope, in capitals: `18FAV45`, `AV45 F18` and `[18F]AV-45` are AV45."""
    bare = re.sub(r"[^A-Z0-9]", "", label.upper())
    return re.sub(r"(?:18F|F18|11C|C11)$", "", re.sub(r"^(?:18F|F18|11C|C11)", "", bare))


_BY_KEY = {_key(alias): tracer for tracer in TRACERS for alias in (tracer.name, *tracer.aliases)}
