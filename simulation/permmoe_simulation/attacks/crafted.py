"""Crafted models: a coordinator that asks for evaluations of models of its own making reads a patient's image.

Each model lets one voxel of one modality reach the prediction, and nothing else: its encoder looks at that voxel alone,
attention and experts are switched off, and the head reads that modality alone, without baseline CDR-SB. Predictions are
then the same for every combination with the modality, so that differencing isolates one patient's |prediction −
outcome|. Two models with different curves for one voxel settle its value. A hospital is asked for two evaluations a
voxel, in rounds that no study has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.errors import PermmoeError
from permmoe.layers.attention import FusionAttention
from permmoe.layers.encoders import pooled_cells
from permmoe.model import Head, PerMMoE
from permmoe.training.seeds import derive_seed, make_model
from permmoe_simulation.attacks.differencing import AFTER, BEFORE, hospital_plan
from permmoe_simulation.attacks.hospital import Hospital, Sums, patients_behind, sums_looked_at_singly, validated
from permmoe_simulation.attacks.isolation import Isolated, isolated_groups
from permmoe_simulation.attacks.study import AttackStudy

FIRST_INVENTED_ROUND = 1_000_001
CURVES = 2
"""Models for one voxel."""
RANGE, POINTS = 8.0, 1601
"""Values of a voxel that are tried, in the unit of the volumes: at first as many on each side of zero."""
READ_WITHIN = 0.05
"""A voxel is read where it is found to within this, in the unit of the volumes, in which patients differ by about 1."""
CURVE_POINTS = 2.0
"""SD of a crafted model's predictions, points: at the ends of the outcome's range a model holds them, and tells
nothing."""


def crafted_model(start: PerMMoE, modality: str, voxel: int, seed: int) -> PerMMoE:
    """A model whose prediction depends on one voxel of one modality, wherever this was observed.

    Raises PermmoeError for a model whose voxels do not pass a switched-off attention, or whose head is linear.
    """
    model = PerMMoE(start.config)
    if not (isinstance(model.attention, FusionAttention) and isinstance(model.head, Head)):
        raise PermmoeError("models are crafted for fusion = pre_norm and head = perceptron; attack a study of these")
    model.load_state_dict(start.state_dict())
    rng = torch.Generator().manual_seed(seed)
    width, place = model.config.width, model.config.names.index(modality)
    with torch.no_grad():
        for name in model.config.names:
            project = next(m for m in model.encoders[name].modules() if isinstance(m, torch.nn.Linear))
            project.weight.zero_()
            project.bias.normal_(generator=rng)
            if name == modality:
                project.weight[:, voxel] = torch.randn(len(project.weight), generator=rng)
        model.attention.project.weight.zero_()
        model.attention.project.bias.zero_()
        for parameter in (model.experts.w2, model.experts.b2):
            parameter.zero_()
        hidden = model.head.hidden.weight
        hidden[:, : place * width] = 0
        hidden[:, (place + 1) * width :] = 0
        hidden[:, place * width : (place + 1) * width].normal_(generator=rng)
        # Of `hidden` come so many numbers, each of about the width's root.
        deviation = CURVE_POINTS / (width * model.head.out.in_features) ** 0.5
        model.head.out.weight.normal_(std=deviation, generator=rng)
    return model.eval()


def crafted_trial(study: AttackStudy, data: VisitData, trial: int) -> Iterator[dict[str, object]]:
    """A hospital with one patient who can be isolated: how well a patient's voxels are read, a row a rule."""
    rng = torch.Generator().manual_seed(derive_seed(study.seed, "crafted", trial))
    hospital_data, alone = _hospital_with_one_alone(study, data, rng)
    plan = hospital_plan(study)
    start = make_model(study.model, plan.train.seed)
    voxels = _varying_voxels(data, study, rng)
    truth = _inputs(hospital_data, study.modality, alone).flatten()[voxels].tolist()
    models = [
        [crafted_model(start, study.modality, v, derive_seed(study.seed, trial, v, i)) for i in range(CURVES)]
        for v in voxels
    ]

    def singly(number: int, model: PerMMoE) -> Sums:
        return sums_looked_at_singly(hospital_data, model, study.least_patients)

    with TemporaryDirectory() as folder:
        hospital = Hospital.new(plan, Path(folder))

        def honest(number: int, model: PerMMoE) -> Sums:
            return hospital.answer(hospital_data, number, model)

        for rule, ask in ((BEFORE, singly), (AFTER, honest)):
            answers: list[list[Sums | None]] = []
            for i, of_voxel in enumerate(models):
                answers.append([_answer(ask, FIRST_INVENTED_ROUND + CURVES * i + j, m) for j, m in enumerate(of_voxel)])
            read = [
                _voxel(of_models, of_answers, hospital_data, study, voxel, alone)
                for voxel, of_models, of_answers in zip(voxels, models, answers, strict=True)
            ]
            errors = [abs(found - true) for found, true in zip(read, truth, strict=True) if found is not None]
            yield {
                "trial": trial,
                "rule": rule,
                "asked": CURVES * len(voxels),
                "answered": sum(answer is not None for of_voxel in answers for answer in of_voxel),
                "read": sum(error <= READ_WITHIN for error in errors),
                "voxels": len(voxels),
                "median_error": float(np.median(errors)) if errors else float("nan"),
            }


