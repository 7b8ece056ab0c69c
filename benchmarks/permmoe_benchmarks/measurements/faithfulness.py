"""Whether the places that a prediction is said to come from are those that it depends on, on synthetic subjects.

    python benchmarks/faithfulness.py [--seeds 10 11 12 13] [--subjects 120] [--out docs/reasons.md]

Each seed is a cohort, a split and a training. Of each test visit the regions with the largest values are deleted, one,
three and five of them, of those that raise the prediction, or lower it where all together do. What that changes is held
against deleting random balls of the same size, and the regions in which the scan differs most from the average, which
no model is needed to find. Of visits with two scans or more, the scan with the largest value is withheld, against any
other one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from permmoe.config import DEFAULT_RUN, RunConfig, read_config
from permmoe.data.adni import adni_visits
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.dataset import VisitData
from permmoe.data.manifest import read_manifest, write_manifest
from permmoe.data.outcomes import Outcomes, read_outcomes
from permmoe.data.splits import assign_splits
from permmoe.data.target_rule import TargetRule
from permmoe.ensemble import Network
from permmoe.explanation import places as explained
from permmoe.explanation.atlas import OUTSIDE, REGIONS, cell_shares
from permmoe.explanation.modalities import added
from permmoe.explanation.places import average_input
from permmoe.explanation.reasons import expectation
from permmoe.layers.encoders import fixed_stem, pooled_cells
from permmoe.predict import TrainedModel, load_model
from permmoe.runs import train_run
from permmoe.runtime.checkpoint_card import read_checked
from permmoe_benchmarks.library.deletion import Place, deleted_balls, deleted_regions, predictions_without
from permmoe_benchmarks.pages.reasons import reasons_page

MODELS = {"PerM-MoE": None, "PerM-MoE with a ridge": Path("configs/models/ridge-permmoe.yaml")}
DELETED = (1, 3, 5)
"""Regions of a visit that are deleted together."""
BALLS = 20
"""Random deletions beside each."""

TWICE = 10
"""So many visits of a seed are explained with two samples of orders."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Found:
    """Means over a seed's test visits, points."""

    model: str
    seed: int
    visits: int
    seconds: float
    """Of explaining and deleting."""
    figures: Figures


