"""The rules that choose series know what scanners and archives call them, and a file of one's own overrides them."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError
from permmoe.preparation.sources.series_rules import Kind, SeriesFacts, read_rules

MR = ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")


def mri(description: str) -> Kind | Reason:
    return read_rules().kind_of(SeriesFacts(description, "MR", MR))


def pet(description: str) -> Kind | Reason:
    return read_rules().kind_of(SeriesFacts(description, "PT", ("ORIGINAL", "PRIMARY")))


@pytest.mark.parametrize(
    "description",
    [
        "MPRAGE", "Accelerated Sagittal MPRAGE", "Accelerated_Sagittal_MPRAGE", "MP-RAGE", "MPRAGE SENSE2", "HS_MPRAGE",
        "IR-FSPGR", "Sag IR-SPGR", "IR-SPGR w/acceleration", "Accelerated Sag IR-FSPGR", "FSPGR", "SAG BRAVO",
        "t1_mprage_sag_p2_iso", "T1W_3D_TFE", "3D T1 TFE SAG", "MPRAGE_GRAPPA2",
    ],
)  # fmt: skip
def test_volumes_with_t1_weighting_are_preferred(description: str) -> None:
    assert mri(description) == Kind("t1", 0)


@pytest.mark.parametrize(
    ("description", "rank"),
    [
        ("MP-RAGE REPEAT", 1),
        ("MPRAGE_REPEAT", 1),
        ("Sagittal 3D Accelerated MPRAGE_REPEAT", 1),
        ("MPR; GradWarp; B1 Correction; N3; Scaled", 2),
        ("MPR__GradWarp__B1_Correction__N3__Scaled", 2),
        ("MPR-R; GradWarp; N3", 2),
        ("MPR____N3__Scaled", 2),
        ("MT1__N3m", 2),
        ("Ax T1", 3),
    ],
)
def test_repeats_and_what_adni_corrected_come_later(description: str, rank: int) -> None:
    assert mri(description) == Kind("t1", rank)


@pytest.mark.parametrize(
    "description", ["Sagittal 3D FLAIR", "Axial T2-FLAIR", "Axial FLAIR", "t2_flair_SPACE_sag", "3D SPACE FLAIR"]
)
def test_flair_is_known(description: str) -> None:
    assert mri(description) == Kind("flair", 0)


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("3 Plane Localizer", Reason.LOCALISER),
        ("AAHead_Scout", Reason.LOCALISER),
        ("B1-Calibration Body", Reason.LOCALISER),
        ("Field_mapping", Reason.LOCALISER),
        ("Cor MPR", Reason.DERIVED),
        ("MIP MPRAGE", Reason.DERIVED),
        ("MoCoSeries", Reason.DERIVED),
        ("Axial T2 STAR", Reason.OTHER_SERIES),
        ("HighResHippocampus", Reason.OTHER_SERIES),
        ("Perfusion_Weighted", Reason.OTHER_SERIES),
        ("Axial DTI", Reason.OTHER_SERIES),
        ("T1 FLAIR", Reason.OTHER_SERIES),
        ("Ax T1 POST", Reason.OTHER_SERIES),
        ("T1 +C", Reason.OTHER_SERIES),
        ("T1 map", Reason.OTHER_SERIES),
    ],
)
def test_other_series_have_their_reason(description: str, reason: Reason) -> None:
    assert mri(description) is reason


def test_adnis_pet_of_one_resolution_comes_first() -> None:
    steps = (
        "AV45 Coreg, Avg, Std Img and Vox Siz, Uniform Resolution",
        "AV45 Coreg, Avg, Standardized Image and Voxel Size",
        "AV45_Co-registered__Averaged",
        "AV45 Co-registered Dynamic",
        "ADNI3_AV1451 (AC)",
    )
    assert [pet(step) for step in steps] == [Kind("pet", rank) for rank in range(5)]
    assert pet("AV45 NAC") is Reason.DERIVED
    assert read_rules().kind_of(SeriesFacts("MPRAGE", "CT")) is Reason.OTHER_SERIES


def test_a_file_of_ones_own_takes_the_place_of_the_sections_that_it_has(tmp_path: Path) -> None:
    own = tmp_path / "rules.yaml"
    own.write_text("pet:\n  - {description: ['brain 20 min'], tracer: florbetapir}\n")
    rules = read_rules(own)
    assert rules.kind_of(SeriesFacts("BRAIN_20_MIN", "PT")) == Kind("pet", 0, "AV45")
    assert rules.kind_of(SeriesFacts("AV45", "PT")) is Reason.OTHER_SERIES
    assert (rules.t1, rules.excluded) == (read_rules().t1, read_rules().excluded)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t1: [{descripton: [x]}]", "did you mean 'description'"),
        ("t1: [{description: ['(']}]", "no regular expression"),
        ("pet: [{tracer: FDG}]", "no tracer 'FDG'"),
        ("excluded: [{description: [x]}]", "excluded.0.reason"),
        ("t2: []", "unknown key 't2'"),
    ],
)
def test_a_mistake_in_a_file_of_rules_is_named(tmp_path: Path, text: str, says: str) -> None:
    own = tmp_path / "rules.yaml"
    own.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read_rules(own)
    assert says in str(refused.value)
