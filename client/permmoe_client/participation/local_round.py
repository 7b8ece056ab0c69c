"""A site's part of a round: check what the coordinator sent, train or evaluate on the site's own visits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from flwr.app import RecordDict

from permmoe.config import ModelConfig
from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import combination_sums
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.federated.records import (
    EvaluationReply,
    Instruction,
    TrainReply,
    read_model,
)
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.federated.wire import as_received
from permmoe.model import PerMMoE
from permmoe.runtime.devices import training_device
from permmoe.training.correction import Correction
from permmoe.training.epochs import step_count, train_epochs
from permmoe.training.means import set_means
from permmoe.training.seeds import derive_seed
from permmoe_client.participation.held_model import held_model, hold_model
from permmoe_client.participation.privacy_account import check_policy, exposure_from, noise_seed, round_cost
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.participation.study_memory import Memory, is_private, needs_memory, recall, remember
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig


def train_round(
    asked: Instruction,
    content: RecordDict,
    site: SiteConfig,
    ledger: Ledger | None = None,
    state: RecordDict | None = None,
) -> TrainReply:
    """Train from the weights that came and answer with the change of every module that was trained.

    `state`: what the node keeps between messages, with the model that came last. Raises MalformedRecord for a
    model that is not the one that was announced, ModulesMissing where a part of it neither came nor is held,
    BudgetSpent for a round that would cost more privacy than may be spent.
    """
    check_policy(asked.plan, site)
    if asked.plan.federation.privacy:
        return _train_privately(asked, content, site, ledger, state)
    started = time.perf_counter()
    layout, model, before = _opened(asked, content, site, state)
    plan = asked.plan
    memory = recall(site, plan) if needs_memory(plan) else Memory()
    drift = memory.drift(asked.round, before) if plan.federation.drift_correction else {}
    data = site_visits(site, plan.model).part("train")
    opened = time.perf_counter()
    is_centring = plan.federation.is_centring(asked.round)
    if is_centring:
        record = set_means(model, data)
    else:
        record = train_epochs(
            model,
            data,
            plan.train,
            first_epoch=plan.federation.first_epoch(asked.round),
            epochs=plan.federation.local_epochs,
            seed=derive_seed(plan.train.seed, site.name, asked.round),
            correction=Correction.at(
                model,
                proximal_weight=plan.federation.proximal_weight,
                drift=layout.unflatten({**{m: torch.zeros_like(w) for m, w in before.items()}, **drift})
                if drift
                else None,
                n_steps=step_count(len(data), plan.train, plan.federation.local_epochs),
            ),
        )
    trained = time.perf_counter()
    support = module_support(plan.model, record.exposure, plan.federation.imputed_router_support)
    after = model.state_dict()
    # A mean over one visit is that patient's image: the rule for metrics holds for means of inputs too.
    least = _least_cell(asked, site) if is_centring else 0
    updates = {
        module: ModuleUpdate.of(before[module], layout.flatten(after, module), support[module])
        for module in layout.modules
        if support[module] > 0 and support[module] >= least and not is_private(module, plan)
    }
    trained_modules = [module for module in updates if not is_centring]
    updates, residual = _as_received(updates, memory.residual, asked)
    if needs_memory(plan):
        _remember(asked, site, layout.flatten_all(after), before, drift, trained_modules, residual)
    train_seconds = trained - opened
    figures = TrainingFigures(
        visits=float(record.visits),
        loss_sum=record.loss_sum,
        train_seconds=train_seconds,
        overhead_seconds=time.perf_counter() - started - train_seconds,
    )
    return TrainReply(
        site.name,
        asked.round,
        asked.model_digest,
        updates,
        figures,
        _modalities(site, plan.model),
    )


def _as_received(
    updates: Mapping[str, ModuleUpdate], residual: Mapping[str, torch.Tensor], asked: Instruction
) -> tuple[dict[str, ModuleUpdate], dict[str, torch.Tensor]]:
    """Changes as the server will read them, and what their format took away, which goes into the next round's."""
    if asked.up_wire == "fp32":
        return dict(updates), dict(residual)
    received, left = {}, dict(residual)
    for module, update in updates.items():
        wanted = update.weighted_delta + residual.get(module, 0.0)
        received[module] = replace(update, weighted_delta=as_received(wanted, asked.up_wire))
        left[module] = wanted - received[module].weighted_delta
    return received, left


