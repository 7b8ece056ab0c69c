"""What is known after a try at a round: the state that the next round starts from, and a record of what happened.

`permmoe_server.studies.round_line` writes a record as a line of `rounds.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums
from permmoe.federated.audit import Receipt
from permmoe.federated.error_estimates import ErrorBounds, error_estimates, estimated_scores
from permmoe.federated.instructions import Part
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import ErrorCounts
from permmoe.federated.summed_scores import SummedScores, asks_for_scores
from permmoe.federated.training_figures import TrainingFigures
from permmoe_server.protocol.aggregation import RunningSum
from permmoe_server.protocol.at_work import NOBODY_AT_WORK, StillAtWork
from permmoe_server.protocol.optimisers import Moments


@dataclass(frozen=True)
class FederationState:
    """All that the next round needs; a study resumed from it ends with the same weights as an undisturbed one."""

    round: int
    """Rounds done."""
    weights: Mapping[str, Tensor]
    """Flat parameters by module."""
    moments: Mapping[str, Moments] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)
    """Running mean of the weights over rounds; empty where the study wants the newest weights."""
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    """For each site's ledger the newest receipt; it goes out with the next instruction."""
    summed: tuple[str, ...] = ()
    """Secure: the sites whose input is in the sum of the newest round; its model is evaluated over them alone."""
    at_work: StillAtWork = NOBODY_AT_WORK
    """Who was at work when the newest round closed, where late updates count."""

    @property
    def evaluated_weights(self) -> Mapping[str, Tensor]:
        """The weights that are evaluated and kept: the running mean or, without one, the newest."""
        return self.average or self.weights


@dataclass(frozen=True)
class SiteTraining:
    """What the reply of one site said of its training. Only a plain round knows it."""

    figures: TrainingFigures
    server_seconds: float
    """Server time spent validating and aggregating this reply; excludes waiting and transport."""
    modules: tuple[str, ...]
    staleness: int = 0
    """Rounds between the model that the training began with and the one that its update was added to."""


@dataclass(frozen=True)
class SiteRecord:
    """What one node did in a round."""

    node: int
    site: str = ""
    """Empty where it is unknown which site the node is, and no reply was accepted."""
    bytes_down: int = 0
    bytes_up: int = 0
    ledger: str = ""
    """SHA-256 of the newest entry of the site's ledger: the coordinator's half of the evidence."""
    rejected: str | None = None
    """The rule that its reply broke, `no_reply`, or the type of the error that it had."""
    training: SiteTraining | None = None
    """None in a secure round, and for a reply that was rejected."""
    lost_at: str = ""
    """Secure: the stage at which it went silent or broke a rule; its input may be in the sum all the same."""


def in_order(sites: Iterable[SiteRecord]) -> tuple[SiteRecord, ...]:
    """By name, and those without one by node."""
    return tuple(sorted(sites, key=lambda record: (record.site, record.node)))


@dataclass(frozen=True)
class SecureFigures:
    """What only a secure round knows."""

    released: tuple[str, ...] = ()
    """Modules whose sum every site released: `min_holders` sites or more trained them, and no more is known."""
    withheld: tuple[str, ...] = ()
    """The study's other modules: fewer sites trained them, or a site's own rule is stricter."""
    is_used_up: bool = False
    """The try failed after sites had given their input; they give it to a round's number only once."""


@dataclass(frozen=True)
class TrainingRecord:
    """The training of a round over all sites."""

    sites: tuple[SiteRecord, ...]
    """In the order of their names."""
    loss: float
    """Mean over the accepted sites' visits, squared points; NaN without any."""
    visits: float
    """The visits of all accepted sites."""
    stage_seconds: Mapping[str, float]
    """Plain: `write`, for the model and its instructions. Secure: every stage of the sum."""
    secure: SecureFigures | None = None
    """None after a plain round."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How the training of a round ended, before the server's step."""

    total: RunningSum | None
    """The sum that the server steps along; None where too few sites gave a usable reply."""
    receipts: Mapping[str, Receipt]
    """For each site's ledger the newest receipt."""
    record: TrainingRecord
    summed: tuple[str, ...] = ()
    """Secure: the sites whose input is in the sum."""
    at_work: StillAtWork = NOBODY_AT_WORK
    """Who is at work still, where late updates count."""


@dataclass(frozen=True)
class Evaluation:
    """The sums of all sites that answered, by combination."""

    sums: Mapping[str, ErrorSums]
    sites: tuple[str, ...]
    rejected: Mapping[int, str]
    """Node -> why its reply was left out."""
    further: Mapping[str, FurtherSums] = field(default_factory=dict)
    """Of the same visits; only where a study judges a finished model."""
    scores: SummedScores | None = None
    """Of the same visits; only where the study asks for them. They go into the model's card and into no record."""
    bounds: Mapping[str, ErrorBounds] = field(default_factory=dict)
    """Between what the figures of the sums are without noise; only in a private study, whose sums are estimates."""


def estimated_evaluation(
    total: ErrorCounts | None, plan: RoundPlan, part: Part, sites: tuple[str, ...], rejected: Mapping[int, str]
) -> Evaluation:
    """The evaluation of a private study, from these sites' counts with noise, added up; None where there are none."""
    if total is None:
        return Evaluation({}, sites, rejected)
    found = error_estimates(total, plan, len(sites))
    scores = estimated_scores(found, len(sites)) if asks_for_scores(plan, part) else None
    return Evaluation(found.sums, sites, rejected, scores=scores, bounds=found.bounds)


@dataclass(frozen=True)
class EvaluationOutcome:
    """How an evaluation ended."""

    record: Evaluation
    receipts: Mapping[str, Receipt]
    """For each site's ledger the newest receipt."""
    sites: tuple[SiteRecord, ...] = ()
    """What each node did in it."""
    is_used_up: bool = False
    """Secure: it has no sums, and sites have given their input, which they give once."""


@dataclass(frozen=True)
class RoundRecord:
    """A try at a round."""

    round: int
    is_aggregated: bool
    """False where too few replies were usable: the weights stayed as they were."""
    training: TrainingRecord
    seconds: float
    """The time of the try, from when enough sites were there."""
    step_seconds: float | None = None
    """From the sum to the next model; None where nothing was aggregated."""
    evaluate_seconds: float | None = None
    """None where nothing was evaluated."""
    validation: Evaluation | None = None
    test: Evaluation | None = None
    """Only after the last round."""

    @property
    def sites(self) -> tuple[SiteRecord, ...]:
        """What each node did in the training."""
        return self.training.sites

    @property
    def is_used_up(self) -> bool:
        """Whether the try failed and its number cannot be tried again."""
        return self.training.secure is not None and self.training.secure.is_used_up
