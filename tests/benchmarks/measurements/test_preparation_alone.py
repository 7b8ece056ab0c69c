from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from permmoe.data.template import read_template
from permmoe.preparation.images.image import isotropic, template_image
from permmoe.preparation.quality.metrics import Known, image_metrics
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe_benchmarks.library.places import displacement, errors_mm
from permmoe_benchmarks.measurements import preparation_alone
from permmoe_benchmarks.measurements.preparation_alone import print_alone
from tests.support.prepared_heads import FLAIR, GRID, head, mask

SOUND = image_metrics(head(FLAIR), mask(), "flair", GRID, known=Known(follows_t1=False, lead=1.0))


def _trial(shift_mm: float, *moved_mm: float, **change: Any) -> dict[str, Any]:
    metrics = asdict(replace(SOUND, **change))
    moved = [{"matrix": _shifted(by), "metrics": metrics} for by in moved_mm]
    place = {"kind": "FLAIR alone", "name": "a", "seconds": 7.0, "matrix": _shifted(shift_mm)}
    return place | {"metrics": asdict(SOUND), "moved": moved}


def _shifted(by: float) -> list[list[float]]:
    matrix = np.eye(4)
    matrix[0, 3] = by
    return [[float(value) for value in row] for row in matrix]


T1S = [{"name": "a", "matrix": _shifted(by)} for by in (0.9, 1.0, 30.0)]


def test_errors_are_distances_from_where_most_t1s_put_the_points_and_refusals_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_alone([_trial(3.0), _trial(4.0), {"kind": "FLAIR alone", "name": "a", "refused": "no brain"}], T1S)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("FLAIR alone a"))
    assert row.split()[3:8] == ["3", "1", "2.50", "3.00", "3.00"]


def test_a_failure_that_passes_is_told_from_one_that_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [_trial(1.0, 21.0, follows_t1=None), _trial(1.0, 21.0, lead=0.05)]
    print_alone(trials, T1S)
    assert "2 images: 1 left out, 0 to look at, 1 passed; 2 sound" in capsys.readouterr().out


def test_a_head_without_t1s_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_alone([_trial(1.0)], [])
    assert "no T1s of this head" in capsys.readouterr().out


def test_a_pet_that_is_moved_shows_what_is_elsewhere_in_the_template_s_mask() -> None:
    brain = isotropic(template_image(read_template("t1")), 4.0)
    scan = brain.with_voxels(brain.voxels * 1000)
    found = preparation_alone._prepared(scan, "amyloid", is_registered=True)
    same = preparation_alone._moved(found, scan, "amyloid", np.eye(4))
    np.testing.assert_allclose(same.image.voxels, found.image.voxels, atol=1e-4)
    wrong = displacement(20.0, 1)
    moved = preparation_alone._moved(found, scan, "amyloid", wrong)
    assert errors_mm(moved.matrix, found.matrix @ wrong).max() < 1e-9
    assert np.array_equal(moved.mask.voxels, found.mask.voxels)
    assert metrics_of(moved, "amyloid", preparation_alone.SETTINGS.grid).disagreement_mm > 10
