"""The typed visit table in which every loader ends: one row an index visit, never two of one subject."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from permmoe.errors import DataError
from permmoe.modality import Combination


@dataclass(frozen=True)
class Visit:
    """A subject's index visit: what was measured then, and how CDR-SB had changed at the horizon."""

    subject_id: str
    site: str
    session: str
    baseline_cdrsb: float
    """CDR-SB at the visit, points (0-18)."""
    delta_cdrsb: float | None
    """CDR-SB at the horizon − CDR-SB at the visit, points; None where only a prediction is wanted."""
    horizon_months: float
    age_years: float | None = None
    phase: str = ""
    split: Literal["", "train", "validation", "test"] = ""
    """Empty until assigned (permmoe.data.splits) or given by the manifest."""
    volumes: Mapping[str, Path] = field(default_factory=dict)
    """Image file of each observed volume modality."""
    tables: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of each observed tabular modality, in the order of its columns."""
    covariates: Mapping[str, float] = field(default_factory=dict)
    """Numbers that references to a model read, by column; no entry where one was not measured. No model sees them."""
    tracers: Mapping[str, str] = field(default_factory=dict)
    """The PET tracer of each modality, as far as a table tells it; permmoe.data.tracer_rule also asks the images."""

    later_changes: Mapping[float, float] = field(default_factory=dict)
    """Changes at other horizons than the table's, points, by months; no entry where one is not known."""

    def observed(self, names: Sequence[str]) -> Combination:
        """The modalities among `names` that this visit has."""
        return tuple(name for name in names if name in self.volumes or name in self.tables)

    def with_only(self, names: Sequence[str]) -> Visit:
        """The visit as if no other modalities than these had been collected."""
        volumes = {name: self.volumes[name] for name in names if name in self.volumes}
        return replace(self, volumes=volumes, tables={name: self.tables[name] for name in names if name in self.tables})


@dataclass(frozen=True)
class VisitTable:
    """Visits in a fixed order. Raises DataError where a subject occurs twice."""

    visits: tuple[Visit, ...]

    def __post_init__(self) -> None:
        counts = Counter(v.subject_id for v in self.visits)
        if repeated := sorted(subject for subject, n in counts.items() if n > 1):
            raise DataError(
                f"{len(repeated)} subject(s) have more than one index visit, first {repeated[0]}; "
                "keep one row a subject: splits are by subject",
                for_log=f"{len(repeated)} subject(s) have more than one index visit",
            )

    def __len__(self) -> int:
        return len(self.visits)

    def __iter__(self) -> Iterator[Visit]:
        return iter(self.visits)

    @property
    def sites(self) -> tuple[str, ...]:
        """Site codes, sorted."""
        return tuple(sorted({v.site for v in self.visits}))

    def where(self, keep: Callable[[Visit], bool]) -> VisitTable:
        """The visits for which `keep` holds, in order."""
        return VisitTable(tuple(v for v in self.visits if keep(v)))

    def digest(self) -> str:
        """SHA-256 over every value but the folder that the files lie in, so that a moved data set keeps its digest."""
        rows = [
            [v.subject_id, v.site, v.session, v.baseline_cdrsb, v.delta_cdrsb, v.horizon_months, v.age_years, v.phase,
             sorted((m, p.name) for m, p in v.volumes.items()), sorted(v.tables.items()), *filter(None, [v.split]),
             *filter(None, [sorted(v.covariates.items())]), *filter(None, [sorted(v.later_changes.items())])]
            for v in self.visits
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
