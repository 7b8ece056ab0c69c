"""Differencing: sums that are each over many patients, subtracted until one patient is left.

Three ways to two sums that differ by few: nested combinations in one evaluation, a patient who was withdrawn between
two evaluations, a patient who came in between. The attacker is given who is behind each sum, which favours it, and uses
whatever linear combination isolates somebody; what it recovers is the outcome, which no model changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from permmoe.data.dataset import VisitData
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.federated.release_account import ReleaseAccount, combination_groups
from permmoe.training.seeds import derive_seed, make_model
from permmoe_simulation.attacks.hospital import Hospital, Sums, patients_behind, sums_looked_at_singly, validated
from permmoe_simulation.attacks.isolation import isolated_groups
from permmoe_simulation.attacks.study import AttackStudy

NESTED, WITHDRAWN, ADDED = "nested combinations", "a patient withdrawn", "a patient added"
BEFORE, AFTER = "each sum by itself", "release account"


@dataclass(frozen=True)
class Answer:
    """What one evaluation told, and over whom."""

    data: VisitData
    """As they are summed."""
    sums: Sums


def differencing_trial(study: AttackStudy, data: VisitData, trial: int) -> Iterator[dict[str, object]]:
    """A hospital's evaluations under both rules, a row an attack and rule: how many patients' outcomes are recovered.

    The hospital's visits are dealt from the cohort.
    """
    plan = hospital_plan(study)
    order = torch.randperm(
        len(data), generator=torch.Generator().manual_seed(derive_seed(study.seed, "hospital", trial))
    )
    rows = order[: study.hospital_visits + 1]
    everybody, fewer = validated(data.subset(rows)), validated(data.subset(rows[:-1]))
    for attack, asked in ((NESTED, [fewer]), (WITHDRAWN, [everybody, fewer]), (ADDED, [fewer, everybody])):
        least = study.least_patients
        start = make_model(study.model, plan.train.seed)
        singly = [Answer(visits, sums_looked_at_singly(visits, start, least)) for visits in asked]
        with TemporaryDirectory() as folder:
            hospital = Hospital.new(plan, Path(folder))
            honest = [
                Answer(hospital.counted(visits), hospital.answer(visits, 1 + number, start))
                for number, visits in enumerate(asked)
            ]
        for rule, answers in ((BEFORE, singly), (AFTER, honest)):
            found, error = recovered(answers, least)
            yield {
                "trial": trial,
                "attack": attack,
                "rule": rule,
                "sums": sum(len(answer.sums) for answer in answers),
                "patients": sum(max((s.n for s in answer.sums.values()), default=0) for answer in answers),
                "recovered": found,
                "largest_error_points": error,
            }


def recovered(answers: Sequence[Answer], least: int) -> tuple[int, float]:
    """How many groups of fewer than `least` patients are isolated, and the largest error of their recovered outcomes.

    The error is in points; NaN where nobody is isolated.
    """
    sets: list[frozenset[str]] = []
    targets: list[float] = []
    outcomes: dict[str, float] = {}
    for answer in answers:
        for name, members in patients_behind(answer.data, answer.sums).items():
            sets.append(members)
            targets.append(answer.sums[name].target)
        outcomes |= {v.subject_id: float(y) for v, y in zip(answer.data.visits, answer.data.target, strict=True)}
    if not sets:
        return 0, float("nan")
    few = [one for one in isolated_groups(sets) if len(one.members) < least]
    errors = [abs(float(one.weights @ np.array(targets)) - sum(outcomes[m] for m in one.members)) for one in few]
    return len(few), max(errors, default=float("nan"))


def isolating_query_plans(n_plans: int, least: int, seed: int, n_modalities: int = 4) -> dict[str, int]:
    """Of random sequences of questions, how many isolate fewer than `least` patients, by rule."""
    isolating = {BEFORE: 0, AFTER: 0}
    for number in range(n_plans):
        rng = np.random.default_rng([seed, number])
        account, released = ReleaseAccount(), {BEFORE: list[frozenset[str]](), AFTER: list[frozenset[str]]()}
        for observed in _random_questions(rng, n_modalities):
            released[BEFORE] += [one for one in _sets(observed, n_modalities) if len(one) >= least]
            labels = combination_groups(account, observed, least)
            account = account.after(labels)
            released[AFTER] += _sets(labels, n_modalities)
        for rule, sets in released.items():
            kept = list(dict.fromkeys(one for one in sets if one))
            isolating[rule] += any(len(one.members) < least for one in isolated_groups(kept)) if kept else 0
    return isolating


def _random_questions(rng: np.random.Generator, n_modalities: int) -> Iterable[dict[str, int]]:
    """The observed sets of a hospital's patients as each question finds them.

    Between questions patients come and go, and a question looks at some of the modalities only.
    """
    patients = {f"first-{i}": int(rng.integers(1, 1 << n_modalities)) for i in range(int(rng.integers(10, 80)))}
    for question in range(int(rng.integers(1, 6))):
        for patient in rng.permutation(sorted(patients))[: int(rng.integers(0, 3))].tolist():
            del patients[patient]
        patients |= {f"{question}-{i}": int(rng.integers(1, 1 << n_modalities)) for i in range(int(rng.integers(0, 3)))}
        looked_at = int(rng.integers(1, 1 << n_modalities))
        yield {patient: mask & looked_at for patient, mask in patients.items() if mask & looked_at}


def _sets(observed: Mapping[str, int], n_modalities: int) -> list[frozenset[str]]:
    """The patients behind each combination's sum."""
    return [
        frozenset(patient for patient, mask in observed.items() if mask & wanted == wanted)
        for wanted in range(1, 1 << n_modalities)
    ]


def hospital_plan(study: AttackStudy) -> RoundPlan:
    """The study that such a hospital has approved: three rounds, each evaluated."""
    federation = FederationConfig(rounds=3, evaluate_every=1, centring_round=False, min_cell_count=study.least_patients)
    return RoundPlan(name=study.name, is_synthetic=True, model=study.model, train=study.train, federation=federation)
