"""A site's part of a round: check what the coordinator sent, train or evaluate on the site's own visits.

A round trains plainly, trains with differential privacy, trains encoders on scans alone (pretraining), or sets means
(the harmonising and the centring round), with noise or without. All begin with the announced model and end with the
change of every module that they trained.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

import torch
from flwr.app import RecordDict
from torch import Tensor

from permmoe.calibration.calibration import severity_ends
from permmoe.data.dataset import VisitData
from permmoe.ensemble import Network
from permmoe.evaluation.harmonised import harmonised, in_words
from permmoe.federated.accounting import Spent
from permmoe.federated.gradient_bounds import gradient_bounds, trained_parameters
from permmoe.federated.instructions import Instruction, read_model
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.federated.plan import RoundPlan
from permmoe.federated.plausibility import check_model
from permmoe.federated.replies import EvaluationReply, TrainReply
from permmoe.federated.summed_scores import severity_groups
from permmoe.federated.trained_modules import trained_modules
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.federated.wire import as_received
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of
from permmoe.training.correction import Correction
from permmoe.training.epochs import step_count, train_epochs
from permmoe.training.exposure import Exposure, TrainingRecord
from permmoe.training.hardware import repeatable
from permmoe.training.means import set_means
from permmoe.training.point import TrainingPoint
from permmoe.training.pretraining import pretrain
from permmoe.training.seeds import derive_seed
from permmoe.training.site_moments import set_site_moments
from permmoe.training.within_memory import at_a_time, visits_of_a_step
from permmoe_client.participation.cluster_centres import check_centres
from permmoe_client.participation.evaluated import evaluated, evaluated_visits
from permmoe_client.participation.grouped_visits import GroupedVisits
from permmoe_client.participation.held_model import HeldModel, held_model, hold_model
from permmoe_client.participation.kept_training import NOTHING_KEPT, KeptTraining
from permmoe_client.participation.privacy_account import check_policy, exposure_from, noise_seed, round_cost
from permmoe_client.participation.private_errors import private_errors
from permmoe_client.participation.private_moments import private_moments
from permmoe_client.participation.query_order import check_query
from permmoe_client.participation.running_site import RunningSite
from permmoe_client.participation.site_device import on_site_device, within_site_memory
from permmoe_client.participation.site_visits import in_words as visits_in_words
from permmoe_client.participation.study_memory import Memory, is_private, needs_memory, recall, remember

LOG = logging.getLogger("permmoe.client")


@dataclass(frozen=True)
class LoadedRound:
    """A round that can begin: the announced model is loaded, and the site's memory of the study is at hand."""

    instruction: Instruction
    site: RunningSite
    layout: ModuleLayout
    network: Network
    """What is evaluated."""
    before: Mapping[str, Tensor]
    """The weights that the network begins with, by module, laid end to end."""
    memory: Memory

    @property
    def plan(self) -> RoundPlan:
        """The study."""
        return self.instruction.plan

    @property
    def model(self) -> PerMMoE:
        """What is trained: a single model, since no study trains an ensemble."""
        assert isinstance(self.network, PerMMoE)
        return self.network

    def begin_anew(self) -> None:
        """Give the network the weights that the round begins with."""
        weights = self.layout.unflatten(self.before)
        with torch.no_grad():
            # A third of load_state_dict's time: parameters are the whole state, and the layout has all of them.
            for name, parameter in self.network.named_parameters():
                parameter.copy_(weights[name])

    @property
    def least_count(self) -> int:
        """ "No metric over fewer subjects leaves the site": the study may be stricter than the site, never laxer."""
        return max(self.site.settings.release.min_cell_count, self.plan.federation.min_cell_count)

    def in_groups(self, purpose: str, data: VisitData) -> VisitData:
        """What counts of the visits in sums over groups of patients, for one purpose of this study."""
        return self.site.in_groups(f"{purpose} of {self.plan.digest()}", data, self.least_count)

    def in_severity_groups(self, purpose: str, data: VisitData) -> GroupedVisits:
        """The same of sums by severity group, where the study asks for them, and else without one."""
        if not severity_groups(self.plan, purpose):
            return GroupedVisits(self.in_groups(purpose, data))
        ends = severity_ends(self.plan.model)
        return self.site.in_severity_groups(f"{purpose} of {self.plan.digest()}", data, self.least_count, ends)


