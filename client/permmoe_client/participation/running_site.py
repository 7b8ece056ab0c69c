"""The sites that a process runs. In a hospital that is one; in a simulation a process takes the part of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.data.batch import observed_masks
from permmoe.data.dataset import VisitData
from permmoe.encoder_weights import brought_encoders
from permmoe.ensemble import Network, empty_network
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.release_account import Labels, ReleaseAccount, combination_groups
from permmoe.federated.survey_groups import survey_groups
from permmoe.federated.trained_modules import fixed_modules
from permmoe.training.seeds import make_model
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.accompanied import accompanied
from permmoe_client.participation.grouped_visits import GroupedVisits, as_told, present_facts, severity_facts
from permmoe_client.participation.secure_session import SecureSession
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.patient_account import Divide, PatientAccount
from permmoe_client.release.withdrawals import NOBODY_WITHDREW, Absent, Withdrawals, read_withdrawals
from permmoe_client.site import SiteConfig, read_site

MOST_VISIT_SETS = 256
"""How many sets of visits a process keeps in memory; a set belongs to a site's settings and a study's model."""
LoadVisits = Callable[[SiteConfig, ModelConfig, float | None, Absent, bool], VisitData]
"""Loads a site's visits for a study's model and its horizon, months, None where it declares none; but nobody absent.
The last argument: whether those without an outcome are among them."""


class Workshop:
    """What the sites of one process share because it is large or slow to make: their visits, and a model to work with.

    Visits are loaded once for the same settings, model and horizon, so that rounds neither wait for them nor see a
    manifest that changes between them.
    """

    def __init__(self, load_visits: LoadVisits = site_visits) -> None:
        self._load_visits = load_visits
        self.visits: LoadVisits = lru_cache(maxsize=MOST_VISIT_SETS)(load_visits)
        # Making a small model takes as long as all work beside its training.
        self.network: Callable[[ModelConfig, int], tuple[Network, ModuleLayout]] = lru_cache(maxsize=1)(_with_layout)
        """A network of so many members with arbitrary weights, and its layout. It is the same object for all: overwrite
        all its weights."""
        self.initial: Callable[[ModelConfig, int, Path | None], Mapping[str, Tensor]] = lru_cache(maxsize=1)(
            _initial_weights
        )
        """The initial weights of a study by module, from its model, its seed and the folder of weights files."""
        self.means: Callable[[ModelConfig, int], Mapping[str, Int[Tensor, " _"]]] = lru_cache(maxsize=1)(
            lambda config, members: _places_of_means(*self.network(config, members))
        )
        """For each module with parameters that training does not move, which of its elements these are."""

        self.visits_at_once: dict[str, int] = {}
        """How many visits of a step fit into the memory of the site's GPU, by study; only where that was found out."""

    def forget_visits(self) -> None:
        """Load visits anew when they are asked for next: somebody withdrew, and is not kept in memory."""
        self.visits = lru_cache(maxsize=MOST_VISIT_SETS)(self._load_visits)

    def forget_network(self) -> None:
        """Let the next round make its network anew: this one may be on a device that has failed."""
        self.network = lru_cache(maxsize=1)(_with_layout)


def _with_layout(config: ModelConfig, members: int) -> tuple[Network, ModuleLayout]:
    network = empty_network(config, members)
    return network, ModuleLayout.of(network)


def _places_of_means(model: Network, layout: ModuleLayout) -> Mapping[str, Int[Tensor, " _"]]:
    """What the centring round alone sets; centres of clusters follow no gradient either, but every round moves them."""
    moved = {
        name: parameter.requires_grad or name.startswith("clusters.") for name, parameter in model.named_parameters()
    }
    return {
        module: torch.cat([torch.full((piece.size,), not moved[piece.parameter]) for piece in slices])
        .nonzero()
        .flatten()
        for module, slices in layout.slices.items()
        if not all(moved[piece.parameter] for piece in slices)
    }


def _initial_weights(config: ModelConfig, seed: int, weights: Path | None) -> Mapping[str, Tensor]:
    model = make_model(config, seed, brought_encoders(config, weights))
    return ModuleLayout.of(model).flatten_all(model.state_dict())


