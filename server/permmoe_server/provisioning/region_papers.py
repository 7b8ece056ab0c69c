"""What a coordinator hands over to a region, and what the region tells it back. Bytes in, bytes out.

A region's gateway gives its sites what the coordinator's own gives to others: the newest roster, their certificates and
their receipts. It comes over the superlink's socket, which nobody but the coordinator reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import TypeAdapter

PAPERS_PATH = "/v1/region/papers"
"""RegionPapers -> RegionNews."""


@dataclass(frozen=True)
class RegionPapers:
    """The newest state of the federation, as far as it concerns a region. Texts are files as they are kept."""

    roster: str
    """The signed one, of all sites."""
    certificates: Mapping[str, str] = field(default_factory=dict)
    """Site of the region -> its newest certificate (PEM)."""
    receipts: Mapping[str, str] = field(default_factory=dict)
    """Site of the region -> the receipt for its newest entry."""


@dataclass(frozen=True)
class RegionNews:
    """What a region's gateway has seen."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Site -> the version that it says it runs."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Rule -> requests and connections that were turned away."""
    certificate_end: datetime | None = None
    """When the certificate of its server ends."""


_PAPERS, _NEWS = TypeAdapter(RegionPapers), TypeAdapter(RegionNews)


def write_region_papers(papers: RegionPapers) -> bytes:
    """Write what is handed over."""
    return _PAPERS.dump_json(papers)


def read_region_papers(content: bytes) -> RegionPapers:
    """Read what is handed over. Raises ValueError for anything else."""
    return _PAPERS.validate_json(content)


def write_region_news(news: RegionNews) -> bytes:
    """Write a region's answer."""
    return _NEWS.dump_json(news)


def read_region_news(content: bytes) -> RegionNews:
    """Read a region's answer. Raises ValueError for anything else."""
    return _NEWS.validate_json(content)