@dataclass(frozen=True)
class Training:
    """What a training did, besides changing the model."""

    exposure: Exposure
    figures: TrainingFigures
    """Without times."""
    behind: Exposure | None = None
    """How many patients each part of the model was trained on; None where noise hides every one of them."""
    drift: Mapping[str, Tensor] = field(default_factory=dict)
    """The drift that the training steered against, by module."""
    spent: tuple[Spent, ...] = ()
    """What the training cost in differential privacy."""
    updates: Mapping[str, ModuleUpdate] | None = None
    """What leaves, where it is not the change of the model."""


def train_round(
    instruction: Instruction,
    content: RecordDict,
    site: RunningSite,
    state: RecordDict | None = None,
    kept: KeptTraining = NOTHING_KEPT,
) -> TrainReply:
    """Train from the weights that came, and reply with the change of every module that was trained.

    `state` is what the node keeps between messages: the model that came last. `kept` is what an interrupted process
    left of this training, and where this one leaves it. Raises MalformedRecord for a model that
    is not the announced one, ModulesMissing where a part of it neither came nor is held, ImplausibleModel for one that
    training did not lead to, QueryRefused for a round whose turn it is not, BudgetSpent for one that would cost more
    privacy than may be spent, DeviceUnusable where the site's file names a GPU that cannot be used.
    """
    return on_site_device(site, instruction.plan, lambda on: _train_on(on, instruction, content, site, state, kept))


def _train_on(
    device: str,
    instruction: Instruction,
    content: RecordDict,
    site: RunningSite,
    state: RecordDict | None,
    kept: KeptTraining,
) -> TrainReply:
    started = time.perf_counter()
    plan = instruction.plan
    check_query(instruction, "training", site.ledger.of_study(plan.digest()) if site.ledger else ())
    check_policy(plan, site.settings, site.ledger)
    check_centres(plan, site.settings.release)
    # The model is loaded before the memory is asked for, so that a malformed model is reported as such.
    loaded = _load(instruction, content, site, state, instruction.round, device, needs_memory=needs_memory(plan))
    if reply := kept.reply():
        LOG.info("round %d was trained before; its reply is sent again", instruction.round)
        return reply
    train = _kind_of_training(plan, instruction.round)
    data = site.training_visits(plan, instruction.round)
    if not plan.federation.is_harmonising(instruction.round):
        data = _without_scanners(loaded, data)
    LOG.info("round %d trains on %s", instruction.round, visits_in_words(data))
    ready = time.perf_counter()
    training = train(loaded, data, kept)
    train_seconds = time.perf_counter() - ready
    updates = _updates(loaded, training) if training.updates is None else training.updates
    figures = replace(training.figures, visits=_coarse(training.figures.visits, plan.federation.support_step))
    if plan.federation.privacy:
        # Times tell how many patients there are, and modalities which examinations they had: both stay here.
        return _reply(loaded, updates, figures, spent=training.spent)
    updates, residual = _rounded(updates, loaded)
    if needs_memory(plan):
        trained = tuple(updates) if instruction.round >= plan.federation.first_supervised else ()
        memory = _memory_after(loaded, training.drift, trained, residual)
        remember(site.settings, plan, memory, site.withdrawals.head)
    overhead_seconds = time.perf_counter() - started - train_seconds
    figures = replace(figures, train_seconds=train_seconds, overhead_seconds=overhead_seconds)
    return _reply(loaded, updates, figures, modalities=site.modalities(plan))


def _kind_of_training(plan: RoundPlan, number: int) -> Callable[[LoadedRound, VisitData, KeptTraining], Training]:
    if privacy := plan.federation.privacy:
        return _release_moments if privacy.moments else _train_privately
    if plan.federation.is_pretraining(number):
        return _pretrain
    if plan.federation.is_harmonising(number):
        return _set_site_moments
    return _set_means if plan.federation.is_centring(number) else _train_plainly


def _without_scanners(loaded: LoadedRound, data: VisitData) -> VisitData:
    """The site's visits without what its scanners add, where the study harmonises sites."""
    if loaded.plan.model.harmonisation is None:
        return data
    assert loaded.model.harmonisation
    found = harmonised(loaded.model.harmonisation, data)
    # Behind the harmonising round alone: nothing of it changes while a study goes on.
    if loaded.instruction.round == 2:
        for sentence in in_words(found.as_they_were):
            LOG.warning("%s", sentence)
    return found.data


