"""Which encoder learns most in a second: accuracy on held-out synthetic subjects beside training time, over seeds.

    python benchmarks/encoders.py [--subjects 800] [--seeds 3] [--encoders pooled,sfcn_lite] [--epochs sfcn_lite=12]

Prints one JSON object. For each encoder and seed it has the mean R² over the 15 combinations and the R² with all four
modalities, both on test visits, and the seconds of training on one thread. The data are synthetic.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from permmoe.config import EncoderConfig, ModelConfig, SplitConfig, TrainConfig
from permmoe.data.adni import adni_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.dataset import VisitData
from permmoe.data.splits import assign_splits
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import VisitTable
from permmoe.evaluation.combinations import combination_sums
from permmoe.layers.encoders import fixed_stem
from permmoe.runtime.provenance import machine, versions
from permmoe.training.fit import fit
from permmoe.training.seeds import make_model

EPOCHS = {"pooled": 60, "sfcn_lite": 20, "sfcn": 12, "cnn": 6}
"""Fewer passes for slower encoders, so that each has a comparable chance in a bounded time."""


def main() -> None:
    """Measure each encoder with each seed and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoders", default=",".join(EPOCHS))
    parser.add_argument("--epochs", default="", help="ENCODER=EPOCHS, comma-separated")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-encoders"))
    given = parser.parse_args()
    epochs = EPOCHS | {name: int(n) for name, n in (pair.split("=") for pair in given.epochs.split(",") if pair)}
    torch.set_num_threads(1)
    config = CohortConfig(subjects=given.subjects)
    write_cohort(given.folder / "cohort", config)
    visits, _ = adni_visits(
        given.folder / "cohort" / "clinical", given.folder / "cohort", TargetRule(), ModelConfig().modalities
    )
    visits = visits.where(lambda visit: visit.delta_cdrsb is not None)
    cache = VolumeCache(given.folder / "cache")
    measured = {
        name: [_accuracy(visits, name, epochs[name], seed, cache) for seed in range(given.seeds)]
        for name in given.encoders.split(",")
    }
    report = {
        "data": "synthetic",
        "cohort": config.digest(),
        "versions": versions(),
        "machine": machine(),
        "encoders": measured,
    }
    print(json.dumps(report, indent=1))


def _accuracy(visits: VisitTable, name: str, epochs: int, seed: int, cache: VolumeCache) -> dict[str, float]:
    model_config = ModelConfig(encoder=EncoderConfig.model_validate({"kind": name}))
    table = assign_splits(visits, SplitConfig(seed=seed))
    data, _ = VisitData.load(table, model_config, cache, stem=fixed_stem(model_config))
    model = make_model(model_config, seed)
    started = time.perf_counter()
    fit(model, data.part("train"), data.part("validation"), TrainConfig(seed=seed, epochs=epochs))
    seconds = time.perf_counter() - started
    sums = list(combination_sums(model, data.part("test")).values())
    mean_r2 = float(np.nanmean([s.r2 for s in sums]))
    return {
        "seed": seed,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "mean_r2": round(mean_r2, 3),
        "all_r2": round(sums[-1].r2, 3),
    }
