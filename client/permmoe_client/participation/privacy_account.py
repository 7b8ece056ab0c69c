"""A site's account of its patients' privacy: what was spent, what a round will cost, and when it is enough.

The account is the ledger: each entry of a training says what it spent, and is written before anything leaves. A round
whose cost would pass the site's budget, or the study's target, is not begun.

Under differential privacy a site's counts are as private as its images. So all that a study needs of them (supports,
sample rate) follows from one histogram of its patients by observed set, drawn once a study with noise, and accounted.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path

import torch

from permmoe.config import PrivacyConfig
from permmoe.data.batch import observed_masks
from permmoe.data.dataset import VisitData
from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.federated.accounting import Spent, distinct, epsilon, is_within, noise_multiplier_for
from permmoe.federated.audit import Entry
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.federated.study_budget import spent_on_evaluations
from permmoe.runtime.files import write_file
from permmoe.training.exposure import Exposure
from permmoe.training.seeds import derive_seed
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig


class BudgetSpent(PermmoeError):
    """A round that would cost more than may be spent."""


@dataclass(frozen=True)
class RoundCost:
    """One round of private training at this site."""

    noise_multiplier: float
    sample_rate: float
    steps: int
    counts: Mapping[int, float]
    """Patients by observed set (a bit mask), with noise; sets under the least cell count are left out."""
    spent: tuple[Spent, ...]
    """The steps and, the first time that a study's counts are used, these."""


def spent_so_far(entries: Iterable[Entry], study: str | None = None) -> list[Spent]:
    """All that the ledger says was spent, by one study or by all; what was released again counts once."""
    return distinct(
        Spent(**part)
        for entry in entries
        if study is None or entry.facts.get("study") == study
        for part in entry.facts.get("spent", ())
    )


def check_policy(plan: RoundPlan, site: SiteConfig, ledger: Ledger | None) -> None:
    """Check that the account can be kept.

    Raises BudgetSpent for a study without an account at a site with a budget, ConfigurationError for a private study at
    a site without a ledger.
    """
    if plan.federation.privacy and ledger is None:
        raise ConfigurationError("differential privacy needs a ledger to keep account in; connect the site with a kit")
    # "A site with a budget answers only what is accounted": a single other study would make the account false.
    if site.privacy_budget and plan.federation.privacy is None:
        raise BudgetSpent(
            "this site has a privacy_budget and the study has no differential privacy, so its cost has no bound; ask "
            "the coordinator for a study with `privacy`; surveys have none"
        )


def round_cost(plan: RoundPlan, site: SiteConfig, ledger: Ledger, data: VisitData, least: int) -> RoundCost:
    """What the next round costs here, once it is found to be within budget and target. Raises BudgetSpent."""
    federation = plan.federation
    privacy = federation.privacy
    assert privacy and site.ledger
    entries = list(ledger.entries())
    counts = _counts(site.ledger / f"counts-{plan.digest()}.json", plan, site, data, privacy)
    kept = {mask: n for mask, n in counts.items() if n >= least}
    if not kept:
        raise BudgetSpent("no observed set has enough patients here to count for anything once noise is added")
    rate = min(1.0, privacy.patients_per_step / sum(kept.values()))
    steps = math.ceil(federation.local_epochs / rate)
    noise = privacy.noise_multiplier or _noise_for_study(federation, rate, steps * federation.rounds)
    of_study = spent_so_far(entries, plan.digest())
    of_counts = Spent(privacy.count_noise, 1.0, 1)
    spent = (Spent(noise, rate, steps),) if of_study else (of_counts, Spent(noise, rate, steps))
    _check(privacy.target_epsilon, privacy.delta, [*of_study, *spent], "the study's target_epsilon")
    if site.privacy_budget:
        budget = site.privacy_budget
        _check(budget.epsilon, budget.delta, [*spent_so_far(entries), *spent], "this site's privacy_budget")
    return RoundCost(noise, rate, steps, kept, spent)


def check_release(plan: RoundPlan, site: SiteConfig, ledger: Ledger, spent: Spent) -> None:
    """Check that what a study releases in one piece is within its target and this site's budget. Raises BudgetSpent."""
    privacy = plan.federation.privacy
    assert privacy
    entries = list(ledger.entries())
    of_study = distinct([*spent_so_far(entries, plan.digest()), spent])
    _check(privacy.target_epsilon, privacy.delta, of_study, "the study's target_epsilon")
    if budget := site.privacy_budget:
        of_all = distinct([*spent_so_far(entries), spent])
        _check(budget.epsilon, budget.delta, of_all, "this site's privacy_budget")