@dataclass
class RunningSite:
    """A site for as long as its process lives. One message is answered at a time."""

    settings: SiteConfig
    ledger: Ledger | None = None
    """The record of what left; None for a site that connects to no coordinator, and in a rehearsal."""
    workshop: Workshop = field(default_factory=Workshop)
    session: SecureSession | None = None
    """The secure sum that the site is in. Keys and seeds are in memory only: a restart forgets them."""
    withdrawals: Withdrawals = NOBODY_WITHDREW
    """As they stood when the message came that is answered."""

    def visits(self, plan: RoundPlan) -> VisitData:
        """The site's visits for a study. Raises what `site_visits` raises."""
        absent = self.withdrawals.absent
        return self.workshop.visits(self.settings, plan.model, plan.horizon_months, absent, plan.pretrains)

    def training_visits(self, plan: RoundPlan, number: int) -> VisitData:
        """Those that train in a round, whose scans alone do in pretraining: without who was left out beside patients
        who withdrew (permmoe_client.participation.accompanied). That is decided at the first training after a
        withdrawal, of all who train in the study, and kept.
        """
        every = self.visits(plan)
        if self.withdrawals.unaccompanied:
            trained = every.scans() if plan.pretrains else every.part("train")
            self.withdrawals = accompanied(self.withdrawals, trained, plan, self.settings, self.ledger)
        data = every.scans() if plan.federation.is_pretraining(number) else every.part("train")
        rows = [row for row, visit in enumerate(data.visits) if visit.subject_id not in self.withdrawals.beside]
        return data if len(rows) == len(data) else data.subset(torch.tensor(rows, dtype=torch.long))

    def modalities(self, plan: RoundPlan) -> tuple[str, ...]:
        """The modalities that the site's visits have, in any part of the split."""
        data = self.visits(plan)
        return tuple(name for name, is_there in zip(data.names, data.observed.any(0).tolist(), strict=True) if is_there)

    def in_groups(self, question: str, data: VisitData, least: int) -> VisitData:
        """The visits with what of them counts in sums over groups of patients, none smaller than `least`.

        Sums over these visits, by combination or by modality, tell nobody about fewer patients
        (permmoe.federated.release_account). They count as released from here on. `question` names what is asked, as in
        `PatientAccount.groups`. Raises LedgerError.
        """
        masks = observed_masks(data.observed).tolist()
        observed = {visit.subject_id: mask for visit, mask in zip(data.visits, masks, strict=True)}
        labels = self._labels(question, observed, least, combination_groups)
        counts = torch.tensor([labels.get(visit.subject_id, 0) for visit in data.visits], dtype=torch.long)
        return data.limited(torch.stack([counts >> m & 1 == 1 for m in range(len(data.names))], dim=1))

    def in_severity_groups(self, question: str, data: VisitData, least: int, ends: tuple[float, ...]) -> GroupedVisits:
        """The same where sums are by severity group, too; a visit whose severity too few share counts without one.

        `ends`: upper ends of all severity groups but the last, points. A survey divides its patients by the same rule
        (permmoe.federated.survey_groups). Raises LedgerError.
        """
        facts = severity_facts(data, ends)
        labels = self._labels(question, present_facts(data, facts), least, partial(survey_groups, facts))
        return as_told(data, facts, labels)

    def _labels(self, question: str, present: Mapping[str, int], least: int, divide: Divide) -> Labels:
        if self.ledger:
            return PatientAccount(self.ledger).groups(question, present, least, divide)
        return divide(ReleaseAccount(), present, least)

    def network(self, plan: RoundPlan) -> tuple[Network, ModuleLayout]:
        """A study's network with arbitrary weights, all of which have to be overwritten, and its layout."""
        return self.workshop.network(plan.model, plan.members)

    def initial(self, plan: RoundPlan) -> Mapping[str, Tensor]:
        """The weights that a study begins with, flat, by module. Raises ConfigurationError for a weights file that the
        study names and this site does not have."""
        return self.workshop.initial(plan.model, plan.train.seed, self.settings.weights)

    def fixed(self, plan: RoundPlan) -> PackedModel:
        """The modules that no message holds, since every site has them by itself. Raises as `initial`."""
        if not (names := fixed_modules(plan, self.layout(plan).modules)):
            return PackedModel({}, {})
        initial = self.initial(plan)
        return PackedModel.of({name: initial[name] for name in sorted(names)}, plan.federation.wire)

    def means(self, plan: RoundPlan) -> Mapping[str, Int[Tensor, " _"]]:
        """For each module with parameters that training does not move, which of its elements these are."""
        return self.workshop.means(plan.model, plan.members)

    def layout(self, plan: RoundPlan) -> ModuleLayout:
        """The modules of a study's network."""
        return self.network(plan)[1]


class RunningSites:
    """The sites of one process, by the path of their settings' file. They share a workshop and nothing else."""

    def __init__(self, load_visits: LoadVisits = site_visits) -> None:
        self._workshop = Workshop(load_visits)
        self._sites: dict[Path, RunningSite] = {}
        self._contents: dict[Path, bytes] = {}

    def at(self, path: Path) -> RunningSite:
        """The site of this file. A file that changed on disk is read again; a key is read for every message.

        Raises ConfigurationError for settings or a key that cannot be used.
        """
        content = path.read_bytes() if path.is_file() else b""
        site = self._sites.get(path)
        # Parsing takes milliseconds; to see that the file is as it was takes none.
        if site is None or content != self._contents[path]:
            settings = read_site(path)
            # A secure sum belongs to a ledger and a name, and outlives a change of any other setting.
            is_same = site is not None and _identity(site.settings) == _identity(settings)
            session = site.session if site and is_same else None
            site = RunningSite(settings, workshop=self._workshop, session=session)
            self._sites[path], self._contents[path] = site, content
        site.ledger = open_ledger(site.settings)
        withdrawals = read_withdrawals(site.ledger)
        if withdrawals.absent != site.withdrawals.absent:
            self._workshop.forget_visits()
        site.withdrawals = withdrawals
        return site

    def forget(self) -> None:
        """Forget all sites, as a restarted process has."""
        self._sites.clear()
        self._contents.clear()


def _identity(settings: SiteConfig) -> tuple[Path | None, str]:
    return settings.ledger, settings.name
