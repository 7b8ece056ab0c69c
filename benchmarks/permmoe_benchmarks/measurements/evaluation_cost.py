"""What judging a finished model at hospitals costs beside a round that trains it there, plainly and by secure sum.

    python benchmarks/evaluation.py [--sites 10] [--rounds 5] [--members 5]

Patients are synthetic, and all hospitals are in one process, one after the other, as a round of the default study's
model is timed elsewhere. Both read the hospitals' images in their first round. Bytes are those of the model and of what
comes back. With `--members` the judged model is an ensemble of so many copies of the trained one, which costs what any
ensemble of that size does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import pandas as pd

from permmoe.ensemble import MEMBERS_KEY
from permmoe.federated.evaluation_config import EvaluationConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.runtime.provenance import machine, versions
from permmoe_benchmarks.library.cohort import prepared_cohort
from permmoe_benchmarks.library.scale import SCALES
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_server.studies.evaluation_file import read_evaluation_file
from permmoe_server.studies.evaluation_run import JUDGED_FOLDER
from permmoe_server.studies.judged_model import load_judged
from permmoe_simulation.engines.engine import run_federation
from permmoe_simulation.engines.federated_training import provisioned_sites, train_federation
from permmoe_simulation.studies.cell import split_and_partition
from permmoe_simulation.studies.partition import PartitionConfig, Sites
from permmoe_simulation.studies.study import Cell


def main() -> None:
    """Print a line for a plain study and one for a secure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--members", type=int, default=1)
    given = parser.parse_args()
    cell, data = prepared_cohort(SCALES["quick"])
    dealt = PartitionConfig.model_validate({"kind": "dirichlet", "sites": given.sites, "alpha": 10.0})
    print(f"{machine()}; {versions()}; {len(data.visits)} synthetic patients at {given.sites} hospitals, seed 0")
    for is_secure in (False, True):
        federation = cell.federation.model_dump() | {
            "evaluate_every": 0, "rounds": given.rounds, "secure": is_secure, "min_cell_count": 1, "min_sites": 3,
        }  # fmt: skip
        own = cell.model_copy(update={"partition": dealt, "federation": FederationConfig.model_validate(federation)})
        sites, _ = split_and_partition(data.visits, own)
        with tempfile.TemporaryDirectory() as folder:
            print(_line(own, sites, data.cache, Path(folder), given.members))


def _line(cell: Cell, sites: Sites, cache: Path, folder: Path, members: int) -> str:
    trained = train_federation(cell, sites, cache, folder / "training")
    rounds = pd.DataFrame(trained.rounds).groupby("round")
    seconds = rounds["round_seconds"].first()
    traffic = (rounds["bytes_down"].sum() + rounds["bytes_up"].sum()).median()
    model = _copies(folder / "training" / "server" / "model", folder / "copies", members)
    judging, asked = _judging_seconds(cell, sites, cache, folder / "judging", model)
    kind = "secure sum" if cell.federation.secure else "plain"
    return (
        f"{kind}, {members} member(s): judged in {judging:.1f} s by {asked} hospitals; the first round, which reads "
        f"images, takes {seconds.iloc[0]:.1f} s (ratio {judging / seconds.iloc[0]:.2f}), a later one "
        f"{median(seconds.iloc[1:]):.1f} s (ratio {judging / median(seconds.iloc[1:]):.2f}; {traffic / 1e6:.1f} MB)"
    )


def _copies(model: Path, folder: Path, members: int) -> Path:
    """The folder of an ensemble of so many of a model; of one the model's own."""
    if members == 1:
        return model
    state, card = load_checkpoint(model)
    copies = {f"members.{i}.{name}": tensor.clone() for i in range(members) for name, tensor in state.items()}
    save_checkpoint(folder, copies, {**card, MEMBERS_KEY: members})
    return folder


def _judging_seconds(cell: Cell, sites: Sites, cache: Path, folder: Path, model: Path) -> tuple[float, int]:
    """The seconds from the first question to the figures, and how many hospitals answered."""
    judged = load_judged(model)
    kept = ("secure", "min_sites", "min_cell_count", "min_cohort_difference")
    plan = RoundPlan.model_validate(
        {
            "name": "judging", "is_synthetic": True, "model": judged.config,
            "federation": {name: getattr(cell.federation, name) for name in kept},
            "evaluation": EvaluationConfig(visits="all", model_sha256=judged.packed.digest(), members=judged.members),
        }
    )  # fmt: skip
    out = folder / "server"
    out.mkdir(parents=True)
    (out / JUDGED_FOLDER).symlink_to(model.absolute())
    (folder / "plan.json").write_text(plan.canonical_json())
    files, keys = provisioned_sites(cell, sites, cache, folder / "provisioned", plan)
    run_federation(
        server_app,
        client_app,
        [{"site-config": str(file.absolute())} for file in files.values()],
        {"plan": str(folder / "plan.json"), "out": str(out), **keys},
    )
    found = read_evaluation_file(out)
    return found.seconds, len(found.sites)
