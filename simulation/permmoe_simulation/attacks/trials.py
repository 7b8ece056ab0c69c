"""One trial of each attack: deal out patients, train as sites do, and let the attacker judge what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from permmoe.config import PrivacyConfig
from permmoe.data.dataset import VisitData
from permmoe.federated.modules import ModuleLayout, module_support
from permmoe.federated.privacy import Spent, noise_multiplier_for
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.private_trainer import train_privately
from permmoe.trainer import centre_inputs, derive_seed, make_model, train_epochs
from permmoe_simulation.attacks.inversion import correlations, likeness, reconstructions
from permmoe_simulation.attacks.membership import canary_of, joined, membership_scores
from permmoe_simulation.attacks.observation import Observation, Updates, secure_sum
from permmoe_simulation.attacks.study import AttackStudy, LocalTraining, Protection

Array = np.ndarray
CONTROL = "control"
"""Unprotected updates of two worlds, neither of which has the patient: a sound attack cannot tell them apart."""
UNPROTECTED = Protection(label="control: never trained with")


@dataclass(frozen=True)
class Game:
    """What every trial of a study shares."""

    study: AttackStudy
    private: VisitData
    """The visits that sites are dealt from."""
    before: Mapping[str, Tensor]
    """State dict of the model that the attacked round starts from."""
    spent: Mapping[str, Spent]
    """By protection with DP: what a site of the membership trials spends in the round."""


def make_game(study: AttackStudy, data: VisitData) -> Game:
    """Deal out the public part, and bring the model to its state before the round with it."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(derive_seed(study.seed, "public")))
    public, private = data.subset(order[: study.public_visits]), data.subset(order[study.public_visits :])
    model = make_model(study.model, study.seed)
    centre_inputs(model, public)
    if study.public_epochs:
        first, seed = study.train.warmup_epochs, derive_seed(study.seed, "public training")
        train_epochs(model, public, study.train, first_epoch=first, epochs=study.public_epochs, seed=seed)
    spent = {name: round_cost(study, p.privacy) for name, p in study.protections.items() if p.privacy}
    return Game(study, private, {name: value.clone() for name, value in model.state_dict().items()}, spent)


def round_cost(study: AttackStudy, privacy: PrivacyConfig) -> Spent:
    """The noise and the steps of a site in the attacked round."""
    rate = min(1.0, privacy.patients_per_step / study.membership.visits_per_site)
    steps = ceil(study.local_epochs / rate)
    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.target_epsilon is not None  # PrivacyConfig has one of them
        noise = noise_multiplier_for(privacy.target_epsilon, privacy.delta, rate, steps)
    return Spent(noise, rate, steps)


def site_update(
    game: Game,
    data: VisitData,
    training: LocalTraining,
    seed: int,
    privacy: PrivacyConfig | None = None,
    spent: Spent | None = None,
) -> Updates:
    """What a site sends after training on its visits: as the client does it or, with `privacy`, with DP.

    Under DP every module comes back: which ones a site trained is no more told than how.
    """
    study = game.study
    model = PerMMoE(study.model)
    model.load_state_dict(dict(game.before))
    layout = ModuleLayout.of(model)
    if privacy is not None and spent is not None:
        is_step = training != "round"
        train_privately(
            model,
            data,
            study.train,
            privacy,
            noise_multiplier=spent.noise_multiplier,
            sample_rate=1.0 if is_step else spent.sample_rate,
            steps=1 if is_step else spent.steps,
            seed=seed,
        )
        support = dict.fromkeys(layout.modules, float(len(data)))
    else:
        is_round = training == "round"
        train = study.train if is_round else study.train.model_copy(update={"batch_size": len(data)})
        record = train_epochs(
            model,
            data,
            train,
            first_epoch=study.train.warmup_epochs,
            epochs=study.local_epochs if is_round else 1,
            seed=seed,
            optimiser=torch.optim.SGD(model.parameters(), train.learning_rate) if training == "sgd_step" else None,
        )
        support = module_support(study.model, record.exposure)
    before, after = layout.flatten_all(game.before), layout.flatten_all(model.state_dict())
    return {m: ModuleUpdate.of(before[m], after[m], support[m]) for m in layout.modules if support[m] > 0}