def _train_plainly(loaded: LoadedRound, data: VisitData, kept: KeptTraining) -> Training:
    """Train for the study's local epochs, steered against the site's drift where the study corrects it."""
    plan, number = loaded.plan, loaded.instruction.round
    drift = loaded.memory.drift(number, loaded.before) if plan.federation.drift_correction else {}
    correction = Correction.at(
        loaded.model,
        proximal_weight=plan.federation.proximal_weight,
        drift=_by_parameter(drift, loaded) if drift else None,
        n_steps=step_count(len(data), plan.train, plan.federation.local_epochs),
    )

    point = _begun(kept, loaded)

    def train(visits_at_once: int) -> TrainingRecord:
        return train_epochs(
            loaded.model,
            data,
            at_a_time(plan.train, visits_at_once),
            first_epoch=plan.federation.first_epoch(number),
            epochs=plan.federation.local_epochs,
            seed=derive_seed(plan.train.seed, loaded.site.settings.name, number),
            correction=correction,
            point=point if point and point.visits_at_once == visits_at_once else None,
            keeper=kept,
        )

    record = within_site_memory(loaded.site, plan, visits_of_a_step(plan.train), train, loaded.begin_anew)
    figures = TrainingFigures(float(record.visits), record.loss_sum)
    return Training(record.exposure, figures, record.behind, drift)


def _pretrain(loaded: LoadedRound, data: VisitData, _: KeptTraining) -> Training:
    """Train encoders on the site's scans; it takes seconds, so that an interrupted one begins anew."""
    plan, number = loaded.plan, loaded.instruction.round
    assert plan.train.pretraining
    with repeatable(plan.train):
        record = pretrain(
            loaded.model,
            data,
            plan.train.pretraining,
            first_epoch=plan.federation.first_epoch(number),
            epochs=plan.federation.local_epochs,
            seed=derive_seed(plan.train.seed, loaded.site.settings.name, number),
        )
    return Training(record.exposure, TrainingFigures(float(record.visits), record.loss_sum), record.behind)


def _begun(kept: KeptTraining, loaded: LoadedRound, *cost: float) -> TrainingPoint | None:
    """The point behind which the training goes on; `cost` is what determines the steps of a private one."""
    point = kept.begin(
        {
            "device": str(device_of(loaded.model)),
            "threads": torch.get_num_threads(),
            # It goes up when a training ends, and what the next one begins with changes.
            "memory_round": loaded.memory.round,
            "cost": list(cost),
        }
    )
    if point:
        # What fitted into the GPU's memory is known.
        loaded.site.workshop.visits_at_once[loaded.plan.digest()] = point.visits_at_once
    return point


def _by_parameter(drift: Mapping[str, Tensor], loaded: LoadedRound) -> dict[str, Tensor]:
    """The drift of every parameter; zero in modules that are not steered."""
    unsteered = {module: torch.zeros_like(weights) for module, weights in loaded.before.items()}
    return loaded.layout.unflatten({**unsteered, **drift})


def _set_means(loaded: LoadedRound, data: VisitData, _: KeptTraining) -> Training:
    """Set the means of the model's inputs and the moments of its ridge to the site's; nothing is trained.

    A mean times its support is a sum over patients, so it is taken over groups of them.
    """
    record = set_means(loaded.model, loaded.in_groups("training", data))
    return Training(record.exposure, TrainingFigures(float(record.visits), record.loss_sum), record.behind)


def _set_site_moments(loaded: LoadedRound, data: VisitData, _: KeptTraining) -> Training:
    """Set the moments that tell how sites' scanners differ to the site's; over groups of patients, as `_set_means`."""
    record = set_site_moments(loaded.model, loaded.in_groups("training", data))
    return Training(record.exposure, TrainingFigures(float(record.visits), record.loss_sum), record.behind)


