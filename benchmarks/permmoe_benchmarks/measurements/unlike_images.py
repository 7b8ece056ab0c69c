"""What a model says of images unlike the training's, one change at a time, on synthetic test subjects.

    python benchmarks/unlike_images.py [--subjects 120] [--folder runs/benchmark-unlike-images]

Each test subject's image is predicted from alone, as it is and changed. Prints a table: median and largest change of
the prediction, CDR-SB points, among the images that were not refused, and how many were refused or flagged as unlike
the training's. The first rows, unchanged images, are the false alarms.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from permmoe.config import RunConfig, TrainConfig, read_config
from permmoe.data.adni import adni_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.manifest import write_manifest
from permmoe.data.splits import assign_splits
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import Visit, VisitTable
from permmoe.predict import TrainedModel, load_model, predict
from permmoe.runs import train_run
from permmoe_benchmarks.library.image_changes import CHANGES, Change

MODELS = {"ridge": Path("configs/models/ridge-permmoe.yaml"), "plain": None}
RECIPE = TrainConfig(epochs=48, batch_size=32, learning_rate=1e-3, modality_dropout=0.4)
TEST_SUBJECTS = 16


def main() -> None:
    """Train the two models once, change every image in every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-unlike-images"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    tests = _cohort(given.folder, CohortConfig(subjects=given.subjects, seed=given.seed))
    print("SYNTHETIC subjects; changes of the prediction in CDR-SB points")
    for name, file in MODELS.items():
        settings = read_config(file, RunConfig) if file else RunConfig(train=RECIPE)
        out = given.folder / name
        if not (out / "model").exists():
            train_run(given.folder / "manifest.csv", out, settings, cache=given.folder / "volumes")
        model = load_model(out / "model")
        print(f"\n{name}\n{'modality':8}  {'change':42} {'n':>3} {'median':>7} {'largest':>7} refused flagged  right")
        for modality in model.config.names:
            print(_row(model, Change(modality, "none", lambda image, rng: image, ""), tests, len(tests)))
        for change in CHANGES:
            print(_row(model, change, tests))


def _cohort(folder: Path, config: CohortConfig) -> VisitTable:
    """The test visits of a synthetic cohort, which is written first, with its manifest."""
    write_cohort(folder / "cohort", config)
    modalities = RunConfig().model.modalities
    visits, _ = adni_visits(folder / "cohort" / "clinical", folder / "cohort", TargetRule(), modalities)
    visits = visits.where(lambda visit: visit.delta_cdrsb is not None)
    write_manifest(visits, folder / "manifest.csv", modalities)
    return assign_splits(visits, RunConfig().split).where(lambda visit: visit.split == "test")


def _row(model: TrainedModel, change: Change, tests: VisitTable, most: int = TEST_SUBJECTS) -> str:
    """A line of the table: the change on every test subject who has the modality, up to a number."""
    source = change.source or change.modality
    subjects = [v for v in tests if {source, change.modality} <= v.volumes.keys()][:most]
    differences, refused, flagged = [], 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        cache = VolumeCache(Path(scratch) / "cache")
        for index, visit in enumerate(subjects):
            file = Path(scratch) / f"{visit.subject_id}_changed.nii.gz"
            image = change.image(nib.load(visit.volumes[source]), np.random.default_rng(index))
            nib.save(image, file)
            before, _ = predict(model, _alone(visit, change.modality, visit.volumes[change.modality]), cache)
            after, _ = predict(model, _alone(visit, change.modality, file), cache)
            if not after:
                refused += 1
                continue
            differences.append(after[0].delta_cdrsb - before[0].delta_cdrsb)
            flagged += bool(after[0].unlike_training)
    found = np.abs(differences) if differences else np.array([np.nan])
    return (
        f"{change.modality:8}  {change.name:42} {len(subjects):3} {np.median(found):7.2f} {found.max():7.2f} "
        f"{refused:7} {flagged:7}  {change.wanted}"
    )


def _alone(visit: Visit, modality: str, file: Path) -> VisitTable:
    """The visit with this one image and nothing else."""
    return VisitTable((replace(visit, volumes={modality: file}, tables={}),))
