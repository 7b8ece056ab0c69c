"""Everything that the checks look at, gathered before the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from permmoe.config import ModelConfig, Score
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.splits import assign_splits
from permmoe.data.visits import VisitTable
from permmoe.errors import PermmoeError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.preparation import progress as preparing
from permmoe_client.connection.identity import open_ledger
from permmoe_client.preflight.cohort import Cohort, Progress, read_cohort
from permmoe_client.preflight.credentials import Credentials, read_credentials
from permmoe_client.preflight.line import Line, try_line
from permmoe_client.preflight.outcome import Attempt, Outcome, Skip
from permmoe_client.preflight.surroundings import Surroundings
from permmoe_client.release.approval import PENDING_FOLDER, approved_studies, is_approved
from permmoe_client.release.withdrawals import Withdrawals, read_withdrawals
from permmoe_client.site import Coordinator, SiteConfig

MAX_PLAN_BYTES = 1_000_000


@dataclass(frozen=True)
class Facts:
    """A site's settings, and what they led to."""

    path: Path
    site: SiteConfig
    offline: bool
    model: ModelConfig
    """The model of the first approved study that is at hand, or the default, of the score that the site's table has."""
    layout: ModuleLayout
    with_images: bool
    """Whether images were opened."""
    credentials: Credentials
    line: Line
    cohort: Cohort
    plans: Mapping[str, RoundPlan] = field(default_factory=dict)
    """Studies that the coordinator began and that are whole, by digest."""
    approved: frozenset[str] = frozenset()
    """Digests of studies that may train here: listed in the settings, or approved in the ledger."""
    withdrawals: Attempt[Withdrawals] = field(default_factory=Attempt)
    """Who withdrew; not tried where the ledger cannot be opened."""
    damaged_plans: tuple[str, ...] = ()
    """File names of those that are not what their names say."""
    world: Surroundings = field(default_factory=Surroundings)
    preparation_progress: preparing.Progress = preparing.unseen
    """Told how far the images are that a check prepares for a try."""

    @property
    def coordinator(self) -> Coordinator:
        """How the site connects. Raises Skip where it does not."""
        if self.site.coordinator is None:
            raise Skip("the settings have no 'coordinator'")
        return self.site.coordinator

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the model's modalities that the site takes part with."""
        return tuple(n for n in self.model.names if not self.site.modalities or n in self.site.modalities)

    @property
    def visits(self) -> VisitTable:
        """Visits with an outcome and a modality that the site takes part with. Raises Skip where there are none."""
        table = self.cohort.table.need("data.readable")
        found = table.where(lambda visit: visit.delta_cdrsb is not None and bool(visit.observed(self.wanted)))
        if not len(found):
            raise Skip("needs visits")
        return found

    @property
    def split_visits(self) -> VisitTable:
        """`visits` with their parts, without those who withdrew. Raises Skip, DataError where only some rows name a
        part."""
        withdrawn = self.withdrawals.result.subjects if self.withdrawals.result else {}
        return assign_splits(self.visits, self.site.split).where(lambda visit: visit.subject_id not in withdrawn)

    @property
    def image_count(self) -> int:
        """Images that the cache will hold; 0 while the table cannot be read."""
        table = self.cohort.table.result
        return sum(name in visit.volumes for visit in table or () for name in self.wanted)


@dataclass(frozen=True)
class Check:
    """A question, and who answers it. A check may raise Skip."""

    id: str
    title: str
    """What is the case where all is well."""
    judge: Callable[[Facts], Outcome]


def gather(
    path: Path,
    site: SiteConfig,
    *,
    offline: bool,
    model: ModelConfig | None,
    world: Surroundings,
    images: bool = True,
    progress: Progress | None = None,
    preparation_progress: preparing.Progress = preparing.unseen,
) -> Facts:
    """Read what the settings name, images only if wanted, and try the line to the coordinator unless `offline`."""
    plans, damaged = _read_plans(site.ledger)
    approved, approved_plans = _read_approvals(site)
    plans |= approved_plans
    model = model or next((plans[d].model for d in sorted(approved) if d in plans and not plans[d].survey), None)
    model = model or _model_of(site.outcome)
    return Facts(
        path=path,
        site=site,
        offline=offline,
        model=model,
        layout=ModuleLayout.of(PerMMoE(model)),
        credentials=read_credentials(site.coordinator),
        line=try_line(site.coordinator, world) if site.coordinator and not offline else Line(),
        with_images=images,
        cohort=read_cohort(site, model, progress, images=images),
        plans=plans,
        approved=approved,
        withdrawals=_read_withdrawals(site),
        damaged_plans=damaged,
        world=world,
        preparation_progress=preparation_progress,
    )


def _model_of(outcome: OutcomeColumns) -> ModelConfig:
    """The default model for a site's table, while no study says what is predicted."""
    if outcome == USUAL_COLUMNS:
        return ModelConfig()
    unit = outcome.unit if outcome.times is None else "the study's unit"
    return ModelConfig(score=Score(name=outcome.name, unit=unit, lowest=None, highest=None), outcome_range=None)


def _read_approvals(site: SiteConfig) -> tuple[frozenset[str], dict[str, RoundPlan]]:
    """The digests of approved studies, and the plans of those that the ledger holds."""
    try:
        ledger = open_ledger(site)
        decisions = ledger.decisions() if ledger else []
    except (PermmoeError, OSError):
        # The key's own checks say what is wrong with it.
        decisions = []
    plans = {study.plan.digest(): study.plan for study in approved_studies(decisions)}
    known = {*site.approved_studies, *(str(entry.facts["study"]) for entry in decisions)}
    return frozenset(digest for digest in known if is_approved(digest, site.approved_studies, decisions)), plans


def _read_withdrawals(site: SiteConfig) -> Attempt[Withdrawals]:
    try:
        ledger = open_ledger(site)
    except (PermmoeError, OSError):
        # The key's own checks say what is wrong with it.
        return Attempt()
    try:
        return Attempt(read_withdrawals(ledger))
    except (PermmoeError, OSError) as error:
        return Attempt(trouble=str(error))


def _read_plans(ledger: Path | None) -> tuple[dict[str, RoundPlan], tuple[str, ...]]:
    plans: dict[str, RoundPlan] = {}
    damaged: list[str] = []
    for file in sorted((ledger / PENDING_FOLDER).glob("*.json")) if ledger else ():
        try:
            if file.stat().st_size > MAX_PLAN_BYTES:
                raise ValueError("too large")
            plan = RoundPlan.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            damaged.append(file.name)
            continue
        if plan.digest() == file.stem:
            plans[file.stem] = plan
        else:
            damaged.append(file.name)
    return plans, tuple(damaged)