def _train_privately(loaded: LoadedRound, data: VisitData, kept: KeptTraining) -> Training:
    """Train with differential privacy: all that leaves follows from noisy changes and counts with noise."""
    # With Opacus, which takes seconds to import; sites of other studies need not wait for it.
    from permmoe.training.private_trainer import VISITS_AT_ONCE, train_privately

    plan, site = loaded.plan, loaded.site
    assert plan.federation.privacy and site.ledger
    privacy, layout = plan.federation.privacy, loaded.layout
    modules = trained_modules(plan, loaded.instruction.round, layout.modules)
    trained = trained_parameters(loaded.model, layout, modules)
    cost = round_cost(plan, site.settings, site.ledger, data, loaded.least_count)
    patients = float(sum(cost.counts.values()))
    point = _begun(kept, loaded, cost.noise_multiplier, cost.sample_rate, float(cost.steps))
    train = partial(
        train_privately,
        loaded.model,
        data,
        plan.train,
        privacy,
        noise_multiplier=cost.noise_multiplier,
        sample_rate=cost.sample_rate,
        steps=cost.steps,
        patients=patients,
        trained=trained,
        bounds=gradient_bounds(privacy, layout, modules, trained),
        seed=noise_seed(site.settings, loaded.instruction.round),
        keeper=kept,
    )

    def fitting(visits_at_once: int) -> None:
        is_of_this_size = point and point.visits_at_once == visits_at_once
        train(visits_at_once=visits_at_once, point=point if is_of_this_size else None)

    within_site_memory(site, plan, VISITS_AT_ONCE, fitting, loaded.begin_anew)
    # A loss would say something about the patients, so it stays here.
    figures = TrainingFigures(visits=patients)
    return Training(exposure_from(cost.counts, plan), figures, spent=cost.spent)


def _release_moments(loaded: LoadedRound, data: VisitData, _: KeptTraining) -> Training:
    """The moments of the model's ridge with noise, of single patients: the noise covers each of them."""
    found = private_moments(loaded.plan, loaded.site, loaded.model, loaded.layout, data, loaded.least_count)
    nothing = Exposure(0.0, {}, {}, {}, torch.zeros(loaded.plan.model.experts))
    figures = TrainingFigures(visits=found.patients)
    return Training(nothing, figures, spent=(found.spent,), updates=found.updates)


def evaluate_round(
    instruction: Instruction, content: RecordDict, site: RunningSite, state: RecordDict | None = None
) -> EvaluationReply:
    """Evaluate the weights that came, and reply with the sums of the combinations that enough subjects have.

    Arguments and errors are those of `train_round`.
    """
    return on_site_device(site, instruction.plan, lambda on: _evaluate_on(on, instruction, content, site, state))


def _evaluate_on(
    device: str, instruction: Instruction, content: RecordDict, site: RunningSite, state: RecordDict | None
) -> EvaluationReply:
    plan = instruction.plan
    check_query(instruction, "evaluation", site.ledger.of_study(plan.digest()) if site.ledger else ())
    check_policy(plan, site.settings, site.ledger)
    keeps_modules = bool(plan.federation.private_modules)
    loaded = _load(instruction, content, site, state, instruction.round + 1, device, needs_memory=keeps_modules)
    if plan.federation.privacy:
        # Of single patients: the noise covers each of them.
        with repeatable(plan.train):
            return private_errors(instruction, site, loaded.network, evaluated_visits(instruction, site.visits(plan)))
    visits = _without_scanners(loaded, site.visits(plan))
    grouped = loaded.in_severity_groups(instruction.part, evaluated_visits(instruction, visits))
    with repeatable(plan.train):
        return evaluated(instruction, site.settings.name, loaded.network, grouped, loaded.least_count)


def _load(
    instruction: Instruction,
    content: RecordDict,
    site: RunningSite,
    state: RecordDict | None,
    next_round: int,
    device: str,
    *,
    needs_memory: bool,
) -> LoadedRound:
    """The announced model, its digest verified; modules that this site's visits cannot reach may be zeros.

    `next_round` is the round that begins with this model, or with one like it.
    """
    settings, plan = site.settings, instruction.plan
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    network, layout = site.network(plan)
    wire = plan.federation.wire
    held = held_model(state, layout, wire) if state else None
    received = read_model(
        content,
        instruction,
        layout,
        site.fixed(plan).joined(held.model if held else None),
        reachable_modules(plan.model, site.modalities(plan), plan.members),
    )
    weights = received.unpacked(layout, wire)
    memory = recall(settings, plan, site.withdrawals.head) if needs_memory else Memory()
    used = {name: weights[name] for name in received.modules if name not in memory.private}
    _check_plausible(used, plan, site, held, next_round)
    if state is not None:
        hold_model(state, HeldModel(received, plan.digest(), next_round))
    before = {**weights, **memory.private}
    loaded = LoadedRound(instruction, site, layout, network, before, memory)
    loaded.begin_anew()
    network.to(device)
    return loaded