def membership_trial(game: Game, canary: str, repetition: int) -> list[dict[str, Any]]:
    """Rows of (canary, protection, repetition, is_member, scores): both worlds of one draw of sites and patient.

    The two worlds share the other sites' updates and nothing random of the first site's training.
    """
    study = game.study
    size = study.membership.visits_per_site
    rows = _draw(game, study.sites * size + 1, "membership", canary, repetition)
    points = study.membership.canaries[canary].target_points
    own = float(game.private.target[rows[0]])
    patient = canary_of(game.private, int(rows[0]), own if points is None else points)
    first, *others = [game.private.subset(part) for part in torch.split(rows[1:], size)]
    peers: dict[str, list[Updates]] = {}
    found = []
    for name, protection in {CONTROL: UNPROTECTED, **study.protections}.items():
        private = (protection.privacy, game.spent.get(name))

        def train(
            data: VisitData, who: str, of: tuple[PrivacyConfig | None, Spent | None] = private, name: str = name
        ) -> Updates:
            return site_update(game, data, "round", _seed(game, "membership", canary, repetition, name, who), *of)

        if protection.secure:
            peers[name] = [train(data, f"peer {i}") for i, data in enumerate(others)]
        for is_member in (True, False):
            has_patient = is_member and name != CONTROL
            update = train(joined(first, patient) if has_patient else first, f"first {is_member}")
            if protection.secure:
                update = secure_sum([update, *peers[name]], study.min_holders)
            scores = membership_scores(Observation(study.model, game.before, update), patient)
            row = {"canary": canary, "protection": name, "repetition": repetition, "is_member": is_member}
            found.append(row | asdict(scores))
    return found


def inversion_trial(
    game: Game, visits: int, training: LocalTraining, repetition: int
) -> tuple[list[dict[str, Any]], dict[str, Float[Array, " cell"]]]:
    """Rows of (visits, training, protection, repetition, member, other), and pictures to show.

    The pictures are differences from the mean image: `true`, the patient whom the first protection's best guess is
    most like, and by protection the guess most like that patient. DP-SGD here always steps with AdamW, so it has no
    `sgd_step`.
    """
    study = game.study
    modality = study.inversion.modality
    sites = study.sites
    rows = _draw(game, 2 * sites * visits, "inversion", visits, training, repetition)
    images = _images(game, rows)
    parts = [game.private.subset(part) for part in torch.split(rows[: sites * visits], visits)]
    found, pictures = [], dict[str, Float[Array, " cell"]]()
    for name, protection in study.protections.items():
        if protection.privacy and training == "sgd_step":
            continue
        n_seen = sites if protection.secure else 1
        updates = [
            site_update(
                game,
                data,
                training,
                _seed(game, "inversion", visits, training, repetition, name, i),
                protection.privacy,
                game.spent.get(name),
            )
            for i, data in enumerate(parts[:n_seen])
        ]
        update = secure_sum(updates, study.min_holders) if protection.secure else updates[0]
        seen = Observation(study.model, game.before, update)
        guesses = reconstructions(seen, modality, study.inversion.components)
        members = images[: n_seen * visits]
        outsiders = images[sites * visits : sites * visits + n_seen * visits]
        match = likeness(guesses, members, outsiders)
        row = {"visits": visits, "training": training, "protection": name, "repetition": repetition}
        found.append(row | asdict(match))
        if not pictures:
            best = correlations(guesses, images[:visits]).max(0).argmax() if len(guesses) else 0
            pictures["true"] = images[best]
        if len(guesses):
            pictures[name] = guesses[correlations(guesses, pictures["true"][None])[:, 0].argmax()]
    return found, pictures


def mean_image(game: Game) -> Float[Array, " cell"]:
    """The centre that the sites' images are told as differences from."""
    centre = game.before[f"encoders.{game.study.inversion.modality}.features.centre"]
    return centre.double().flatten().numpy()


def _images(game: Game, rows: Int[Tensor, " n"]) -> Float[Array, "n cell"]:
    batch = game.private.subset(rows).batch(torch.arange(len(rows)))
    inputs: Float[Array, "n cell"] = batch.inputs[game.study.inversion.modality].flatten(1).double().numpy()
    return inputs - mean_image(game)


def _draw(game: Game, n: int, *of: str | int) -> Int[Tensor, " n"]:
    """Different visits that have the inverted modality, in an order of this trial's own."""
    column = game.private.names.index(game.study.inversion.modality)
    usable = game.private.observed[:, column].nonzero().flatten()
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(_seed(game, "draw", *of)))
    return usable[order[:n]]


def _seed(game: Game, *of: str | int) -> int:
    return derive_seed(game.study.seed, *of)
