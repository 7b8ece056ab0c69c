"""The cohort's own release of ADNI's tables: drawn from the same hidden states, in ADNI's names and codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.config import VolumeGrid, read_model
from permmoe.data.adni import select_visits
from permmoe.data.cohort import CohortConfig, PhaseShares, Subject, draw_subjects, write_cohort
from permmoe.data.cohort.release_tables import release_tables
from permmoe.data.cohort.tables import adnimerge_table, cdr_table
from permmoe.data.selection import Selection
from permmoe.data.target_rule import TargetRule
from permmoe.modality import ADNI_MODALITIES, Modality

TINY = VolumeGrid(shape=(12, 14, 12), spacing_mm=16.0)
CONFIG = CohortConfig(subjects=60, sites=8, grid=TINY, seed=3, release_tables=True)


@pytest.fixture(scope="module")
def subjects() -> tuple[Subject, ...]:
    return draw_subjects(CohortConfig(subjects=600, seed=3, phases=PhaseShares(adni1=0.2)))


@pytest.fixture(scope="module")
def released(subjects: tuple[Subject, ...]) -> dict[str, pd.DataFrame]:
    tables = release_tables(subjects, CONFIG)
    return {name.removesuffix("_23Dec2025.csv"): table for name, table in tables.items()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, CONFIG, workers=1)
    return folder


def select(cohort: Path, modalities: tuple[Modality, ...], images: Path | None = None) -> Selection:
    return select_visits(cohort / "clinical", images, TargetRule(), modalities)


def test_cohorts_without_the_tables_are_what_they_were() -> None:
    """Neither their configuration's digest nor a subject nor a row of another table knows of the switch."""
    plain = CONFIG.model_copy(update={"release_tables": False})
    assert "release_tables" not in plain.canonical_json() and plain.digest() != CONFIG.digest()
    assert CohortConfig().digest() == CohortConfig(release_tables=False).digest()
    with_tables, without = draw_subjects(CONFIG), draw_subjects(plain)
    pd.testing.assert_frame_equal(adnimerge_table(with_tables, CONFIG), adnimerge_table(without, plain))
    pd.testing.assert_frame_equal(cdr_table(with_tables), cdr_table(without))


def test_the_digest_of_the_default_cohort_is_that_of_published_results() -> None:
    assert CohortConfig().digest()[:12] == "2d119ad5d62b"


def test_a_subject_has_the_same_rows_whatever_the_count(subjects: tuple[Subject, ...]) -> None:
    few, many = release_tables(subjects[:7], CONFIG), release_tables(subjects[:70], CONFIG)
    for name, table in few.items():
        same = many[name][many[name]["RID"].isin(table["RID"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(table, same)


def test_the_tables_choose_the_same_visits_as_without_them(cohort: Path, tmp_path: Path) -> None:
    without = tmp_path / "clinical"
    without.mkdir()
    for name in ("clinical/ADNIMERGE.csv", "clinical/CDR.csv", "dataset_description.json"):
        (tmp_path / name).write_bytes((cohort / name).read_bytes())
    plain = select_visits(without, cohort, TargetRule(), ADNI_MODALITIES)
    assert select(cohort, ADNI_MODALITIES, cohort).visits.digest() == plain.visits.digest()


def test_the_model_of_tables_finds_every_modality_in_the_cohort(cohort: Path) -> None:
    model = read_model(Path("configs/models/tables.yaml"))
    selection = select(cohort, model.modalities)
    observed = {name: sum(name in visit.tables for visit in selection.visits) for name in model.names}
    subjects = draw_subjects(CONFIG)
    of_images = {name: sum(name in subject.observed for subject in subjects) for name in ("t1", "flair", "tau")}
    assert len(selection.visits) == len(subjects) and not len(selection.quarantine)
    assert observed["person"] == observed["genotype"] == len(subjects)
    assert 0.8 * of_images["t1"] < observed["t1_regions"] <= of_images["t1"]
    assert 0.8 * of_images["flair"] < observed["flair_lesions"] <= of_images["flair"]
    assert 0.8 * of_images["tau"] < observed["tau_regions"] <= of_images["tau"]


def test_missing_forms_and_quality_are_written_as_adni_does(released: dict[str, pd.DataFrame]) -> None:
    mmse = released["MMSE"]
    assert set(mmse.loc[mmse["MMSCORE"] < 0, "MMSCORE"]) == {-4, -1}
    assert set(mmse.loc[mmse["MMSCORE"] == -1, "PHASE"]) == {"ADNI1"}
    assert {-4, -1} <= set(released["UCBERKELEY_AMY_6MM"]["CENTILOIDS"])
    assert set(released["UCBERKELEY_TAU_6MM"]["qc_flag"]) == {-1, 0, 1, 2}
    assert set(released["UCSFFSX7"]["OVERALLQC"]) == {"Pass", "Partial", "Fail"}
    assert {"v03", "v11", "y1", "4_bl", "bl", "m06"} <= set(released["REGISTRY"]["VISCODE"])


@pytest.mark.parametrize(
    ("table", "column", "latent", "sign"),
    [
        ("UCSFFSX7", "ST29SV", "neurodegeneration", -1), ("UCSFFSX7", "ST37SV", "neurodegeneration", 1),
        ("UCSFFSX7", "ST24TA", "neurodegeneration", -1), ("UCBERKELEY_AMY_6MM", "CENTILOIDS", "amyloid", 1),
        ("UCBERKELEY_TAU_6MM", "META_TEMPORAL_SUVR", "tau", 1), ("UCD_WMH", "TOTAL_WMH", "vascular", 1),
    ],
)  # fmt: skip
def test_regions_follow_the_hidden_state(
    table: str, column: str, latent: str, sign: int, released: dict[str, pd.DataFrame], subjects: tuple[Subject, ...]
) -> None:
    first = released[table].groupby("RID")[column].first()
    hidden = pd.Series({subject.rid: getattr(subject.latents, latent) for subject in subjects})[first.index]
    assert sign * np.corrcoef(first.rank(), hidden.rank())[0, 1] > 0.5


def test_values_lie_in_the_ranges_of_the_data_dictionary(released: dict[str, pd.DataFrame]) -> None:
    ranges = {
        ("UCSFFSX7", "ST29SV"): (1188, 5685), ("UCSFFSX7", "ST10CV"): (427_249, 5_158_452),
        ("UCSFFSX7", "ST24TA"): (1.068, 4.194), ("UCSFFSX7", "ST37SV"): (3369, 94_303),
        ("UCBERKELEY_AMY_6MM", "CENTILOIDS"): (-60, 346), ("UCBERKELEY_AMY_6MM", "SUMMARY_SUVR"): (0.6, 2.85),
        ("UCBERKELEY_TAU_6MM", "META_TEMPORAL_SUVR"): (0.7, 4.1), ("UCD_WMH", "CEREBRUM_TCV"): (780, 1689),
    }  # fmt: skip
    for (table, column), (low, high) in ranges.items():
        assert released[table][column].between(low, high).all(), (table, column)
