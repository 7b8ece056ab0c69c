"""A simulated round of the default study beside its local training, all hospitals in one process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permmoe.federated.federation_config import FederationConfig
from permmoe_benchmarks.library.cohort import prepared_cohort
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures
from permmoe_simulation.engines.cell_federation import train_federation
from permmoe_simulation.studies.cell import split_and_partition

WARM_UPS, ROUNDS = 2, 8
"""In the rounds of the warm-up sites read their data."""


@dataclass(frozen=True)
class SimulatedRounds:
    """What rounds after the warm-up took."""

    seconds: float
    """The mean time of a round, checkpoints included, s."""
    rows: list[dict[str, Any]]
    """A row for each round and site, of the columns of `rounds.csv`."""
    sites: int
    rounds: int

    def mean(self, column: str) -> float:
        """A round's mean of a column, summed over its sites."""
        return sum(float(row[column]) for row in self.rows) / self.rounds


def simulate_rounds(scale: Scale) -> SimulatedRounds:
    """Train the default study's federation without evaluation, and time the rounds after the warm-up."""
    cell, data = prepared_cohort(scale)
    federated = cell.federation.model_dump() | {"evaluate_every": 0, "min_cell_count": 1, "rounds": WARM_UPS + ROUNDS}
    cell = cell.model_copy(update={"federation": FederationConfig.model_validate(federated)})
    sites, _ = split_and_partition(data.visits, cell)
    with tempfile.TemporaryDirectory() as folder:
        federation = train_federation(cell, sites, data.cache, Path(folder))
    rows = [row for row in federation.rounds if row["round"] > WARM_UPS]
    seconds = sum(row["round_seconds"] for row in rows) / len(sites) / ROUNDS
    return SimulatedRounds(seconds, rows, len(sites), ROUNDS)


def simulated_round(scale: Scale) -> Figures:
    """Return the seconds of a round and of its local training, and the overhead as a share of the training."""
    rounds = simulate_rounds(scale)
    training = rounds.mean("train_seconds")
    return {
        "seconds": rounds.seconds,
        "training_seconds": training,
        "sites": rounds.sites,
        "overhead": rounds.seconds / training - 1,
    }


SIDES = {"simulation": Measurement(simulated_round)}