def noise_seed(site: SiteConfig, number: int) -> int:
    """A seed that nobody else knows; in a simulation, which names one on purpose, a reproducible one."""
    if site.insecure_noise_seed is None:
        return secrets.randbits(63)
    return derive_seed(site.insecure_noise_seed, site.name, number)


def exposure_from(counts: Mapping[int, float], plan: RoundPlan) -> Exposure:
    """How much each part of the model is expected to see in an epoch of such patients, modality dropout included.

    Experts are taken to share the patients alike: where tokens really went depends on each patient.
    """
    names, rate = plan.model.names, plan.train.modality_dropout
    patterns: dict[int, float] = {}
    for observed, n in counts.items():
        for seen, chance in _dropped(observed, len(names), rate):
            patterns[seen] = patterns.get(seen, 0.0) + n * chance
    visits = sum(counts.values())
    has = {name: sum(n for seen, n in patterns.items() if seen >> m & 1) for m, name in enumerate(names)}
    mass = torch.full((plan.model.experts,), visits / plan.model.experts)
    return Exposure(visits, has, {name: visits - n for name, n in has.items()}, patterns, mass)


def account(ledger: Ledger, delta: float) -> float:
    """ε of all that the site has released. Infinite where something left without differential privacy."""
    entries = list(ledger.entries())
    if any(entry.kind in ("training", "evaluation", "survey") and "spent" not in entry.facts for entry in entries):
        return math.inf
    return epsilon(spent_so_far(entries), delta)


def spent_facts(spent: Sequence[Spent]) -> dict[str, object]:
    """What the ledger's entry says of the cost; nothing for a training without differential privacy."""
    return {"spent": [_without_defaults(asdict(part)) for part in spent]} if spent else {}


def _without_defaults(part: dict[str, object]) -> dict[str, object]:
    """Entries of DP-SGD say no more than its noise, its sample and its steps."""
    return {name: value for name, value in part.items() if value or name not in ("is_discrete", "release")}


def _check(limit: float | None, delta: float, spent: Sequence[Spent], what: str) -> None:
    if limit is None:
        return
    if not is_within(spent, delta, limit):
        raise BudgetSpent(
            f"with this answer ε would be {epsilon(spent, delta):.3f} at δ = {delta:g}, over {what} of {limit:g}; "
            "nothing was sent. What was released stays within it"
        )


@lru_cache(maxsize=64)
def _noise_for_study(federation: FederationConfig, rate: float, steps: int) -> float:
    privacy = federation.privacy
    assert privacy and privacy.target_epsilon
    others = [Spent(privacy.count_noise, 1.0, 1), *spent_on_evaluations(federation)]
    return noise_multiplier_for(privacy.target_epsilon, privacy.delta, rate, steps, others)


def _counts(path: Path, plan: RoundPlan, site: SiteConfig, data: VisitData, privacy: PrivacyConfig) -> dict[int, float]:
    """The study's histogram with noise. It is drawn once and read ever after: a second draw would spend again."""
    if path.exists():
        return {int(mask): float(n) for mask, n in json.loads(path.read_text()).items()}
    generator = torch.Generator().manual_seed(derive_seed(noise_seed(site, 0), plan.digest()))
    exact = torch.bincount(observed_masks(data.observed), minlength=1 << len(plan.model.names))
    noisy = exact.double() + privacy.count_noise * torch.randn(len(exact), generator=generator, dtype=torch.float64)
    counts = {mask: n for mask, n in enumerate(noisy.tolist()) if mask}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Nothing may follow from counts that a power cut could take back: drawn again, they would be spent again.
    write_file(path, json.dumps(counts), is_durable=True)
    return counts


def _dropped(observed: int, n_modalities: int, rate: float) -> list[tuple[int, float]]:
    """What modality dropout leaves of an observed set, with chances; a set that would be emptied stays whole."""
    members = [1 << m for m in range(n_modalities) if observed >> m & 1]
    subsets = chain.from_iterable(combinations(members, size) for size in range(1, len(members) + 1))
    chances = [(sum(subset), (1 - rate) ** len(subset) * rate ** (len(members) - len(subset))) for subset in subsets]
    return [*chances, (observed, rate ** len(members))]