def _answer(ask: object, number: int, model: PerMMoE) -> Sums | None:
    try:
        return ask(number, model)  # type: ignore[no-any-return, operator]
    except PermmoeError:
        return None


def _hospital_with_one_alone(study: AttackStudy, data: VisitData, rng: torch.Generator) -> tuple[VisitData, str]:
    """Visits of which one alone lacks a modality that all others have, and its subject."""
    column = data.names.index(study.modality)
    other = next(i for i in range(len(data.names)) if i != column)
    rows = (data.observed[:, column] & data.observed[:, other]).nonzero().flatten()
    chosen = rows[torch.randperm(len(rows), generator=rng)[: study.hospital_visits]]
    visits = validated(data.subset(chosen))
    both = torch.zeros(len(data.names), dtype=torch.bool)
    both[[column, other]] = True
    observed = both.repeat(len(visits), 1)
    observed[0, other] = False
    return visits.limited(observed), visits.visits.visits[0].subject_id


def _varying_voxels(data: VisitData, study: AttackStudy, rng: torch.Generator) -> list[int]:
    """Some of the voxels by which patients differ: half of all differ by less."""
    column = data.names.index(study.modality)
    volumes = data.inputs[study.modality].read(data.stored_rows[data.observed[:, column], column]).flatten(1)
    varying = volumes.std(0).argsort(descending=True)[: volumes.shape[1] // 2]
    return varying[torch.randperm(len(varying), generator=rng)[: study.crafted_cells]].tolist()


def _inputs(data: VisitData, modality: str, subject: str) -> Float[Tensor, "1 1 x y z"]:
    row = next(i for i, visit in enumerate(data.visits) if visit.subject_id == subject)
    return data.inputs[modality].read(data.stored_rows[[row], data.names.index(modality)])


def _isolating(answer: Sums, data: VisitData, modality: str, subject: str) -> tuple[Isolated, list[str]] | None:
    """How the combinations with the modality single the patient out; None where they do not."""
    behind = patients_behind(data, answer, containing=modality)
    found = [one for one in isolated_groups(list(behind.values())) if one.members == {subject}] if behind else []
    return (found[0], list(behind)) if found else None


def _voxel(
    models: Sequence[PerMMoE],
    answers: Sequence[Sums | None],
    data: VisitData,
    study: AttackStudy,
    voxel: int,
    subject: str,
) -> float | None:
    """The value that fits all answers best; None where an answer is missing or isolates nobody."""
    known: list[tuple[PerMMoE, float, float]] = []
    for model, answer in zip(models, answers, strict=True):
        way = _isolating(answer, data, study.modality, subject) if answer else None
        if answer is None or way is None:
            return None
        isolated, names = way
        target = float(isolated.weights @ np.array([answer[name].target for name in names]))
        distance = float(isolated.weights @ np.array([answer[name].absolute for name in names]))
        known.append((model, target, distance))
    middle, reach = 0.0, RANGE
    for _ in range(2):
        tried = torch.linspace(middle - reach, middle + reach, POINTS)
        misfit = torch.zeros(POINTS, dtype=torch.float64)
        for model, target, distance in known:
            misfit += ((_curve(model, study.modality, voxel, tried) - target).abs() - distance) ** 2
        middle, reach = float(tried[misfit.argmin()]), 4 * RANGE / POINTS
    return middle


def _curve(model: PerMMoE, modality: str, voxel: int, values: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    """What the model predicts where the voxel has these values."""
    cells = pooled_cells(model.config)
    names, found = model.config.names, []
    for some in torch.split(values, 200):
        inputs = torch.zeros(len(some), prod(cells))
        inputs[:, voxel] = some
        observed = torch.tensor([[name == modality for name in names]]).repeat(len(some), 1)
        unknown = torch.zeros(len(some))
        batch = Batch({modality: inputs.view(-1, 1, *cells)}, observed, unknown, unknown)
        with torch.no_grad():
            found.append(model(batch).prediction.double())
    return torch.cat(found)
