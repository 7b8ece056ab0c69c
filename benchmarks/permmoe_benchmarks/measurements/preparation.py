"""How well the preparation does on heads that it has not seen, in poses and on scanners that are drawn.

    python benchmarks/prepare.py [--poses 50] [--alone 4] [--phantoms 10] [--workers 1] [--folder FOLDER]

1. Heads that packages ship, each in many poses (permmoe_benchmarks.library.heads). A pose is known, so that all
   preparations of one head can be brought back to one place: how far do points of the brain lie from their median?
2. Predictions from each of these images by models that were trained on a SYNTHETIC cohort (benchmarks/unlike_images.py
   trains the same): how far do they lie from the head's median?
3. Verdicts: the same preparations moved away from where they belong, and the sound ones: what passes, what is flagged?
4. The same heads as FLAIR and as PET, without a T1 (permmoe_benchmarks.measurements.preparation_alone).
5. PET phantoms of known uptake: how far are the uptake ratios off?

Every image is one line of `trials.jsonl`: a benchmark that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float

from permmoe.data.cache import VolumeCache
from permmoe.data.cohort.raw.pose import mapped
from permmoe.data.image_file import BrokenVolume
from permmoe.data.template import read_template
from permmoe.data.visits import Visit, VisitTable
from permmoe.predict import load_model, predict
from permmoe.preparation.images.image import Image, on_grid, template_image
from permmoe.preparation.images.prepare import LeadingT1, Measured, PreparedImage, prepare_pet, prepare_t1
from permmoe.preparation.quality.limits import MEASURES
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe.preparation.quality.roc import Trial, account, curve
from permmoe.preparation.quality.rules import judge_alone
from permmoe.preparation.settings import PreparationSettings
from permmoe.runtime.provenance import versions
from permmoe.runtime.workers import worker_pool
from permmoe_benchmarks.library.heads import Head, find_heads, perturbed
from permmoe_benchmarks.library.machine import described_machine
from permmoe_benchmarks.library.places import DISPLACEMENTS_MM, brain_points, displacement, errors_mm
from permmoe_benchmarks.library.uptake_phantom import uptake_phantom
from permmoe_benchmarks.measurements.preparation_alone import KINDS, account_text, alone_trial, print_alone

SETTINGS = PreparationSettings()
MODELS = Path("runs/benchmark-unlike-images")


def main() -> None:
    """Prepare what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poses", type=int, default=50, help="of each head")
    parser.add_argument("--heads", default="colin27,mni152")
    parser.add_argument("--alone", type=int, default=4, help="poses of each head as FLAIR, and as PET, without a T1")
    parser.add_argument("--phantoms", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-prepare"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    names = [head.name for head in find_heads(given.heads.split(","))]
    jobs = [("head", name, seed) for name in names for seed in range(given.poses)]
    jobs += [(kind, name, seed) for kind in KINDS for name in names for seed in range(given.alone)]
    jobs += [("phantom", "", seed) for seed in range(given.phantoms)]
    trials = _done(given.folder, jobs, given.workers)
    print(json.dumps({"versions": versions(), "machine": described_machine()}))
    heads = [t for t in trials if t["kind"] == "head" and "matrix" in t]
    print(f"{len(heads)} of {sum(t['kind'] == 'head' for t in trials)} heads were prepared; others were refused")
    _print_registration(heads)
    _print_predictions(heads, given.folder)
    _print_verdicts(heads)
    print_alone([t for t in trials if t["kind"] in KINDS], heads)
    _print_uptake([t for t in trials if t["kind"] == "phantom"])


def trial(kind: str, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One image, prepared and measured, as a line of `trials.jsonl`."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    begun = {"kind": kind, "name": name, "seed": seed}
    if kind == "phantom":
        return begun | _phantom_trial(seed)
    head = find_heads([name])[0]
    return begun | (alone_trial(kind, head, seed) if kind in KINDS else _head_trial(head, seed, folder))


def _done(folder: Path, jobs: Sequence[tuple[str, str, int]], workers: int) -> list[dict[str, Any]]:
    file = folder / "trials.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(line["kind"], line["name"], line["seed"]): line for line in lines}
    waiting = [job for job in jobs if job not in known]
    with worker_pool(workers, threads=1) as pool, file.open("a") as out:
        futures = {job: pool.submit(trial, *job, folder) for job in waiting}
        for number, (job, future) in enumerate(futures.items(), start=1):
            known[job] = future.result()
            out.write(json.dumps(known[job]) + "\n")
            out.flush()
            print(f"\r{number} of {len(waiting)}", end="", flush=True)
    print()
    return [known[job] for job in jobs]


def _head_trial(head: Head, seed: int, folder: Path) -> dict[str, Any]:
    image, to_original = perturbed(head, seed)
    scan = Image(np.asarray(image.get_fdata(dtype=np.float32)), np.asarray(image.affine, np.float64))
    begun = time.perf_counter()
    try:
        found = prepare_t1(scan, SETTINGS.grid)
    except BrokenVolume as broken:
        return {"refused": str(broken.reason)}
    seconds = time.perf_counter() - begun
    file = folder / f"{head.name}-{seed}_desc-brain_T1w.nii.gz"
    written = nib.Nifti1Image(found.image.voxels, found.image.affine)
    written.set_sform(found.image.affine, code="mni")
    nib.save(written, file)
    moved = [_displaced(found, by, seed) for by in DISPLACEMENTS_MM]
    return {
        "matrix": (to_original @ found.matrix).tolist(),
        "seconds": seconds,
        "file": file.name,
        "metrics": asdict(metrics_of(found, "t1", SETTINGS.grid)),
        "moved": moved,
    }


def _displaced(found: PreparedImage, by: float, seed: int) -> dict[str, Any]:
    """What the metrics say of a preparation that is off by so many millimetres and degrees, in a drawn direction."""
    wrong = displacement(by, seed)
    image, mask = (on_grid(part, SETTINGS.grid, wrong) for part in (found.image, found.mask))
    measured = replace(found.measured, agreement=_agreement(image))
    shifted = PreparedImage(image, mask, found.matrix @ wrong, found.follows_t1, measured)
    error = float(errors_mm(wrong, np.eye(4)).mean())
    return {"error_mm": error, "metrics": asdict(metrics_of(shifted, "t1", SETTINGS.grid))}


def _agreement(image: Image) -> float:
    """The registration's own figure of an image in a place where no registration put it."""
    template = on_grid(template_image(read_template("t1")), SETTINGS.grid, np.eye(4)).voxels
    inside = (template > 0) | (image.voxels > 0)
    return float(np.corrcoef(template[inside], image.voxels[inside])[0, 1] ** 2)


def _phantom_trial(seed: int) -> dict[str, Any]:
    phantom = uptake_phantom(seed)
    grid = SETTINGS.grid
    template = on_grid(template_image(read_template("t1")), grid, np.eye(4))
    mask = template.with_voxels((template.voxels > 0).astype(np.float32))
    t1 = LeadingT1(
        PreparedImage(template, mask, np.eye(4), True, Measured(1.0, 1.0)), template_image(read_template("t1"))
    )
    scan = Image(np.asarray(phantom.image.get_fdata(dtype=np.float32)), np.asarray(phantom.image.affine, np.float64))
    begun = time.perf_counter()
    found = prepare_pet([scan], [1200.0], SETTINGS.region("amyloid", ""), grid, t1)
    seconds = time.perf_counter() - begun
    ratios, affine = phantom.true_ratios()
    true = on_grid(Image(np.asarray(ratios, np.float32), affine), grid, np.eye(4)).voxels
    grey = on_grid(template_image(read_template("gm")), grid, np.eye(4)).voxels
    heights = found.image.affine[2, 3] + SETTINGS.spacing_mm * np.arange(grid.shape[2])
    cortex = (grey > 0.7) & (heights > 0)
    got, wanted = float(found.image.voxels[cortex].mean()), float(true[cortex].mean())
    error = errors_mm(found.matrix, np.linalg.inv(phantom.to_template))
    return {"seconds": seconds, "suvr": got, "true_suvr": wanted, "error_mm": float(error.mean())}


@dataclass(frozen=True)
class _Placed:
    """One head's preparations, brought back to the original head."""

    name: str
    errors_mm: Float[np.ndarray, "trial point"]
    """How far each point lies from the median over the head's poses."""


def _by_head(trials: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for name in sorted({str(t["name"]) for t in trials}):
        yield name, [t for t in trials if t["name"] == name]


def _placed(name: str, own: Sequence[Mapping[str, Any]]) -> _Placed:
    places = np.stack([mapped(np.array(t["matrix"]), brain_points()) for t in own])
    return _Placed(name, np.linalg.norm(places - np.median(places, axis=0), axis=2))


def _print_registration(heads: Sequence[Mapping[str, Any]]) -> None:
    print("\nhead       poses  median mm  95th percentile  worst pose (its median)  seconds (median, largest)")
    for name, own in _by_head(heads):
        errors, seconds = _placed(name, own).errors_mm, [float(t["seconds"]) for t in own]
        print(
            f"{name:10} {len(own):5}  {np.median(errors):9.2f}  {np.percentile(errors, 95):15.2f}  "
            f"{np.median(errors, axis=1).max():23.2f}  {np.median(seconds):.0f}, {max(seconds):.0f}"
        )


def _print_predictions(heads: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """SYNTHETIC models: what they say of a head means nothing; that they say the same of the same head does."""
    for model_folder in sorted(MODELS.glob("*/model")):
        model = load_model(model_folder)
        with tempfile.TemporaryDirectory() as scratch:
            cache = VolumeCache(Path(scratch))
            for name, own in _by_head(heads):
                said = []
                for t in own:
                    visit = Visit("head", "", "", 1.5, None, 24.0, volumes={"t1": folder / str(t["file"])})
                    predictions, _ = predict(model, VisitTable((visit,)), cache)
                    said += [p.delta_cdrsb for p in predictions]
                apart = np.abs(np.array(said) - np.median(said)) if said else np.array([np.nan])
                print(
                    f"predictions of {model_folder.parent.name} for {name}: {len(said)} of {len(own)} made, from their "
                    f"median {np.median(apart):.3f} (median), {np.percentile(apart, 95):.3f} (95th percentile), "
                    f"{apart.max():.3f} points"
                )
    if not any(MODELS.glob("*/model")):
        print("no predictions: 'python benchmarks/unlike_images.py' trains the models")


def _print_verdicts(heads: Sequence[Mapping[str, Any]]) -> None:
    trials = []
    for name, own in _by_head(heads):
        means = _placed(name, own).errors_mm.mean(axis=1).tolist()
        for t, error in zip(own, means, strict=True):
            trials.append(Trial(ImageMetrics(**t["metrics"]), error))
            trials += [Trial(ImageMetrics(**m["metrics"]), m["error_mm"]) for m in t["moved"]]
    for beyond in (3.0, 10.0):
        print(f"\nfailures beyond {beyond:g} mm: {account_text(account(trials, beyond))}")
        for measure in MEASURES:
            if measure.suspicious in ("low", "high"):
                try:
                    found = curve(trials, measure.field, beyond)
                except ValueError:
                    continue
                print(f"  area under the curve of {measure.title:40} {found.area:.3f}")
    flagged = [judge_alone(trial.metrics) for trial in trials if trial.true_error_mm < 1]
    reasons = sorted({reason for judgement in flagged for reason in judgement.reasons})
    print("false alarms say:", *reasons[:20], sep="\n  ")


def _print_uptake(phantoms: Sequence[Mapping[str, Any]]) -> None:
    if phantoms:
        off = np.array([t["suvr"] / t["true_suvr"] - 1 for t in phantoms])
        errors, seconds = [t["error_mm"] for t in phantoms], [t["seconds"] for t in phantoms]
        print(
            f"\n{len(phantoms)} phantoms of known uptake: ratios off by {100 * np.median(np.abs(off)):.2f}% (median), "
            f"{100 * np.abs(off).max():.2f}% (largest); registered to {np.median(errors):.2f} mm (median), "
            f"{max(errors):.2f} mm; {np.median(seconds):.0f} s (median), {max(seconds):.0f} s"
        )
