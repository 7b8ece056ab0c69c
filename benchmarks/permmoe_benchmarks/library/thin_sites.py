"""A federation of THIN sites: they answer with an update that was made beforehand, and train nothing.

What is measured with them is the protocol. Every one of their updates has every module of the default study's model.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message, RecordDict

from permmoe.federated.audit import LedgerHead
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply
from permmoe.federated.roster import Roster, RosterSite, sign_roster, site_keys
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.cohort import default_study
from permmoe_benchmarks.library.timing import Figures
from permmoe_server.protocol.federation import Clock, Federation, MessageGrid, SignedRoster
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.rounds import run_rounds
from permmoe_simulation.engines.grid import FIRST_NODE

NO_DEADLINE_SECONDS = 3600.0
VISITS = 20.0


@dataclass(frozen=True)
class ThinSites:
    """The plan of a federation, and what each of its sites will answer."""

    plan: RoundPlan
    layout: ModuleLayout
    weights: Mapping[str, torch.Tensor]
    names: Mapping[int, str]
    """Each node's site."""
    reply: TrainReply
    """An update of every module, without a site's name and a round's number."""
    ledger: LedgerHead
    authority: ec.EllipticCurvePrivateKey
    keys: Mapping[str, ec.EllipticCurvePrivateKey]
    """Each site's key; empty without the secure sum."""
    n_silent: int = 0
    """So many sites may be lost in a round."""

    @classmethod
    def of(cls, clients: int, *, secure: bool, rounds: int, n_silent: int = 0) -> ThinSites:
        """As many sites of a federation that trains the default study's model."""
        study = default_study()
        federation = FederationConfig(
            rounds=rounds, evaluate_every=0, centring_round=False, min_sites=clients - n_silent, secure=secure,
            round_deadline_seconds=NO_DEADLINE_SECONDS, stage_deadline_seconds=NO_DEADLINE_SECONDS,
        )  # fmt: skip
        plan = RoundPlan(model=study.model, train=study.train, federation=federation)
        model = make_model(plan.model, 0)
        layout = ModuleLayout.of(model)
        generator = torch.Generator().manual_seed(0)
        updates = {
            module: ModuleUpdate(1e-3 * torch.randn(layout.size(module), generator=generator), VISITS)
            for module in layout.modules
        }
        names = {FIRST_NODE + i: f"site-{i:04d}" for i in range(clients)}
        return cls(
            plan,
            layout,
            layout.flatten_all(model.state_dict()),
            names,
            TrainReply("", 0, "", updates, TrainingFigures(visits=VISITS, loss_sum=VISITS)),
            LedgerHead("", 1, "0" * 64),
            ec.generate_private_key(ec.SECP384R1()),
            {name: ec.generate_private_key(ec.SECP384R1()) for name in names.values()} if secure else {},
            n_silent,
        )

    def signed_roster(self) -> SignedRoster:
        """The roster as the server holds it."""
        texts = {
            name: key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            for name, key in self.keys.items()
        }
        entries = tuple(RosterSite(name=name, public_key=text.decode()) for name, text in texts.items())
        roster = Roster(federation="Scaling", serial=1, sites=entries)
        return SignedRoster(sign_roster(roster, self.authority), site_keys(roster))

    def run(self, grid: MessageGrid, watch: SiteWatch) -> list[TimedRound]:
        """Run all rounds on a clock that counts the server's own processor seconds.

        Raises AssertionError where a round loses other sites than the silent ones.
        """
        state, found = FederationState(0, self.weights), list[TimedRound]()
        roster = self.signed_roster() if self.keys else None
        federation = Federation(
            grid, Clock(watch.server_now), directory=lambda: self.names, roster=(lambda: roster) if roster else None
        )
        for _, record in run_rounds(federation, self.plan, self.layout, state):
            assert record.is_aggregated
            assert sum(site.rejected is not None for site in record.sites) <= self.n_silent
            found.append(TimedRound(record, watch.taken()))
        return found


@dataclass(frozen=True)
class TimedRound:
    """A round's record, and the processor seconds that each site that was watched took: stage -> site -> seconds."""

    record: RoundRecord
    sites: Mapping[str, Mapping[str, float]]


class SiteWatch:
    """The processor seconds that thin sites take in the server's process, by stage.

    The sites of a round answer one after another. Those of `watched`, by default all, are remembered one by one; what
    the others take is only left out of the server's time.
    """

    def __init__(self, watched: Collection[str] | None = None) -> None:
        self.watched = watched
        self._at_sites = 0.0
        self._seconds: dict[str, dict[str, float]] = defaultdict(dict)

    @contextmanager
    def at_site(self, stage: str, site: str) -> Iterator[None]:
        """Count the block as work of a site."""
        started = time.process_time()
        yield
        seconds = time.process_time() - started
        self._at_sites += seconds
        if self.watched is None or site in self.watched:
            self._seconds[stage][site] = seconds

    def answering(
        self, stage: str, names: Mapping[int, str], work: Callable[[Message, str], RecordDict]
    ) -> Callable[[Message, Context], Message]:
        """A client app's handler that answers with what `work` makes for the site, and is timed."""

        def handle(message: Message, context: Context) -> Message:
            with self.at_site(stage, names[context.node_id]):
                return Message(work(message, names[context.node_id]), reply_to=message)

        return handle

    def server_now(self) -> float:
        """The server's own processor seconds so far: the process's, less those of all sites."""
        return time.process_time() - self._at_sites

    def taken(self) -> Mapping[str, Mapping[str, float]]:
        """The seconds by stage and site since this was called last."""
        found, self._seconds = self._seconds, defaultdict(dict)
        return found


def round_figures(rounds: list[TimedRound], clients: int) -> Figures:
    """The figures of a round: the processor seconds of the server and, by stage, of the sites, and bytes.

    The first round is left out where there are others, since it imports and allocates.
    """
    kept = rounds[1:] or rounds
    own = [timed.record.seconds for timed in kept]
    by_stage: dict[str, list[float]] = defaultdict(list)
    totals: list[float] = []
    for timed in kept:
        of_site: dict[str, float] = defaultdict(float)
        for stage, found in timed.sites.items():
            by_stage[stage] += found.values()
            for site, seconds in found.items():
                of_site[site] += seconds
        totals += of_site.values()
    figures: dict[str, Any] = {
        "server_seconds": statistics.median(own),
        "values": own,
        # Sites work at the same time in the field: a round is as long as one of them.
        "site_seconds": statistics.median(totals),
        "site_seconds_most": max(totals),
        "stage_seconds": {stage: statistics.median(found) for stage, found in by_stage.items()},
    }
    for direction in ("bytes_down", "bytes_up"):
        figures[direction] = statistics.median(getattr(site, direction) for site in kept[-1].record.sites)
    return figures | {"bytes": clients * (figures["bytes_down"] + figures["bytes_up"])}