def _check_plausible(
    weights: Mapping[str, Tensor], plan: RoundPlan, site: RunningSite, held: HeldModel | None, next_round: int
) -> None:
    """Raises ImplausibleModel."""
    if plan.evaluation is not None:
        # Its digest was approved, so there is nothing to compare it with.
        check_model(weights, {}, rounds=0, most=0.0, means={})
        return
    before = held if held and held.study == plan.digest() else None
    start = before.model.unpacked(site.layout(plan), plan.federation.wire) if before else site.initial(plan)
    known = before.model.modules if before else start
    since = before.next_round if before else 1
    check_model(
        weights,
        {name: start[name] for name in known},
        # A running mean that is evaluated and the newest model belong to one round and are not the same.
        rounds=max(next_round - since, 1 if before else 0),
        most=site.settings.release.max_model_change,
        means=site.means(plan),
        are_means_set=plan.federation.aggregation_rule.keeps_unchanged
        and not any(map(plan.federation.sets_means, range(since, next_round))),
    )


def _updates(loaded: LoadedRound, training: Training) -> dict[str, ModuleUpdate]:
    """The changes of modules that enough patients trained; private modules are left out.

    What one patient trained says what one patient is like: the rule for figures holds for updates and means too.
    """
    after, layout, federation = loaded.model.state_dict(), loaded.layout, loaded.plan.federation
    support = module_support(loaded.plan.model, training.exposure, federation.imputed_router_support)
    behind = module_support(loaded.plan.model, training.behind) if training.behind else {}
    trained = trained_modules(loaded.plan, loaded.instruction.round, layout.modules)
    return {
        module: ModuleUpdate.of(
            loaded.before[module], layout.flatten(after, module), _coarse(support[module], federation.support_step)
        )
        for module in trained
        if support[module] > 0 and behind.get(module, inf) >= loaded.least_count and not is_private(module, loaded.plan)
    }


def _coarse(count: float, step: int) -> float:
    """A number of visits as it leaves: the nearest multiple of the study's step, of one step at least."""
    return max(round(count / step), 1) * float(step) if step else count


def _rounded(
    updates: Mapping[str, ModuleUpdate], loaded: LoadedRound
) -> tuple[dict[str, ModuleUpdate], dict[str, Tensor]]:
    """Changes as the server will read them, and what their format took away, which goes into the next round's."""
    residual, wire = loaded.memory.residual, loaded.instruction.up_wire
    if wire == "fp32":
        return dict(updates), dict(residual)
    received, left = {}, dict(residual)
    for module, update in updates.items():
        wanted = update.weighted_delta + residual.get(module, 0.0)
        received[module] = replace(update, weighted_delta=as_received(wanted, wire))
        left[module] = wanted - received[module].weighted_delta
    return received, left


def _memory_after(
    loaded: LoadedRound,
    drift: Mapping[str, Tensor],
    trained: tuple[str, ...],
    residual: Mapping[str, Tensor],
) -> Memory:
    """What the site keeps of this round for the next one."""
    plan, before = loaded.plan, loaded.before
    after = loaded.layout.flatten_all(loaded.model.state_dict())
    private = {module: weights for module, weights in after.items() if is_private(module, plan)}
    steered = trained if plan.federation.drift_correction else ()
    start = {module: before[module] for module in steered}
    change = {module: after[module] - before[module] - drift.get(module, 0.0) for module in steered}
    return Memory(loaded.instruction.round, private, start, change, residual)


def _reply(
    loaded: LoadedRound,
    updates: Mapping[str, ModuleUpdate],
    figures: TrainingFigures,
    modalities: tuple[str, ...] = (),
    spent: tuple[Spent, ...] = (),
) -> TrainReply:
    instruction = loaded.instruction
    return TrainReply(
        loaded.site.settings.name,
        instruction.round,
        instruction.model_digest,
        updates,
        figures,
        modalities=modalities,
        spent=spent,
    )