def main() -> None:
    """Train the models of every seed, delete, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
    parser.add_argument("--subjects", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-faithfulness"))
    parser.add_argument("--out", type=Path, help="the page to write; without it, it is printed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = [one for seed in given.seeds for one in _of_seed(given.folder / str(seed), seed, given.subjects)]
    page = reasons_page(
        [(one.model, one.figures) for one in found],
        seeds=given.seeds, subjects=given.subjects, visits=sum(one.visits for one in found) // len(MODELS),
        minutes=sum(one.seconds for one in found) / 60,
    )  # fmt: skip
    if given.out:
        given.out.write_text(page)
    print(page)


def _of_seed(folder: Path, seed: int, subjects: int) -> list[Found]:
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        write_cohort(folder / "cohort", CohortConfig(subjects=subjects, seed=seed))
        modalities = RunConfig().model.modalities
        visits, _ = adni_visits(folder / "cohort" / "clinical", folder / "cohort", TargetRule(), modalities)
        visits = visits.where(lambda visit: visit.delta_cdrsb is not None)
        split = RunConfig().split.model_copy(update={"seed": seed})
        write_manifest(assign_splits(visits, split), manifest, modalities)
    found = []
    for number, (name, file) in enumerate(MODELS.items()):
        settings = read_config(file, RunConfig) if file else DEFAULT_RUN
        settings = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})})
        out = folder / str(number)
        if not (out / "model").exists():
            train_run(manifest, out, settings, cache=folder / "volumes")
        found.append(_measured(name, seed, out / "model", folder))
    return found


def _measured(name: str, seed: int, model_folder: Path, folder: Path) -> Found:
    model = load_model(model_folder)
    outcomes = read_outcomes(read_checked(model_folder)[1], str(model_folder))
    visits, _ = read_manifest(folder / "manifest.csv", model.config.modalities)
    tests = visits.where(lambda visit: visit.split == "test")
    data, _ = VisitData.load(tests, model.config, VolumeCache(folder / "volumes"), stem=fixed_stem(model.config))
    rng, began = np.random.default_rng(seed), perf_counter()
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for row in range(len(data)):
        batch = data.batch(torch.tensor([row]))
        of_visit = _of_places(model.network, batch, rng, has_noise=row < TWICE) | _of_modalities(
            model, outcomes, batch, rng
        )
        for key, value in of_visit.items():
            figures[key].append(value)
    seconds = perf_counter() - began
    return Found(name, seed, len(data), seconds, {key: float(np.mean(values)) for key, values in figures.items()})


def _of_places(network: Network, batch: Batch, rng: np.random.Generator, *, has_noise: bool) -> Figures:
    """Absolute changes of the prediction after each deletion, and how far two samples of orders are apart."""
    found = explained.places(network, batch, lambda changes: changes)
    assert found is not None
    values = {(m, r): v for m, parts in found.parts.items() for r, v in parts.items() if r != OUTSIDE}
    # Of one sign, that of their sum: what raises the prediction and what lowers it would hide each other.
    sign = 1 if sum(values.values()) > 0 else -1
    by_value = sorted(values, key=lambda place: -sign * values[place])
    odd = _differences(network, batch)
    by_difference = sorted(values, key=lambda place: -odd[place])
    figures: Figures = {}
    for n in DELETED:
        chosen = by_value[:n]
        deletions = [deleted_regions(network, chosen), deleted_regions(network, by_difference[:n])]
        deletions += [deleted_balls(network, chosen, rng) for _ in range(BALLS)]
        after = predictions_without(network, batch, deletions)
        moved = (after - network(batch).prediction.detach()).abs().tolist()
        figures |= {f"top {n}": moved[0], f"odd {n}": moved[1], f"random {n}": float(np.mean(moved[2:]))}
    if has_noise:
        again = explained.places(network, batch, lambda changes: changes, seed=explained.SEED + 1)
        assert again is not None
        largest = by_value[: max(DELETED)]
        figures["size"] = float(np.mean([abs(values[place]) for place in largest]))
        figures["noise"] = float(np.mean([abs(values[m, r] - again.parts[m][r]) for m, r in largest]))
    return figures


def _differences(network: Network, batch: Batch) -> dict[Place, float]:
    """How far each region of each scan is from the average, in root mean squares of the scan's own differences."""
    shares = cell_shares(network.config.grid, pooled_cells(network.config))
    found = {}
    for modality in network.config.modalities:
        if (own := batch.inputs.get(modality.name)) is None:
            continue
        average = average_input(network, modality)
        assert average is not None
        squares: Tensor = (own - average)[0, 0].square()
        squares = squares / squares.mean()
        sizes = shares.sum((1, 2, 3))
        for place, region in enumerate(REGIONS):
            found[modality.name, region] = float((shares[place] * squares).sum() / sizes[place])
    return found


def _of_modalities(model: TrainedModel, outcomes: Outcomes | None, batch: Batch, rng: np.random.Generator) -> Figures:
    """Absolute changes of the prediction where the scan of the largest value is withheld, and where another one is."""
    network = model.network
    names = [name for name, has in zip(network.config.names, batch.observed[0].tolist(), strict=True) if has]
    if len(names) < 2:
        return {}
    expected, mean_score, _ = expectation(model, float(batch.baseline[0]), outcomes)
    with torch.no_grad():
        encoded = network.encode(batch)
        shares = added(network, encoded, expected, mean_score, lambda change, score: change)
        first = max(names, key=lambda name: abs(shares.modalities[name]))
        other = str(rng.choice([name for name in names if name != first]))
        kept = torch.tensor([[n in names and n != gone for n in network.config.names] for gone in (first, other)])
        rows = encoded.keeping(torch.zeros(2, dtype=torch.long), kept)
        moved = (network.fuse(rows).prediction - network.fuse(encoded).prediction).abs().tolist()
    return {"top scan": moved[0], "other scan": moved[1]}
