"""One trial each: patients are dealt to sites, one round is trained, and the attacker plays on what it would see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from permmoe.config import PrivacyConfig
from permmoe.data.dataset import VisitData
from permmoe.federated.accounting import noise_multiplier_for
from permmoe.federated.modules import ModuleLayout, module_support
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.runtime.devices import CPU
from permmoe.training.epochs import train_epochs
from permmoe.training.private_trainer import train_privately
from permmoe.training.seeds import derive_seed, make_model
from permmoe_simulation.attacks.inversion import likeness, reconstruction
from permmoe_simulation.attacks.membership import canary_of, joined, membership_scores
from permmoe_simulation.attacks.observation import Observation, Updates, secure_sum
from permmoe_simulation.attacks.study import AttackStudy

NONE, SECURE = "none", "secure sum"
MIN_HOLDERS = 3


@dataclass(frozen=True)
class Picture:
    """A reconstruction beside what it should have been."""

    protection: str
    visits: int
    true: Float[Tensor, " cell"]
    found: Float[Tensor, " cell"] | None
    likeness: float


def protections(study: AttackStudy) -> tuple[str, ...]:
    """In the order of the report."""
    return (NONE, SECURE, *(private(e) for e in study.epsilons), f"{SECURE}, {private(study.epsilons[0])}")


def private(epsilon: float) -> str:
    """What differential privacy is called."""
    return f"ε = {epsilon:g}"


def observations(
    study: AttackStudy, start: PerMMoE, target: VisitData, others: list[VisitData], seed: int, device: str = CPU
) -> Iterator[tuple[str, Observation]]:
    """What the coordinator sees of a round under each protection: of the first site, or of the sum over all.

    Sites train on `device`.
    """
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}

    def seen(updates: Updates) -> Observation:
        return Observation(study.model, before, updates)

    own = _update(study, start, target, derive_seed(seed, 0), device)
    rest = [_update(study, start, data, derive_seed(seed, i + 1), device) for i, data in enumerate(others)]
    yield NONE, seen(own)
    yield SECURE, seen(secure_sum([own, *rest], MIN_HOLDERS))
    for epsilon in study.epsilons:
        hidden = _private_update(study, start, target, epsilon, derive_seed(seed, 0, "private"), device)
        yield private(epsilon), seen(hidden)
        if epsilon == study.epsilons[0]:
            all_hidden = [
                _private_update(study, start, data, epsilon, derive_seed(seed, i + 1, "private"), device)
                for i, data in enumerate(others)
            ]
            yield f"{SECURE}, {private(epsilon)}", seen(secure_sum([hidden, *all_hidden], MIN_HOLDERS))


def membership_trial(study: AttackStudy, data: VisitData, trial: int, device: str = CPU) -> list[dict[str, Any]]:
    """Scores of the canary in both worlds, a row a protection and world."""
    rows = _dealt(data, study.sites * study.membership_visits + 1, derive_seed(study.seed, "membership", trial))
    canary = canary_of(data, int(rows[0]), study.canary_points)
    groups = [data.subset(part) for part in torch.split(rows[1:], study.membership_visits)]
    start = make_model(study.model, derive_seed(study.seed, "start", trial))
    found: list[dict[str, Any]] = []
    for world, target in (("in", joined(groups[0], canary)), ("out", groups[0])):
        # Both worlds share every draw: what differs is the canary.
        seed = derive_seed(study.seed, trial)
        for protection, seen in observations(study, start, target, groups[1:], seed, device):
            scores = membership_scores(seen, canary)
            found.append({"trial": trial, "world": world, "protection": protection, **vars(scores)})
    return found


def inversion_trial(
    study: AttackStudy,
    data: VisitData,
    images: Float[Tensor, "patient cell"],
    visits: int,
    trial: int,
    device: str = CPU,
) -> tuple[list[dict[str, Any]], list[Picture]]:
    """How like a patient of the site the reconstruction is, and whether it is the likest of all patients.

    `images`: of every visit of `data`, as differences from their mean. The site's own are among them.
    """
    rows = _dealt(data, study.sites * visits, derive_seed(study.seed, "inversion", visits, trial))
    groups = [data.subset(part) for part in torch.split(rows, visits)]
    start = _centred(make_model(study.model, derive_seed(study.seed, "start", trial)), data, study.modality)
    found: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    own = rows[:visits]
    seed = derive_seed(study.seed, visits, trial)
    for protection, seen in observations(study, start, groups[0], groups[1:], seed, device):
        picture = reconstruction(seen, study.modality)
        like = likeness(picture, images)
        best = int(own[like[own].argmax()])
        found.append(
            {
                "visits": visits,
                "trial": trial,
                "protection": protection,
                "likeness": float(like[own].max()),
                "likeness_of_others": float(np.delete(like.numpy(), own.numpy()).max()),
                "is_named": bool(picture is not None and int(like.argmax()) in own.tolist()),
            }
        )
        pictures.append(Picture(protection, visits, images[best], picture, float(like[best])))
    return found, pictures


def _dealt(data: VisitData, n: int, seed: int) -> Int[Tensor, " n"]:
    return torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:n]


def _centred(model: PerMMoE, data: VisitData, modality: str) -> PerMMoE:
    """As after a federation's first round, which sets the encoders' mean inputs and is public by then."""
    column = data.names.index(modality)
    rows = data.inputs[modality].read(data.stored_rows[data.observed[:, column], column])
    state = dict(model.state_dict()) | {f"encoders.{modality}.features.centre": rows.mean(0, keepdim=False)[None, 0]}
    model.load_state_dict(state)
    return model


def _update(study: AttackStudy, start: PerMMoE, data: VisitData, seed: int, device: str) -> dict[str, ModuleUpdate]:
    model = _copy(start).to(device)
    record = train_epochs(model, data, study.train, first_epoch=0, epochs=study.local_epochs, seed=seed)
    support = module_support(study.model, record.exposure)
    return _changes(start, model, {name: n for name, n in support.items() if n > 0})


def _private_update(
    study: AttackStudy, start: PerMMoE, data: VisitData, epsilon: float, seed: int, device: str
) -> dict[str, ModuleUpdate]:
    model, rate = _copy(start).to(device), 0.5
    steps = ceil(study.local_epochs / rate)
    noise = _noise(epsilon, study.delta, rate, steps)
    privacy = PrivacyConfig(target_epsilon=epsilon, delta=study.delta)
    train_privately(
        model,
        data,
        study.train,
        privacy,
        noise_multiplier=noise,
        sample_rate=rate,
        steps=steps,
        patients=float(len(data)),
        seed=seed,
    )
    # Every module comes back with the same weight: which of them were trained is not told.
    return _changes(start, model, dict.fromkeys(ModuleLayout.of(start).modules, float(study.membership_visits)))


@lru_cache
def _noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    return noise_multiplier_for(epsilon, delta, rate, steps)


def _copy(model: PerMMoE) -> PerMMoE:
    copy = PerMMoE(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def _changes(start: PerMMoE, model: PerMMoE, support: Mapping[str, float]) -> dict[str, ModuleUpdate]:
    layout = ModuleLayout.of(start)
    before, after = layout.flatten_all(start.state_dict()), layout.flatten_all(model.state_dict())
    return {name: ModuleUpdate.of(before[name], after[name], n) for name, n in support.items()}
