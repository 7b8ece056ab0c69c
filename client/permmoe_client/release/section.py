"""A part of the text that a hospital reads before it approves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A heading and the sentences under it. Some are the coordinator's own words: show them unformatted."""

    heading: str
    sentences: tuple[str, ...]
