"""FLAIR and PET without a T1: how far from where the T1s of the same head put its brain, and what the verdicts say.

A part of permmoe_benchmarks.measurements.preparation, which hands in its T1 trials; heads are made to look like FLAIR
and PET by permmoe_benchmarks.library.contrasts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from permmoe.data.cohort.raw.pose import mapped
from permmoe.data.image_file import BrokenVolume
from permmoe.preparation.images.image import Image, Matrix, on_grid
from permmoe.preparation.images.prepare import PreparedImage, prepare_flair, prepare_pet
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe.preparation.quality.roc import Account, Trial, account
from permmoe.preparation.settings import PreparationSettings
from permmoe_benchmarks.library.contrasts import flair_scanned, pet_scanned
from permmoe_benchmarks.library.heads import Head
from permmoe_benchmarks.library.places import DISPLACEMENTS_MM, brain_points, displacement

KINDS = {"FLAIR alone": "flair", "PET alone": "amyloid"}
SETTINGS = PreparationSettings()


def alone_trial(kind: str, head: Head, seed: int) -> dict[str, Any]:
    """One scan in a drawn pose, prepared without a T1, and the same preparation moved away from its place."""
    modality = KINDS[kind]
    image, to_original = (flair_scanned if modality == "flair" else pet_scanned)(head, seed)
    scan = Image(np.asarray(image.get_fdata(dtype=np.float32)), np.asarray(image.affine, np.float64))
    begun = time.perf_counter()
    try:
        found = _prepared(scan, modality)
    except BrokenVolume as broken:
        return {"refused": str(broken.reason)}
    seconds = time.perf_counter() - begun
    wrong = [displacement(by, seed) for by in DISPLACEMENTS_MM]
    moved = [_line(_moved(found, scan, modality, by), modality, to_original) for by in wrong]
    return {"seconds": seconds, **_line(found, modality, to_original), "moved": moved}


def print_alone(trials: Sequence[Mapping[str, Any]], t1s: Sequence[Mapping[str, Any]]) -> None:
    """A row for each kind and head, and an account of the verdicts; `t1s` tell where each head's brain is."""
    print("\nwithout a T1          poses  refused  median mm  95th percentile  largest  seconds (median, largest)")
    for kind in KINDS:
        judged: list[Trial] = []
        for name in sorted({str(t["name"]) for t in trials if t["kind"] == kind}):
            own = [t for t in trials if t["kind"] == kind and t["name"] == name]
            places = [t["matrix"] for t in t1s if t["name"] == name]
            made = [t for t in own if "matrix" in t]
            if not places or not made:
                print(f"{kind:11} {name:9} {len(own):5}  {len(own) - len(made):7}  no T1s of this head to compare with")
                continue
            true = np.median([mapped(np.array(place), brain_points()) for place in places], axis=0)
            errors, seconds = np.stack([_errors_mm(t, true) for t in made]), [float(t["seconds"]) for t in made]
            print(
                f"{kind:11} {name:9} {len(own):5}  {len(own) - len(made):7}  {np.median(errors):9.2f}  "
                f"{np.percentile(errors, 95):15.2f}  {errors.max():7.2f}  {np.median(seconds):.0f}, {max(seconds):.0f}"
            )
            lines = [line for t in made for line in (t, *t["moved"])]
            judged += [Trial(ImageMetrics(**t["metrics"]), float(_errors_mm(t, true).mean())) for t in lines]
        if judged:
            print(f"{kind}, beyond 10 mm: {account_text(account(judged, 10.0))}")


def account_text(found: Account) -> str:
    """What the verdicts say, in a line."""
    return (
        f"{found.failures} images: {found.left_out} left out, {found.to_look_at} to look at, {found.passed} passed; "
        f"{found.sound} sound images: {found.falsely_left_out} left out, {found.falsely_to_look_at} to look at"
    )


def _prepared(scan: Image, modality: str, *, is_registered: bool = False) -> PreparedImage:
    if modality == "flair":
        return prepare_flair(scan, SETTINGS.grid, None, is_registered=is_registered)
    region = SETTINGS.region(modality, "")
    return prepare_pet([scan], [1200.0], region, SETTINGS.grid, None, is_registered=is_registered)


def _moved(found: PreparedImage, scan: Image, modality: str, wrong: Matrix) -> PreparedImage:
    """The preparation as it would be with another map; a FLAIR's mask goes with it, that of PET is the template's."""
    matrix = found.matrix @ wrong
    if modality == "flair":
        image, mask = (on_grid(part, SETTINGS.grid, wrong) for part in (found.image, found.mask))
        return replace(found, image=image, mask=mask, matrix=matrix)
    there = _prepared(Image(scan.voxels, np.linalg.inv(matrix) @ scan.affine), modality, is_registered=True)
    measured = replace(there.measured, agreement=found.measured.agreement, lead=found.measured.lead)
    return replace(there, matrix=matrix, measured=measured)


def _line(prepared: PreparedImage, modality: str, to_original: Matrix) -> dict[str, Any]:
    metrics = metrics_of(prepared, modality, SETTINGS.grid)
    return {"matrix": (to_original @ prepared.matrix).tolist(), "metrics": asdict(metrics)}


def _errors_mm(trial: Mapping[str, Any], true: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    return np.asarray(np.linalg.norm(mapped(np.array(trial["matrix"]), brain_points()) - true, axis=1))
