"""What a synthetic cohort looks like in the terms in which ADNI is published: figures of its tables, no image read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from jaxtyping import Float

from permmoe.data.cohort import CohortConfig, Subject, draw_subjects
from permmoe.data.cohort.clinical_visits import DAYS_PER_MONTH
from permmoe.data.cohort.settings import MODALITIES
from permmoe.data.cohort.subjects import PHASES
from permmoe.data.target_rule import TargetRule

Column = Float[np.ndarray, " subject"]
CAUSES = ("amyloid", "tau", "neurodegeneration", "hippocampal_loss", "vascular")
AMYLOID_POSITIVE = 0.22
"""From this load on a subject was drawn as positive (permmoe.data.cohort.disease)."""


@dataclass(frozen=True)
class Cohort:
    """A cohort's subjects, and their change in CDR-SB after two years, points; NaN where nobody saw it."""

    subjects: tuple[Subject, ...]
    change: Column


def drawn(config: CohortConfig) -> Cohort:
    """The cohort of a configuration, without its images."""
    subjects = draw_subjects(config)
    return Cohort(subjects, np.array([change_at(subject, 24) for subject in subjects]))


def change_at(subject: Subject, months: int) -> float:
    """CDR-SB at the visit nearest to `months` after the index visit, within the target rule's window, minus the index
    visit's; NaN where there is no such visit."""
    index, window = subject.index_visit, TargetRule().window_months * DAYS_PER_MONTH
    due = index.day + timedelta(days=round(months * DAYS_PER_MONTH))
    near = [(abs((v.day - due).days), v.cdrsb) for v in subject.visits if v.day > index.day and v.cdrsb >= 0]
    within = [found for found in near if found[0] <= window]
    return min(within)[1] - index.cdrsb if within else float("nan")


def figures(cohort: Cohort) -> dict[str, str]:
    """Every figure of the cohort by its name, as text."""
    subjects, change = cohort.subjects, cohort.change
    seen = change[np.isfinite(change)]
    found = {"subjects": str(len(subjects))}
    for phase in PHASES:
        own = [subject for subject in subjects if subject.phase.name == phase.name]
        found[f"share of subjects, {phase.name}"] = _percent([subject.phase.name == phase.name for subject in subjects])
        for modality in MODALITIES:
            found[f"{modality}, {phase.name}"] = _percent([modality in subject.observed for subject in own])
    for modality in MODALITIES:
        found[f"{modality}, all phases"] = _percent([modality in subject.observed for subject in subjects])
    found["age"] = _spread(np.array([s.person.age_years for s in subjects]))
    found["women"] = _percent([s.person.sex == "Female" for s in subjects])
    found["education"] = _spread(np.array([float(s.person.education_years) for s in subjects]))
    found["APOE ε4 carriers"] = _percent([s.person.apoe4_alleles > 0 for s in subjects])
    found["amyloid positive"] = _percent([s.latents.amyloid >= AMYLOID_POSITIVE for s in subjects])
    found["CDR-SB"] = _spread(np.array([s.index_visit.cdrsb for s in subjects]))
    for name, scores in clinical_scores(subjects).items():
        found[name] = _spread(scores)
        found[f"{name}, correlation with change"] = _correlation(scores, change)
    found["CDR-SB, correlation with change"] = _correlation(np.array([s.index_visit.cdrsb for s in subjects]), change)
    found["change at 24 months"] = _spread(seen)
    found["no change"] = _percent((seen == 0).tolist())
    found["better"] = _percent((seen < 0).tolist())
    found["dementia within a year"] = _percent([demented_within_a_year(s) for s in subjects if len(s.visits) > 1])
    for name, share in unique_shares(cohort).items():
        found[f"share of the change, {name}"] = f"{share:.1%}"
    return found


def clinical_scores(subjects: Sequence[Subject]) -> dict[str, Column]:
    """Each score at the index visit; NaN where its form is missing or the cohort has no such score."""
    visits = [subject.index_visit for subject in subjects]
    columns: dict[str, list[float | int | None]] = {
        "MMSE": [visit.mmse for visit in visits],
        "ADAS-Cog 13": [visit.scores.adas13 if visit.scores else None for visit in visits],
        "FAQ": [visit.scores.faq if visit.scores else None for visit in visits],
        "RAVLT": [visit.scores.ravlt if visit.scores else None for visit in visits],
    }
    return {name: np.array([np.nan if score is None else float(score) for score in of]) for name, of in columns.items()}


def demented_within_a_year(subject: Subject) -> bool:
    """Whether a visit up to 15 months after the index visit has the diagnosis."""
    last = subject.index_month + 15
    return any(v.diagnosis == "Dementia" and subject.index_month < v.month <= last for v in subject.visits)


def unique_shares(cohort: Cohort) -> dict[str, float]:
    """Of the variance of the change at 24 months, what each hidden cause explains beside all others, linearly."""
    seen = np.isfinite(cohort.change)
    y = cohort.change[seen]
    causes = np.array([[getattr(s.latents, name) for name in CAUSES] for s in cohort.subjects], float)[seen]

    def left(columns: np.ndarray) -> float:
        x = np.column_stack([np.ones(len(y)), columns])
        return float(np.var(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) / np.var(y))

    return {name: left(np.delete(causes, i, axis=1)) - left(causes) for i, name in enumerate(CAUSES)}


def _spread(values: Column) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.2f} ({known.std():.2f})" if len(known) else "none"


def _percent(flags: Sequence[bool]) -> str:
    return f"{np.mean(flags):.0%}" if len(flags) else "none"


def _correlation(scores: Column, change: Column) -> str:
    both = np.isfinite(scores) & np.isfinite(change)
    return f"{np.corrcoef(scores[both], change[both])[0, 1]:+.2f}" if both.any() else "none"
