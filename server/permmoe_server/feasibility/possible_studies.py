"""What a survey's numbers say of the studies that could be run: one for each combination of modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from permmoe.federated.survey_facts import ANY, Described, Facts
from permmoe.modality import Combination, all_combinations
from permmoe_server.studies.survey_file import SurveyNumbers


@dataclass(frozen=True)
class PossibleStudy:
    """A study of the patients who have these modalities, or more. There may be more patients than are told of."""

    modalities: Combination
    """Empty: of all patients with any modality of the survey."""
    patients: int
    hospitals: int | None
    """None after a secure sum, where nobody learns it."""
    known: int | None
    """Patients whose outcome is known; None where the survey does not ask, 0 where nobody is told to be among them."""
    by_severity: Mapping[int, int]
    """Group of severity -> patients; groups of which nobody is told are absent."""

    @property
    def usable(self) -> int:
        """The patients that a study could train on and judge with: those with a known outcome, where that was asked."""
        return self.patients if self.known is None else self.known

    @property
    def severity_not_told(self) -> int:
        """Patients of whom the group of severity is not told."""
        return self.patients - sum(self.by_severity.values())


def possible_studies(numbers: SurveyNumbers) -> tuple[PossibleStudy, ...]:
    """The studies of which patients are told, those with most usable patients first; of equal ones the fewer
    modalities."""
    facts = Facts.of(numbers.plan)
    found = [
        study
        for modalities in ((), *all_combinations(facts.modalities))
        if (study := _study(numbers, facts, modalities)).patients
    ]
    return tuple(sorted(found, key=lambda s: (-s.usable, -s.patients, len(s.modalities), s.modalities)))


def _study(numbers: SurveyNumbers, facts: Facts, modalities: Combination) -> PossibleStudy:
    def told(severity: int | None = None, outcome: str = ANY) -> int:
        return numbers.answers.get(Described(modalities, severity, outcome).name, 0)

    by_severity = {n: told(n) for n in range(facts.n_severities)}
    return PossibleStudy(
        modalities,
        told(),
        numbers.hospitals.get(Described(modalities).name) if numbers.hospitals else None,
        told(outcome="known") if facts.has_outcome else None,
        {n: count for n, count in by_severity.items() if count},
    )


def name_of(modalities: Combination) -> str:
    """The combination in words: `t1 and flair`, `t1, flair and tau`, `any modality`."""
    if len(modalities) < 2:
        return "".join(modalities) or "any modality"
    return f"{', '.join(modalities[:-1])} and {modalities[-1]}"


def sentence(study: PossibleStudy, numbers: SurveyNumbers) -> str:
    """`With t1 and flair: 212 patients or more at 6 hospitals, with a known outcome 180 or more of them.`"""
    least = numbers.plan.federation.min_holders
    where = f"{least} hospitals or more" if study.hospitals is None else _hospitals(study.hospitals)
    known = "" if study.known is None else f"; the outcome is known of {study.known:,} or more"
    if study.known == 0:
        known = "; of none of them the outcome is told to be known"
    return f"With {name_of(study.modalities)}: {study.patients:,} patients or more at {where}{known}."


def _hospitals(n: int) -> str:
    return f"{n} hospital{'' if n == 1 else 's'}"
