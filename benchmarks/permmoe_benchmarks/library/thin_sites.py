"""A federation of THIN sites: they answer with an update that was made beforehand, and train nothing.

What is measured with them is the protocol. Every one of their updates has every module of the default study's model.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from permmoe_server.protocol.federation import Federation, MessageGrid, SignedRoster
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

    @classmethod
    def of(cls, clients: int, *, secure: bool, rounds: int) -> ThinSites:
        """As many sites of a federation that trains the default study's model."""
        study = default_study()
        federation = FederationConfig(
            rounds=rounds, evaluate_every=0, centring_round=False, min_sites=clients, secure=secure,
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
        """Run all rounds. Raises AssertionError where a round loses a site."""
        state, found, before = FederationState(0, self.weights), list[TimedRound](), 0.0
        roster = self.signed_roster() if self.keys else None
        federation = Federation(grid, directory=lambda: self.names, roster=(lambda: roster) if roster else None)
        for _, record in run_rounds(federation, self.plan, self.layout, state):
            assert record.is_aggregated and all(site.rejected is None for site in record.sites)
            found.append(TimedRound(record, watch.total() - before))
            before = watch.total()
        return found


@dataclass(frozen=True)
class TimedRound:
    """A round's record and the seconds that its sites took."""

    record: RoundRecord
    site_seconds: float


@dataclass
class SiteWatch:
    """The seconds that thin sites take, by stage. The clients of a round answer one after another."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def answering(
        self, stage: str, names: Mapping[int, str], work: Callable[[Message, str], RecordDict]
    ) -> Callable[[Message, Context], Message]:
        """A client app's handler that answers with what `work` makes for the site, and is timed."""

        def handle(message: Message, context: Context) -> Message:
            started = time.perf_counter()
            answer = Message(work(message, names[context.node_id]), reply_to=message)
            self.seconds[stage].append(time.perf_counter() - started)
            return answer

        return handle

    def total(self) -> float:
        """The seconds of all sites so far."""
        return sum(sum(found) for found in self.seconds.values())


def round_figures(rounds: list[TimedRound], watch: SiteWatch, clients: int) -> Figures:
    """The figures of a round: the server's own seconds, the sites' by stage, and bytes.

    The first round is left out where there are others, since it imports and allocates.
    """
    kept = rounds[1:] or rounds
    own = [timed.record.seconds - timed.site_seconds for timed in kept]
    # Sites work at the same time in the field: a stage is as long as one of them, the median.
    stages = {stage: statistics.median(found) for stage, found in watch.seconds.items()}
    figures: dict[str, Any] = {
        "server_seconds": statistics.median(own),
        "values": own,
        "site_seconds": sum(stages.values()),
        "stage_seconds": stages,
        "in_one_process_seconds": statistics.median(timed.record.seconds for timed in kept),
    }
    for direction in ("bytes_down", "bytes_up"):
        figures[direction] = statistics.median(getattr(site, direction) for site in kept[-1].record.sites)
    return figures | {"bytes": clients * (figures["bytes_down"] + figures["bytes_up"])}
