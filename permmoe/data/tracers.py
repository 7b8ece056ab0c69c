"""Which modality a PET tracer shows, by any of the names that it goes by."""

from __future__ import annotations

import re

ALIASES: dict[str, tuple[str, ...]] = {
    "amyloid": (
        "AV45", "florbetapir", "FBB", "florbetaben", "BAY949172", "FMM", "flutemetamol", "PIB",
        "NAV4694", "AZD4694", "flutafuranol",
    ),
    "tau": (
        "AV1451", "T807", "flortaucipir", "FTP", "MK6240", "florquinitau", "PI2620", "RO948", "GTP1", "APN1607",
        "PM-PBB3",
    ),
}  # fmt: skip
"""Written without the isotope: `18FAV45`, `18F-AV45` and `AV45` are the same."""


def _key(label: str) -> str:
    """Letters and digits without the isotope, in capitals."""
    bare = re.sub(r"[^A-Z0-9]", "", label.upper())
    return re.sub(r"^(?:18F|F18|11C|C11)", "", bare)


_MODALITIES = {_key(alias): modality for modality, aliases in ALIASES.items() for alias in aliases}


def modality_of(label: str) -> str | None:
    """`amyloid` or `tau`; None for any other tracer, such as FDG."""
    return _MODALITIES.get(_key(label))


def is_tracer(label: str) -> bool:
    """Whether a label names a tracer that is known here."""
    return modality_of(label) is not None
