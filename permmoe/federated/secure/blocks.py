"""What sites send as blocks of the secure sum, and what its result means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from permmoe.calibration.coarse_counts import WIDE_BINS
from permmoe.calibration.score_counts import N_BINS
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums
from permmoe.federated.fixed_point import ONE, FixedPointOverflowError, to_fixed_point
from permmoe.federated.instructions import Part
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import ErrorCounts, error_noise
from permmoe.federated.replies import EvaluationReply, TrainReply
from permmoe.federated.secure.exchanged import UnmaskedSum
from permmoe.federated.secure.session import Blocks, SecureSumRefused
from permmoe.federated.summed_scores import Scores, asks_for_scores, of_group, severity_groups
from permmoe.federated.training_figures import TrainingFigures
from permmoe.modality import all_combinations, combination_name

FIGURES_BLOCK = "figures"
"""The block of the figures that sites add up."""
ERRORS_BLOCK = "errors"
"""The block of a private study's counts of errors: of all combinations, so that every site holds it, with its noise."""
PAIRS = -(-N_BINS // 2)
"""Numbers that hold the counts of all bins."""
TRIPLES = -(-len(WIDE_BINS) // 3)
"""Numbers that hold the counts of a severity group in wide bins."""
SUMMED = tuple(TrainingFigures().for_secure_sum())
Numbers = Mapping[str, Int64[np.ndarray, " _"]]


@dataclass(frozen=True)
class TrainingSum:
    """The training of all sites together."""

    changes: Mapping[str, tuple[Int64[Tensor, " n"], int]]
    """For each released module Σ support × (after − before) and Σ support, in fixed point."""
    figures: TrainingFigures
    """The sums of the figures that sites add up; the others are 0."""


def training_blocks(layout: ModuleLayout, trained: Iterable[str] | None = None) -> Blocks:
    """A block a module, its support behind its values, and the figures. `trained`: those that the round trains, by
    default all."""
    modules = layout.modules if trained is None else trained
    return {module: layout.size(module) + 1 for module in modules} | {FIGURES_BLOCK: len(SUMMED)}


def training_numbers(reply: TrainReply) -> Numbers:
    """A site's blocks. Raises SecureSumRefused for what fixed point cannot hold."""
    try:
        numbers = {
            module: np.append(to_fixed_point(update.weighted_delta)[0].numpy(), _fixed(update.support))
            for module, update in reply.updates.items()
        }
    except FixedPointOverflowError:
        raise SecureSumRefused("a value of the update is too large, or not a number") from None
    return numbers | {FIGURES_BLOCK: _fixed(*reply.figures.for_secure_sum().values())}


def read_training(unmasked: UnmaskedSum) -> TrainingSum:
    """The sums' meaning. A support that is not above zero is no honest sites' sum: its module is left out."""
    sums = (unmasked.values[FIGURES_BLOCK] / ONE).tolist() if FIGURES_BLOCK in unmasked.values else [0.0] * len(SUMMED)
    changes = {
        name: (torch.from_numpy(values[:-1].copy()), int(values[-1]))
        for name, values in unmasked.values.items()
        if name != FIGURES_BLOCK and values[-1] > 0
    }
    return TrainingSum(changes, TrainingFigures(**dict(zip(SUMMED, sums, strict=True))))


@dataclass(frozen=True)
class EvaluationSum:
    """The evaluation of all sites together, by combination."""

    sums: Mapping[str, ErrorSums]
    further: Mapping[str, FurtherSums] = field(default_factory=dict)
    """Only where the study judges a finished model."""
    scores: Scores = field(default_factory=dict)
    """Only where the study asks for them."""
    severity: Scores = field(default_factory=dict)
    """In wide bins, by combination and severity group; only where the study asks for them."""
    noised: ErrorCounts | None = None
    """In place of all of these, in a private study."""


def evaluation_blocks(plan: RoundPlan, part: Part) -> Blocks:
    """A block a combination: n and four sums; two more where the study judges a finished model; scores if asked for,
    and those of each severity group. A group has no block of its own: of one that few sites have, its sum and the
    combination's would tell by subtraction what the block did not. Of a private study one block of all counts."""
    if plan.federation.has_private_evaluations:
        return {ERRORS_BLOCK: error_noise(plan).size}
    size = 5 + 2 * (plan.evaluation is not None) + PAIRS * asks_for_scores(plan, part)
    size += TRIPLES * severity_groups(plan, part)
    return {combination_name(c): size for c in all_combinations(plan.model.names)}


def evaluation_numbers(reply: EvaluationReply, groups: int = 0) -> Numbers:
    """A site's blocks: the combinations that it has enough subjects for. `groups`: of `severity_groups`."""
    if reply.noised is not None:
        return {ERRORS_BLOCK: reply.noised.reshape(-1)}
    nobody = np.zeros(N_BINS, np.int64)
    return {
        name: np.concatenate(
            [
                _fixed(*map(float, astuple(sums)), *(astuple(reply.further[name]) if reply.further else ())),
                *([_packed(reply.scores[name], 2)] if reply.scores else []),
                *(_packed(reply.severity.get(of_group(name, g), nobody)[WIDE_BINS], 3) for g in range(groups)),
            ]
        )
        for name, sums in reply.sums.items()
    }


def read_evaluation(unmasked: UnmaskedSum, plan: RoundPlan, part: Part) -> EvaluationSum:
    """The sums of all sites by combination."""
    if plan.federation.has_private_evaluations:
        # The block is there or it is not, where fewer sites hold it than share its noise.
        errors = unmasked.values.get(ERRORS_BLOCK)
        return EvaluationSum({}, noised=None if errors is None else errors.reshape(error_noise(plan).shape))
    groups = severity_groups(plan, part)
    blocks = {name: block for name, block in unmasked.values.items() if round(block[0] / ONE) > 0}
    values = {name: (block[:7] / ONE).tolist() for name, block in blocks.items()}
    severity: dict[str, Int64[np.ndarray, " bin"]] = {}
    for name, block in blocks.items():
        for group, packed in enumerate(block[len(block) - TRIPLES * groups :].reshape(groups, TRIPLES)):
            found = np.zeros(N_BINS, np.int64)
            found[WIDE_BINS] = _unpacked(packed, 3)[: len(WIDE_BINS)]
            if found.any():
                severity[of_group(name, group)] = found
    blocks = {name: block[: len(block) - TRIPLES * groups] for name, block in blocks.items()}
    return EvaluationSum(
        {name: ErrorSums(round(of[0]), *of[1:5]) for name, of in values.items()},
        {name: FurtherSums(*values[name][5:7]) for name, block in blocks.items() if (len(block) - 5) % PAIRS},
        {name: _unpacked(block[-PAIRS:], 2)[:N_BINS] for name, block in blocks.items() if len(block) > PAIRS},
        severity,
    )


def _packed(counts: Int64[np.ndarray, " bin"], each: int) -> Int64[np.ndarray, " number"]:
    """Two or three counts in a number, since a sum of any stays below 2³¹ or 2²¹: a study is to need few more bytes for
    them."""
    bits, length = 64 // each, -(-len(counts) // each)
    padded = np.append(counts, np.zeros(each * length - len(counts), np.int64)).reshape(length, each)
    return np.asarray(sum(padded[:, place] << (place * bits) for place in range(each)), np.int64)


def _unpacked(numbers: Int64[np.ndarray, " number"], each: int) -> Int64[np.ndarray, " bin"]:
    """The counts of a sum. Where a site lied they are some other numbers, which do not add up to its n."""
    bits = 64 // each
    lower = [(numbers >> (place * bits)) & ((1 << bits) - 1) for place in range(each - 1)]
    return np.stack([*lower, numbers >> ((each - 1) * bits)], axis=1).reshape(-1).astype(np.int64)


def _fixed(*values: float) -> Int64[np.ndarray, " _"]:
    scaled = np.rint(np.array(values, np.float64) * ONE)
    if not np.all(np.abs(scaled) < 2.0**63):
        raise SecureSumRefused("a figure is too large, or not a number")
    return scaled.astype(np.int64)