def _train_privately(
    asked: Instruction, content: RecordDict, site: SiteConfig, ledger: Ledger | None, state: RecordDict | None
) -> TrainReply:
    """A round with differential privacy: nothing in the reply but noisy changes, and counts with noise."""
    # With Opacus, which takes seconds to import; sites of other studies need not wait for it.
    from permmoe.training.private_trainer import train_privately

    plan = asked.plan
    privacy = plan.federation.privacy
    if privacy is None or ledger is None:
        raise ConfigurationError("differential privacy needs a ledger to keep account in; connect the site with a kit")
    layout, model, before = _opened(asked, content, site, state)
    data = site_visits(site, plan.model).part("train")
    cost = round_cost(plan, site, ledger, data, _least_cell(asked, site))
    train_privately(
        model,
        data,
        plan.train,
        privacy,
        noise_multiplier=cost.noise_multiplier,
        sample_rate=cost.sample_rate,
        steps=cost.steps,
        seed=noise_seed(site, asked.round),
    )
    support = module_support(plan.model, exposure_from(cost.counts, plan), plan.federation.imputed_router_support)
    after = model.state_dict()
    updates = {
        module: ModuleUpdate.of(before[module], layout.flatten(after, module), support[module])
        for module in layout.modules
        if support[module] > 0
    }
    # Times tell how many patients there are, and losses who they are: neither is told.
    figures = TrainingFigures(visits=float(sum(cost.counts.values())))
    return TrainReply(site.name, asked.round, asked.model_digest, updates, figures, spent=cost.spent)


def _remember(
    asked: Instruction,
    site: SiteConfig,
    after: Mapping[str, torch.Tensor],
    before: Mapping[str, torch.Tensor],
    drift: Mapping[str, torch.Tensor],
    trained: Sequence[str],
    residual: Mapping[str, torch.Tensor],
) -> None:
    private = {module: weights for module, weights in after.items() if is_private(module, asked.plan)}
    start, change = {}, {}
    if asked.plan.federation.drift_correction:
        start = {module: before[module] for module in trained}
        change = {module: after[module] - before[module] - drift.get(module, 0.0) for module in trained}
    remember(site, asked.plan, Memory(asked.round, private, start, change, residual))


def evaluate_round(
    asked: Instruction, content: RecordDict, site: SiteConfig, state: RecordDict | None = None
) -> EvaluationReply:
    """Evaluate the weights that came and answer with sums of the combinations that enough subjects have.

    Arguments and errors as in `train_round`.
    """
    _, model, _ = _opened(asked, content, site, state)
    sums = combination_sums(model, site_visits(site, asked.plan.model).part(asked.part))
    least = _least_cell(asked, site)
    told = {name: s for name, s in sums.items() if s.n >= least}
    return EvaluationReply(site.name, asked.round, asked.model_digest, told)


def _least_cell(asked: Instruction, site: SiteConfig) -> int:
    """ "No metric over fewer subjects leaves the site": the study may be stricter than the site, never laxer."""
    return max(site.release.min_cell_count, asked.plan.federation.min_cell_count)


def _opened(
    asked: Instruction, content: RecordDict, site: SiteConfig, state: RecordDict | None
) -> tuple[ModuleLayout, PerMMoE, dict[str, torch.Tensor]]:
    """The model that was announced, its digest verified; what this site's visits cannot reach may be zeros."""
    torch.set_num_threads(site.threads or torch.get_num_threads())
    plan = asked.plan
    model, layout = _blank_model(plan.model)
    wire = plan.federation.wire
    held = held_model(state, layout, wire) if state else None
    received = read_model(content, asked, layout, held, reachable_modules(plan.model, _modalities(site, plan.model)))
    if state is not None:
        hold_model(state, received)
    before = received.unpacked(layout, wire)
    if plan.federation.private_modules:
        before = {**before, **recall(site, plan).private}
    state_dict = layout.unflatten(before)
    with torch.no_grad():
        # A third of load_state_dict's time: parameters are the whole state, and the layout has all of them.
        for parameter_name, parameter in model.named_parameters():
            parameter.copy_(state_dict[parameter_name])
    return layout, model.to(training_device(site.device)), before


def _modalities(site: SiteConfig, model: ModelConfig) -> tuple[str, ...]:
    """What the site's visits have, in whichever part of the split."""
    data = site_visits(site, model)
    return tuple(name for name, is_there in zip(data.names, data.observed.any(0).tolist(), strict=True) if is_there)


def model_layout(config: ModelConfig) -> ModuleLayout:
    """The modules of a study's model."""
    return _blank_model(config)[1]


# For a small model, making one takes as long as all else beside training. Every call overwrites all its weights.
@lru_cache(maxsize=1)
def _blank_model(config: ModelConfig) -> tuple[PerMMoE, ModuleLayout]:
    model = PerMMoE(config)
    return model, ModuleLayout.of(model)
