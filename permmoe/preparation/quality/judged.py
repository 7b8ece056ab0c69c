"""One prepared image with all that a person needs to judge it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.rules import SEVERITY, Judgement, Verdict


@dataclass(frozen=True)
class Judged:
    """A prepared image, its metrics, and what was found. It names a subject: it stays at the site."""

    subject: str
    session: str
    modality: str
    metrics: ImageMetrics
    judgement: Judgement
    sheet: Path
    """The contact sheet of its session."""
    file: str = ""
    """The prepared image, as the quarantine names it."""

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings."""
        return self.judgement.verdict

    @property
    def reasons(self) -> tuple[str, ...]:
        """Its findings in words, failures first."""
        return self.judgement.reasons

    @property
    def reason(self) -> Reason | None:
        """Why it is left out, where it failed."""
        return self.judgement.reason


def failed(images: Iterable[Judged]) -> Quarantine:
    """The failed images, as the quarantine itemises them."""
    return Quarantine(
        tuple(Quarantined(i.subject, i.modality, i.file, i.reason) for i in images if i.reason is not None)
    )


def worst_first(images: Iterable[Judged]) -> list[Judged]:
    """Failed images, then those to look at, then good ones; those with more findings first."""
    return sorted(
        images,
        key=lambda i: (-SEVERITY.index(i.verdict), -len(i.judgement.findings), i.subject, i.session, i.modality),
    )
