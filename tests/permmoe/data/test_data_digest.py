"""The digest of data: other bytes of an image are other data, wherever the files lie and whoever asks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from permmoe.config import VolumeGrid
from permmoe.data import cache as cache_module
from permmoe.data.adni import adni_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.data_digest import data_digest
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import ADNI_MODALITIES, Modality

GRID = VolumeGrid(shape=(12, 14, 12), spacing_mm=16.0)


def cohort_digest(folder: Path, grid: VolumeGrid) -> tuple[str, VisitTable]:
    """The digest of four synthetic subjects' data, whose images are written on this grid and read on `GRID`."""
    write_cohort(folder, CohortConfig(subjects=4, grid=grid))
    visits, _ = adni_visits(folder / "clinical", folder, TargetRule(), ADNI_MODALITIES)
    return data_digest(visits, ADNI_MODALITIES, GRID, VolumeCache(folder / "cache")), visits


def one_visit(image: Path) -> VisitTable:
    return VisitTable((Visit("a", "s", "bl", 1.0, 0.5, 24.0, volumes={"t1": image}),))


def digest_of(table: VisitTable, cache: Path, *modalities: Modality) -> str:
    return data_digest(table, modalities or (Modality(name="t1"),), GRID, VolumeCache(cache))


def test_cohorts_of_two_resolutions_share_no_digest_though_their_tables_are_alike(tmp_path: Path) -> None:
    coarse, coarse_visits = cohort_digest(tmp_path / "coarse", GRID)
    fine, fine_visits = cohort_digest(tmp_path / "fine", VolumeGrid(shape=(24, 28, 24), spacing_mm=8.0))
    assert coarse_visits.digest() == fine_visits.digest()
    assert coarse != fine


def test_the_same_cohort_has_the_same_digest_wherever_it_is_written(tmp_path: Path) -> None:
    assert cohort_digest(tmp_path / "here", GRID)[0] == cohort_digest(tmp_path / "there", GRID)[0]


def test_an_image_with_other_bytes_is_other_data(tmp_path: Path) -> None:
    image = tmp_path / "image.nii.gz"
    digests = set()
    for time, content in enumerate((b"one", b"two", b"three")):
        image.write_bytes(content)
        os.utime(image, (time, time))
        digests.add(digest_of(one_visit(image), tmp_path / "cache"))
    assert len(digests) == 3


def test_an_image_is_read_once_as_long_as_its_size_and_time_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image.nii.gz"
    image.write_bytes(b"content")
    first = digest_of(one_visit(image), tmp_path / "cache")

    def not_again(*_: object) -> None:
        raise AssertionError("the image was read again")

    monkeypatch.setattr(cache_module.hashlib, "file_digest", not_again)
    assert digest_of(one_visit(image), tmp_path / "cache") == first


def test_what_the_images_are_read_as_is_part_of_the_data(tmp_path: Path) -> None:
    image = tmp_path / "image.nii.gz"
    image.write_bytes(b"content")
    table = one_visit(image)
    ratios = digest_of(table, tmp_path / "cache", Modality(name="t1", normalisation="suvr"))
    other_grid = data_digest(table, (Modality(name="t1"),), VolumeGrid(), VolumeCache(tmp_path / "cache"))
    assert len({digest_of(table, tmp_path / "cache"), ratios, other_grid}) == 3


def test_an_image_that_is_not_there_counts_as_broken(tmp_path: Path) -> None:
    table = one_visit(tmp_path / "nowhere.nii.gz")
    whole = VisitTable((replace(table.visits[0], volumes={}),))
    assert digest_of(table, tmp_path / "cache") != digest_of(whole, tmp_path / "cache")
