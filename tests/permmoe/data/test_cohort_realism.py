"""Knobs that are off change nothing; each knob that is on does what it says, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from permmoe.config import VolumeGrid, parse_config, read_config
from permmoe.data.adni import select_visits
from permmoe.data.cohort import ADNI_LIKE, CohortConfig, Realism, Subject, draw_subjects, write_cohort
from permmoe.data.cohort.anatomy import load_anatomy
from permmoe.data.cohort.disease import Patterns
from permmoe.data.cohort.imaging import render, warped_tissue
from permmoe.data.cohort.misregistration import displacement_mm
from permmoe.data.cohort.places import backwards, by_place
from permmoe.data.cohort.realism import ADNI_AVAILABILITY, PLAIN, ScoreNoise
from permmoe.data.cohort.release_tables import release_tables
from permmoe.data.cohort.scanners import site_scanner
from permmoe.data.cohort.settings import MODALITIES
from permmoe.data.cohort.tables import adnimerge_table, cdr_table, latents_table, participants_table
from permmoe.data.target_rule import TargetRule
from permmoe.errors import ConfigurationError
from permmoe.modality import Modality

GRID = VolumeGrid(shape=(24, 28, 24), spacing_mm=8.0)
CLINICAL = ("age_years", "PTGENDER", "PTEDUCAT", "APOE4", "MMSE", "ADAS13", "FAQ")
Column = NDArray[np.float64]


def cohort(**changes: Any) -> CohortConfig:
    return parse_config({"subjects": 2000, "seed": 12, **changes}, CohortConfig, "test")


@pytest.fixture(scope="module")
def plain() -> tuple[Subject, ...]:
    return draw_subjects(cohort(subjects=800))


@pytest.fixture(scope="module")
def adni_like() -> tuple[Subject, ...]:
    whole = read_config(Path("configs/cohorts/adni-like.yaml"), CohortConfig)
    return draw_subjects(whole.model_copy(update={"subjects": 900}))


def scores(subjects: tuple[Subject, ...], name: str) -> Column:
    found = [getattr(subject.index_visit.scores, name) for subject in subjects]
    return np.array([np.nan if score is None else score for score in found], float)


def correlation(a: Column, b: Column) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[both], b[both])[0, 1])


def test_the_tables_of_the_first_cohorts_are_what_they_were_bit_by_bit() -> None:
    """Digests of tables written before there were knobs; images are compared by benchmarks/same_bits.py."""
    config = cohort(subjects=40, seed=3, release_tables=True)
    subjects = draw_subjects(config)
    tables = [adnimerge_table(subjects, config), cdr_table(subjects), participants_table(subjects)]
    tables += [latents_table(subjects), *release_tables(subjects, config).values()]
    text = "".join(table.to_csv(index=False, lineterminator="\n") for table in tables)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "df4dc616b35a5211"


def test_a_cohort_without_knobs_keeps_its_digest_and_one_with_them_has_its_own() -> None:
    assert "realism" not in cohort().model_dump() and cohort().digest() == cohort(realism="plain").digest()
    assert cohort(realism={"warp_mm": 2.0}).digest() != cohort().digest()
    named, spelt = cohort(realism="adni-like"), cohort(realism=ADNI_LIKE.model_dump())
    assert named == spelt and named.digest() == spelt.digest()
    assert parse_config(named.model_dump(), CohortConfig, "again") == named


def test_sites_by_name_are_as_large_as_the_default_ones_and_lack_no_modality() -> None:
    named, default = cohort(sites="adni").site_table, cohort().site_table
    assert [(site.code, site.size) for site in named] == [(site.code, site.size) for site in default]
    assert all(site.modalities == MODALITIES for site in named)
    assert any(site.modalities != MODALITIES for site in default)
    assert cohort(sites=[site.model_dump() for site in named]).digest() == cohort(sites="adni").digest()


def test_every_knob_is_off_in_plain_and_on_in_adni_like() -> None:
    assert all(getattr(PLAIN, name) != getattr(ADNI_LIKE, name) for name in Realism.model_fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"realism": "adni"}, "unknown realism 'adni'; did you mean 'adni-like'"),
        ({"realism": {"lesion_efect": 0.5}}, "'lesion_efect'; did you mean 'lesion_effect'"),
        ({"realism": "adni-like", "phases": {"adni1": 0.2}}, "give one of both"),
        ({"realism": {"pattern_effect": 0.9}}, "pattern_effect"),
        ({"sites": "adnis"}, "unknown table of sites 'adnis'; did you mean 'adni'"),
    ],
)
def test_a_knob_that_there_is_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        cohort(**changes)


def test_phases_and_modalities_are_available_as_in_adni(adni_like: tuple[Subject, ...]) -> None:
    total = sum(phase.subjects for phase in ADNI_AVAILABILITY.values())
    for name, published in ADNI_AVAILABILITY.items():
        own = [subject for subject in adni_like if subject.phase.name == name]
        assert len(own) / len(adni_like) == pytest.approx(published.subjects / total, abs=0.04)
        for modality in MODALITIES:
            share = np.mean([modality in subject.observed for subject in own])
            assert share == pytest.approx(getattr(published, modality), abs=0.10)
    assert np.mean([s.phase.name == "ADNI1" for s in adni_like]) == pytest.approx(0.30, abs=0.03)
    assert np.mean(["tau" in s.observed for s in adni_like]) == pytest.approx(0.29, abs=0.04)


def test_scores_have_the_spread_of_mci_and_tell_what_cdr_sb_does_not(adni_like: tuple[Subject, ...]) -> None:
    cdrsb = np.array([subject.index_visit.cdrsb for subject in adni_like])
    decline = np.array([subject.latents.decline_points_per_year for subject in adni_like])
    expected = {"mmse": (27.5, 1.8), "adas13": (16.5, 6.5), "faq": (3.4, 3.5), "ravlt": (34.5, 9.5)}
    for name, (mean, deviation) in expected.items():
        found = scores(adni_like, name)
        assert np.nanmean(found) == pytest.approx(mean, abs=0.06 * mean + 0.2)
        assert np.nanstd(found) == pytest.approx(deviation, rel=0.15)
        assert 0.005 < np.isnan(found).mean() < 0.04
        assert 0.2 < abs(correlation(found, decline)) < 0.6
        both = np.isfinite(found)
        x = np.column_stack([np.ones(both.sum()), cdrsb[both]])
        rest = [v - x @ np.linalg.lstsq(x, v, rcond=None)[0] for v in (found[both], decline[both])]
        assert abs(np.corrcoef(rest)[0, 1]) > 0.05
    assert correlation(scores(adni_like, "faq"), cdrsb) > abs(correlation(scores(adni_like, "ravlt"), cdrsb)) + 0.2


def test_a_score_s_noise_is_its_own_and_its_size_is_the_knob_s() -> None:
    def one(**noise: float) -> Column:
        return scores(draw_subjects(cohort(subjects=150, realism={"scores": {"missing": 0, **noise}})), "adas13")

    quiet = one(adas13_points=0.0)
    assert np.std(one(adas13_points=6.0) - quiet) == pytest.approx(6.0, rel=0.15)
    assert np.array_equal(one(adas13_points=0.0, faq_points=9.0), quiet)


def test_scores_go_on_after_a_shorter_follow_up_as_they_would_have() -> None:
    realism = {"scores": ScoreNoise().model_dump()}
    long, short = (draw_subjects(cohort(subjects=60, realism=realism, follow_up_months=m)) for m in (84, 12))
    for whole, cut in zip(long, short, strict=True):
        assert cut.visits == whole.visits[: len(cut.visits)]


def test_who_was_well_at_enrolment_did_better_then(adni_like: tuple[Subject, ...]) -> None:
    pairs = [(s.visits[0].mmse, s.index_visit.mmse) for s in adni_like if s.index_month]
    known = [(well, ill) for well, ill in pairs if well is not None and ill is not None]
    assert len(known) > 20 and np.mean([well > ill for well, ill in known]) > 0.6


def test_tables_of_both_kinds_have_the_same_scores_and_the_loader_reads_them_with_their_gaps(tmp_path: Path) -> None:
    config = cohort(subjects=40, realism="adni-like", release_tables=True, grid=GRID.model_dump(), follow_up_months=24)
    subjects = draw_subjects(config)
    (tmp_path / "merged").mkdir(), (tmp_path / "shipped").mkdir()  # type: ignore[func-returns-value]
    adnimerge_table(subjects, config).to_csv(tmp_path / "merged" / "ADNIMERGE.csv", index=False)
    cdr_table(subjects).to_csv(tmp_path / "shipped" / "CDR.csv", index=False)
    for name, table in release_tables(subjects, config).items():
        table.to_csv(tmp_path / "shipped" / name, index=False)
    clinical = Modality(name="clinical", kind="tabular", columns=CLINICAL)
    person = Modality(name="person", kind="tabular", columns=("PTEDUCAT",))
    today = pd.Timestamp("2099-01-01").date()
    found = {}
    for folder in ("merged", "shipped"):
        selection = select_visits(
            tmp_path / folder, None, TargetRule(), (person, clinical), covariates=CLINICAL, today=today
        )
        found[folder] = {visit.subject_id: visit for visit in selection.visits}
    assert len(found["merged"]) == 40
    complete = 0
    for subject in subjects:
        visit, scores = found["merged"][subject.ptid], subject.index_visit.scores
        assert scores is not None
        assert visit.covariates.get("ADAS13") == scores.adas13 and visit.covariates.get("FAQ") == scores.faq
        assert visit.covariates["APOE4"] == subject.person.apoe4_alleles
        same = {name: visit.covariates.get(name) for name in ("MMSE", "ADAS13", "FAQ")}
        assert {name: found["shipped"][subject.ptid].covariates.get(name) for name in same} == same
        is_complete = None not in (scores.mmse, scores.adas13, scores.faq)
        assert ("clinical" in visit.tables) == is_complete
        complete += is_complete
    assert 25 < complete < 40


def test_lesions_of_the_published_strength_explain_little_and_the_change_spreads_as_before(
    plain: tuple[Subject, ...], adni_like: tuple[Subject, ...]
) -> None:
    def share(subjects: tuple[Subject, ...]) -> float:
        names = ("amyloid", "tau", "neurodegeneration", "hippocampal_loss", "vascular", "severity_points")
        x = np.array([[1.0, *(getattr(s.latents, name) for name in names)] for s in subjects])
        y = np.array([s.latents.decline_points_per_year for s in subjects])
        left = [np.var(y - part @ np.linalg.lstsq(part, y, rcond=None)[0]) for part in (np.delete(x, 5, 1), x)]
        return float((left[0] - left[1]) / np.var(y))

    assert share(plain) > 0.07 and share(adni_like) < 0.03
    spread = [np.std([s.latents.decline_points_per_year for s in subjects]) for subjects in (plain, adni_like)]
    assert spread[1] == pytest.approx(spread[0], rel=0.10)


def test_what_lies_where_pulls_at_decline_and_not_at_how_much_there_is() -> None:
    subjects = draw_subjects(cohort(subjects=1000, realism={"pattern_effect": 0.35}))
    decline = np.array([s.latents.decline_points_per_year for s in subjects])
    for name in MODALITIES:
        pattern = np.array([getattr(s.patterns, name) for s in subjects])
        assert correlation(pattern, decline) > 0.06
        assert abs(correlation(pattern, np.array([s.latents.neurodegeneration for s in subjects]))) < 0.08
    assert "tau_to_the_back" in latents_table(subjects[:2]) and "tau_to_the_back" not in latents_table(
        draw_subjects(cohort(subjects=2))
    )


def test_a_place_moves_a_pathology_and_leaves_its_average() -> None:
    points = np.stack(np.meshgrid([0.0, 7.0], np.arange(-90.0, 40.0, 13.0), [5.0, 9.0, 11.0]), axis=-1)
    points_mm = points.reshape(-1, 3).astype(np.float32)
    region = np.abs(np.sin(np.arange(len(points_mm)))).astype(np.float32)
    assert by_place(region, 0.0, points_mm) is None
    where = by_place(region, 1.0, points_mm)
    assert where is not None
    assert np.average(where, weights=region) == pytest.approx(1.0, abs=1e-5)
    assert np.corrcoef(where, points_mm[:, 1])[0, 1] < -0.9
    assert np.average(backwards(region, points_mm), weights=region) == pytest.approx(0.0, abs=1e-5)


@pytest.fixture(scope="module")
def person() -> Subject:
    """Ill enough that every pathology shows."""
    subject = draw_subjects(cohort(subjects=1))[0]
    latents = replace(subject.latents, amyloid=1.0, tau=0.8, neurodegeneration=0.9, vascular=0.5)
    return replace(subject, latents=latents, observed=MODALITIES)


def images(subject: Subject, realism: Realism) -> dict[str, np.ndarray]:
    scanner, anatomy = site_scanner(1, subject.site.code, 0.0), load_anatomy(GRID)
    quiet = replace(scanner, mri_noise=0.0, pet_noise=0.0)
    return dict(render(subject, quiet, anatomy, 1, MODALITIES, realism))


@pytest.mark.parametrize("pattern", [-3.0, 0.0, 3.0])
def test_a_load_below_zero_where_its_pattern_lies_leaves_no_image_without_numbers(
    person: Subject, pattern: float
) -> None:
    """Of less uptake than none the square root, which scales the noise, was no number."""
    latents = replace(person.latents, amyloid=-0.6, tau=-0.6, neurodegeneration=0.0)
    below = replace(person, latents=latents, patterns=Patterns(amyloid=pattern, tau=pattern))
    scanner, anatomy = site_scanner(1, below.site.code, 0.0), load_anatomy(GRID)
    for volume in render(below, scanner, anatomy, 1, MODALITIES, ADNI_LIKE).values():
        assert np.isfinite(volume).all() and volume.min() >= 0 < volume.max()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_pattern_shows_in_where_and_hardly_in_a_whole_brain_average(person: Subject, modality: str) -> None:
    front, back = (
        images(replace(person, patterns=replace(Patterns(), **{modality: z})), PLAIN)[modality] for z in (-1.5, 1.5)
    )
    brain = load_anatomy(GRID).brain
    difference, y_mm = (back - front)[brain], load_anatomy(GRID).points_mm[:, 1]
    more, less = (np.average(y_mm, weights=np.clip(part, 0, None)) for part in (difference, -difference))
    further_back_mm = (more - less) if modality == "t1" else (less - more)  # atrophy darkens T1
    assert further_back_mm > 20
    # Lesions show beyond a threshold: where there are most already, a little more shows.
    assert abs(difference.mean()) < (0.5 if modality == "flair" else 0.35) * np.abs(difference).mean()


def test_lesions_show_on_t1_when_asked_for_and_darken_it(person: Subject) -> None:
    plain, shown = (images(person, Realism(lesions_on_t1=share))["t1"] for share in (0.0, 0.3))
    change = (shown - plain)[load_anatomy(GRID).brain]
    assert change.min() < -20 and change.max() < 1


def test_images_lie_off_by_as_much_as_is_asked_for_each_modality_by_itself() -> None:
    points = load_anatomy(GRID).points_mm
    found = [displacement_mm(points, 1, subject, "tau", 2.0) for subject in range(200)]
    assert np.sqrt(np.mean([(d**2).sum(1).mean() for d in found])) == pytest.approx(2.0, rel=0.15)
    assert np.allclose(displacement_mm(points, 1, 3, "tau", 4.0), 2 * found[3])
    assert not np.allclose(displacement_mm(points, 1, 3, "t1", 2.0), found[3], atol=0.1)


def test_a_shift_of_a_voxel_is_the_image_a_voxel_further(person: Subject) -> None:
    anatomy = load_anatomy(GRID)
    scanner = site_scanner(1, person.site.code, 0.0)
    by_a_voxel = np.zeros_like(anatomy.points_mm)
    by_a_voxel[:, 0] = GRID.spacing_mm * np.float32(0.98)
    still, moved = np.zeros((2, *GRID.shape), np.float32)
    still[anatomy.brain] = warped_tissue(person, scanner, anatomy, 1).channels["t1"]
    moved[anatomy.brain] = warped_tissue(person, scanner, anatomy, 1, PLAIN, by_a_voxel).channels["t1"]
    both = anatomy.brain[1:-1] & anatomy.brain[2:]
    shifted = np.corrcoef(moved[1:-1][both], still[2:][both])[0, 1]
    assert shifted > np.corrcoef(moved[1:-1][both], still[1:-1][both])[0, 1] + 0.1


def test_stronger_warps_make_people_less_alike(person: Subject) -> None:
    others = [replace(person, index=index) for index in range(4)]

    def spread(realism: Realism) -> float:
        shown = np.stack([images(other, realism)["t1"][load_anatomy(GRID).brain] for other in others])
        return float((shown / shown.mean(axis=1, keepdims=True)).std(axis=0).mean())

    assert spread(Realism(warp_mm=4.0)) > spread(Realism(fine_warp_mm=1.5)) * 1.02 > spread(PLAIN) * 1.04


def test_a_realistic_cohort_is_written_in_both_forms_and_says_so(tmp_path: Path) -> None:
    site = {"code": "011", "modalities": ["t1"]}
    for form in ({}, {"raw": {"dicom_subjects": 0}}):
        config = cohort(subjects=1, realism="adni-like", grid=GRID.model_dump(), sites=[site], **form)
        folder = tmp_path / f"cohort{len(form)}"
        write_cohort(folder, config, workers=1)
        description = yaml.safe_load((folder / "dataset_description.json").read_text())
        assert description["Config"]["realism"]["misregistration_mm"] == ADNI_LIKE.misregistration_mm
        assert list(folder.rglob("*T1w.nii.gz"))
