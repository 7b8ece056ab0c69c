"""Raw images that visits name are prepared as the model's modalities declare, and in no other way."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.config import VolumeGrid
from permmoe.data.preparation import prepared_as, with_matching_images
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.modality import Modality
from permmoe.preparation import subject as subject_room
from permmoe.preparation.images.prepare import LeadingT1, PreparedImage
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import GRIDS, PreparationSettings
from permmoe.preparation.visits import prepare_visits
from tests.support.scans_to_prepare import StandIn, write_scans

FOUR = PreparationSettings(spacing_mm=4.0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[VolumeGrid, str]]:
    """Grid and reference region that were asked for of each scan; a stand-in, which knows 4 mm, does the computing."""
    seen: list[tuple[VolumeGrid, str]] = []
    make = StandIn()

    def made(scan: Scan, grid: VolumeGrid, region: str, t1: LeadingT1 | None) -> PreparedImage:
        seen.append((grid, region))
        return make(scan, grid, region, t1)

    monkeypatch.setattr(subject_room, "_prepared", made)
    return seen


@pytest.fixture
def raw(tmp_path: Path) -> VisitTable:
    write_scans(tmp_path / "raw", "01")
    session = tmp_path / "raw" / "sub-01" / "ses-a"
    volumes = {
        "t1": session / "anat" / "sub-01_ses-a_T1w.nii.gz",
        "amyloid": session / "pet" / "sub-01_ses-a_trc-18FAV45_pet.nii.gz",
    }
    return VisitTable((Visit("01", "s", "a", 1.0, 0.5, 24.0, volumes=volumes),))


def declared(settings: PreparationSettings, **changes: float | None) -> list[Modality]:
    """What a card says of a model whose images were prepared so."""
    return [
        Modality(name=name, prepared=settings.prepared_as(name).model_copy(update=changes))
        for name in ("t1", "amyloid")
    ]


def test_raw_images_get_the_spacing_and_region_of_the_training_s_and_are_then_read(
    raw: VisitTable, tmp_path: Path, asked: list[tuple[VolumeGrid, str]]
) -> None:
    card = declared(PreparationSettings(spacing_mm=4.0, regions={"amyloid": "pons"}))
    prepared = prepare_visits(raw, card, tmp_path / "out").visits
    assert asked == [(GRIDS[4.0], ""), (GRIDS[4.0], "pons")]
    kept, refused = with_matching_images(prepared, card)
    assert kept == prepared and not len(refused) and set(kept.visits[0].volumes) == {"t1", "amyloid"}
    assert {how.spacing_mm for f in kept.visits[0].volumes.values() if (how := prepared_as(f)) is not None} == {4.0}


def test_a_declaration_that_tells_no_spacing_takes_the_usual_one_and_reads_any(
    raw: VisitTable, tmp_path: Path, asked: list[tuple[VolumeGrid, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GRIDS, 2.0, GRIDS[4.0])  # what the stand-in knows
    card = declared(FOUR, spacing_mm=None)
    prepared = prepare_visits(raw, card, tmp_path / "out").visits
    assert {how.spacing_mm for f in prepared.visits[0].volumes.values() if (how := prepared_as(f)) is not None} == {2.0}
    assert with_matching_images(prepared, card)[0] == prepared


@pytest.mark.parametrize("spacings", [(2.0, 4.0), (3.0, 3.0)], ids=["several", "one that no preparation gives"])
def test_spacings_that_cannot_be_prepared_are_refused_with_what_to_do(
    spacings: tuple[float, float], raw: VisitTable, tmp_path: Path, asked: list[tuple[VolumeGrid, str]]
) -> None:
    card = [declared(FOUR, spacing_mm=spacing)[index] for index, spacing in enumerate(spacings)]
    with pytest.raises(ConfigurationError, match="prepare them by yourself"):
        prepare_visits(raw, card, tmp_path / "out")
    assert not asked and not (tmp_path / "out").exists()
