"""A simulated round of the default study beside its local training, all hospitals in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe_benchmarks.library.cohort import prepared_cohort
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures
from permmoe_client.app import app as client_app
from permmoe_server.app import make_app
from permmoe_server.protocol.federation import RoundObserver
from permmoe_server.protocol.round_records import FederationState, RoundRecord, SiteTraining
from permmoe_simulation.engines.engine import run_federation
from permmoe_simulation.engines.federated_training import write_site
from permmoe_simulation.studies.cell import split_and_partition

WARM_UPS, ROUNDS = 2, 8
"""In the rounds of the warm-up sites read their data."""


@dataclass(frozen=True)
class SimulatedRounds:
    """The rounds after the warm-up."""

    records: tuple[RoundRecord, ...]
    seconds: float
    """The mean time from the end of a round to the end of the next, checkpoint and round log included, s."""

    @property
    def sites(self) -> int:
        """How many hospitals take part."""
        return len(self.records[0].sites)

    def mean(self, part: Callable[[RoundRecord], float | None]) -> float:
        """The mean over rounds of a part of their time, s."""
        return sum(part(record) or 0.0 for record in self.records) / len(self.records)

    def site_mean(self, part: Callable[[SiteTraining], float]) -> float:
        """The mean over rounds of a part of their sites' time, summed over sites, s."""
        return self.mean(lambda record: sum(part(site.training) for site in record.sites if site.training))


def simulate_rounds(scale: Scale) -> SimulatedRounds:
    """Train the default study's federation without evaluation, and time the rounds after the warm-up."""
    cell, data = prepared_cohort(scale)
    federated = cell.federation.model_dump() | {"evaluate_every": 0, "min_cell_count": 1, "rounds": WARM_UPS + ROUNDS}
    cell = cell.model_copy(update={"federation": FederationConfig.model_validate(federated)})
    plan = RoundPlan(model=cell.model, train=cell.train, federation=cell.federation)
    sites, _ = split_and_partition(data.visits, cell)
    ended: list[float] = []
    records: list[RoundRecord] = []

    def note_round(state: FederationState, record: RoundRecord) -> None:
        ended.append(time.perf_counter())
        records.append(record)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan.json").write_text(plan.canonical_json())
        files = [write_site(site, cell, sites, data.cache, folder / site, plan) for site in sites]
        run_federation(
            make_app(RoundObserver(on_round=note_round)),
            client_app,
            [{"site-config": str(file)} for file in files],
            {"plan": str(folder / "plan.json"), "out": str(folder / "server")},
        )
    return SimulatedRounds(tuple(records[WARM_UPS:]), (ended[-1] - ended[WARM_UPS - 1]) / ROUNDS)


def simulated_round(scale: Scale) -> Figures:
    """Return the seconds of a round and of its local training, and the overhead as a share of the training."""
    rounds = simulate_rounds(scale)
    training = rounds.site_mean(lambda site: site.figures.train_seconds)
    return {
        "seconds": rounds.seconds,
        "training_seconds": training,
        "sites": rounds.sites,
        "overhead": rounds.seconds / training - 1,
    }


SIDES = {"simulation": Measurement(simulated_round)}
