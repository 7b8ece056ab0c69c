"""FLAIR and PET that follow a T1, moved off it on purpose: what the verdicts say. SYNTHETIC heads.

    python benchmarks/prepare_led.py [--subjects 40] [--workers 2] [--folder FOLDER]

Writes a raw synthetic cohort, prepares it, and compares each map from T1 to scan with the true one. Then every scan is
prepared again as if it had been registered 2 to 40 mm off, and as many degrees, and judged by the limits alone. The
invented brains have uptake of all degrees, which heads that packages ship do not. Work that is finished is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.cohort.settings import RawConfig
from permmoe.data.image_file import BrokenVolume
from permmoe.preparation.derivatives import Derivative, subject_label
from permmoe.preparation.folder import prepare_folder
from permmoe.preparation.images.image import Image, Matrix
from permmoe.preparation.images.prepare import LeadingT1, PreparedImage, prepare_flair, prepare_pet
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe.preparation.quality.roc import Trial, account
from permmoe.preparation.settings import PreparationSettings
from permmoe.preparation.subject import read_frames
from permmoe.runtime.provenance import versions
from permmoe.runtime.workers import worker_pool
from permmoe_benchmarks.library.machine import described_machine
from permmoe_benchmarks.library.places import DISPLACEMENTS_MM, displacement, errors_mm
from permmoe_benchmarks.measurements.preparation_alone import account_text

SETTINGS = PreparationSettings()
BEYOND_MM = 10.0
MODALITIES = ("flair", "amyloid", "tau")


@dataclass(frozen=True)
class Led:
    """A scan that followed a T1: as it was prepared first, then moved."""

    modality: str
    trials: tuple[Trial, ...]
    refused: int
    """Of the moved ones, how many the preparation itself refused: nothing of the reference region was in the scan."""


def main() -> None:
    """Prepare and judge what is not finished, and print a row for each modality."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the cohort")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-prepare-led"))
    given = parser.parse_args()
    raw, prepared = given.folder / "raw", given.folder / "prepared"
    cohort = CohortConfig(subjects=given.subjects, seed=given.seed, raw=RawConfig())
    write_cohort(raw, cohort, workers=given.workers)
    images = prepare_folder(raw, prepared, SETTINGS, workers=given.workers).images
    led = list(_all_led(raw, [derivative for derivative, _ in images], given.folder / "trials.jsonl", given.workers))
    print(json.dumps({"versions": versions(), "machine": described_machine()}))
    print(f"SYNTHETIC heads, cohort of seed {given.seed}")
    for modality in MODALITIES:
        _print([one for one in led if one.modality == modality], modality)


def _print(led: list[Led], modality: str) -> None:
    if not led:
        return
    errors = np.array([one.trials[0].true_error_mm for one in led])
    found = account([trial for one in led for trial in one.trials], BEYOND_MM)
    print(
        f"\n{modality}: {len(led)} scans, off their T1 by {np.median(errors):.2f} mm (median), "
        f"{np.percentile(errors, 95):.2f} (95th percentile), {errors.max():.2f} (largest)\n"
        f"beyond {BEYOND_MM:g} mm: {account_text(found)}; {sum(one.refused for one in led)} more were refused before"
    )


def _all_led(raw: Path, derivatives: list[Derivative], file: Path, workers: int) -> Iterator[Led]:
    t1s = {d.scan.subject_id: d for d in derivatives if d.scan.modality == "t1"}
    jobs = [(d, t1s[d.scan.subject_id]) for d in derivatives if d.follows_t1 and d.scan.modality != "t1"]
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {line["image"]: line for line in lines}
    with worker_pool(workers, threads=1) as pool, file.open("a") as out:
        waiting = {
            d.image.name: pool.submit(led_trials, raw, d, t1, seed)
            for seed, (d, t1) in enumerate(jobs)
            if d.image.name not in known
        }
        for number, (name, future) in enumerate(waiting.items(), start=1):
            trials = [{"error_mm": t.true_error_mm, "metrics": asdict(t.metrics)} for t in future.result()]
            known[name] = {"image": name, "trials": trials}
            out.write(json.dumps(known[name]) + "\n")
            out.flush()
            print(f"\r{number} of {len(waiting)}", end="", flush=True)
    for derivative, _ in jobs:
        trials = known[derivative.image.name]["trials"]
        judged = tuple(Trial(ImageMetrics(**t["metrics"]), t["error_mm"]) for t in trials)
        yield Led(derivative.scan.modality, judged, 1 + len(DISPLACEMENTS_MM) - len(judged))


def led_trials(raw: Path, led: Derivative, t1: Derivative, seed: int) -> list[Trial]:
    """A scan as it was prepared, and as it would be if it had been registered off its T1, mm over the brain.

    Places at which the preparation refuses the scan are left out.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    grid = SETTINGS.grid
    leading, found = LeadingT1(t1.load(grid), read_frames(t1.scan)[0]), led.load(grid)
    off = _t1_to_scan(raw, t1, led, leading.prepared.matrix, found.matrix)
    trials = [Trial(led.metrics, float(errors_mm(off, np.eye(4)).mean()))]
    for by in DISPLACEMENTS_MM:
        wrong = displacement(by, seed)
        try:
            moved = _registered_at(led, leading, found, wrong)
        except BrokenVolume:
            continue
        error = float(errors_mm(off @ wrong, np.eye(4)).mean())
        trials.append(Trial(metrics_of(moved, led.scan.modality, grid, leading.prepared), error))
    return trials


def _registered_at(led: Derivative, t1: LeadingT1, found: PreparedImage, wrong: Matrix) -> PreparedImage:
    """The scan, prepared as if its registration had ended in another place."""
    scan, grid, matrix = led.scan, SETTINGS.grid, found.matrix @ wrong
    # With millimetres that are the template's by the wrong map, so that all else is done as ever.
    frames = [Image(f.voxels, np.linalg.inv(matrix) @ f.affine) for f in map(Image.canonical, read_frames(scan))]
    if scan.modality == "flair":
        there = prepare_flair(frames[0], grid, t1, is_registered=True)
    else:
        seconds = scan.frames.durations_seconds if scan.frames else (1.0,) * len(frames)
        region = SETTINGS.region(scan.modality, scan.tracer)
        there = prepare_pet(frames, seconds, region, grid, t1, is_registered=True)
    return replace(there, matrix=matrix, measured=replace(there.measured, lead=found.measured.lead))


def _t1_to_scan(raw: Path, t1: Derivative, led: Derivative, of_t1: Matrix, of_scan: Matrix) -> Matrix:
    """Where the maps of a T1 and of a scan put a point of the template, one against the other: the identity if right.

    The truth is the cohort's, which lays the same brain into both scanners.
    """
    label = subject_label(led.scan.subject_id)
    truth = json.loads((raw / "truth" / "raw" / f"sub-{label}.json").read_text())

    def true(derivative: Derivative) -> Float64[np.ndarray, "4 4"]:
        return np.array(truth[derivative.scan.modality]["scanner_mm_to_template_mm"][0])

    return np.asarray(np.linalg.inv(true(t1) @ of_t1) @ (true(led) @ of_scan))
