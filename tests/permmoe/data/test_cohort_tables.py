"""The synthetic cohort without its voxels: who is in it, what is missing, and how CDR-SB goes on."""

import re
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from permmoe.config import VolumeGrid, parse_config
from permmoe.data.cohort import CohortConfig, MissingConfig, PhaseShares, SiteConfig, Subject, draw_subjects
from permmoe.data.cohort.clinical_visits import DAYS_PER_MONTH
from permmoe.data.cohort.settings import MODALITIES
from permmoe.data.cohort.subjects import PHASES, _enrolment
from permmoe.data.cohort.tables import ADNIMERGE_COLUMNS, adnimerge_table, cdr_table, participants_table
from permmoe.errors import ConfigurationError

ALL_SITES_ALL_MODALITIES = (SiteConfig(code="002"), SiteConfig(code="003"))


@pytest.fixture(scope="module")
def many() -> tuple[Subject, ...]:
    return draw_subjects(CohortConfig(subjects=5000))


def changes(subjects: tuple[Subject, ...], horizon_months: int) -> np.ndarray:
    """The slow, obvious target: CDR-SB at the visit nearest to the horizon, within three months, minus the index's."""
    found = []
    for subject in subjects:
        index = subject.index_visit
        due = index.day + timedelta(days=horizon_months * DAYS_PER_MONTH)
        near = [v for v in subject.visits if v.cdrsb >= 0 and abs((v.day - due).days) <= 3 * DAYS_PER_MONTH]
        if near:
            found.append(min(near, key=lambda v: abs((v.day - due).days)).cdrsb - index.cdrsb)
    return np.array(found)


def test_baseline_and_change_match_the_published_figures(many: tuple[Subject, ...]) -> None:
    baseline = np.array([s.index_visit.cdrsb for s in many])
    assert baseline.mean() == pytest.approx(1.5, abs=0.1)
    assert baseline.std() == pytest.approx(1.0, abs=0.1)
    delta = changes(many, 24)
    assert 0.8 <= delta.mean() <= 1.0
    assert 1.6 <= delta.std() <= 1.9
    assert 0.25 <= (delta == 0).mean() <= 0.30
    assert 0.14 <= (delta < 0).mean() <= 0.20
    assert 0.70 <= len(delta) / len(many) <= 0.85


def test_decline_goes_on_to_seven_years_while_fewer_are_seen(many: tuple[Subject, ...]) -> None:
    by_horizon = [changes(many, months) for months in (24, 36, 60, 84)]
    assert list(np.diff([delta.mean() for delta in by_horizon]) > 0.3) == [True] * 3
    assert list(np.diff([len(delta) for delta in by_horizon]) < 0) == [True] * 3
    assert len(by_horizon[-1]) > 0.3 * len(many)


def test_five_thousand_subjects_have_distinct_identifiers_in_their_phases_ranges(many: tuple[Subject, ...]) -> None:
    assert len({s.rid for s in many}) == 5000
    assert all(re.fullmatch(r"\d{3}_S_\d{4,5}", s.ptid) for s in many)
    ranges = {"ADNI1": (1, 1999), "ADNIGO": (2000, 2999), "ADNI2": (3000, 5999), "ADNI3": (6000, 9999)}
    for subject in many:
        low, high = ranges.get(subject.phase.name, (10000, 99999))
        assert low <= subject.rid <= high
    assert {s.phase.name for s in many} == {phase.name for phase in PHASES}


def test_the_smallest_rid_ranges_hold_their_largest_shares() -> None:
    crowded = PhaseShares(adni1=0.30, adnigo=0.15, adni2=0.0, adni3=0.55, adni4=0.0)
    for seed in (0, 1, 2):
        assert _enrolment(seed, crowded)[-1] is not None
    with pytest.raises(ConfigurationError, match="at most 30%"):
        parse_config({"phases": {"adni1": 1.0, "adni2": 1.0}}, CohortConfig, "test")


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.95])
def test_the_amyloid_tau_correlation_that_is_asked_for_is_there(correlation: float) -> None:
    subjects = draw_subjects(CohortConfig(subjects=2000, amyloid_tau_correlation=correlation))
    latents = np.array([(s.latents.amyloid, s.latents.tau) for s in subjects])
    assert np.corrcoef(latents.T)[0, 1] == pytest.approx(correlation, abs=0.04)


def test_no_site_has_what_it_does_not_collect(many: tuple[Subject, ...]) -> None:
    for subject in many:
        assert subject.observed
        assert set(subject.observed) <= set(subject.site.modalities)
        assert list(subject.observed) == [m for m in MODALITIES if m in subject.observed]


def test_the_default_sites_differ_in_what_they_collect_and_in_size() -> None:
    sites = CohortConfig().site_table
    collected = Counter(site.modalities for site in sites)
    assert len(sites) == 8
    assert collected[MODALITIES] >= 3
    assert sum("tau" in site.modalities for site in sites) == 4
    assert 1 <= sum("flair" not in site.modalities for site in sites) <= 2
    assert any(not {"amyloid", "tau"} & set(site.modalities) for site in sites)
    assert any("amyloid" in site.modalities and "tau" not in site.modalities for site in sites)
    assert max(site.size for site in sites) > 4 * min(site.size for site in sites)


def test_sites_enrol_in_proportion_to_their_size(many: tuple[Subject, ...]) -> None:
    counts = Counter(s.site.code for s in many)
    total = sum(site.size for site in CohortConfig().site_table)
    for site in CohortConfig().site_table:
        assert counts[site.code] / len(many) == pytest.approx(site.size / total, abs=0.03)


def test_old_phases_have_neither_flair_nor_tau(many: tuple[Subject, ...]) -> None:
    # A subject whom nothing was collected from gets the site's first modality, which is T1.
    assert not any({"flair", "tau"} & set(s.observed) for s in many if s.phase.name == "ADNI1")
    assert not any("tau" in s.observed for s in many if s.phase.name == "ADNIGO")


def test_modalities_go_missing_at_the_rates_that_are_set() -> None:
    rates = MissingConfig(t1=0.05, flair=0.35, amyloid=0.0, tau=0.65, by_phase=False, by_severity=0)
    subjects = draw_subjects(CohortConfig(subjects=1200, sites=ALL_SITES_ALL_MODALITIES, missing=rates))
    absent = {m: np.mean([m not in s.observed for s in subjects]) for m in MODALITIES}
    assert absent == pytest.approx({"t1": 0.05, "flair": 0.35, "amyloid": 0.0, "tau": 0.65}, abs=0.04)


def test_the_frail_miss_tau_more_often_only_where_severity_counts() -> None:
    def excess(by_severity: float) -> float:
        missing = MissingConfig(by_phase=False, by_severity=by_severity)
        subjects = draw_subjects(CohortConfig(subjects=1500, sites=ALL_SITES_ALL_MODALITIES, missing=missing))
        frail = [s for s in subjects if s.latents.severity_points > 2.5]
        others = [s for s in subjects if s.latents.severity_points <= 2.5]
        return float(
            np.mean(["tau" not in s.observed for s in frail]) - np.mean(["tau" not in s.observed for s in others])
        )

    assert abs(excess(0)) < 0.04
    assert excess(3) > 0.12


def test_those_who_decline_drop_out_sooner_only_where_decline_counts() -> None:
    def excess(by_decline: float) -> float:
        missing = MissingConfig(by_decline=by_decline, mean_follow_up_months=60)
        subjects = draw_subjects(CohortConfig(subjects=1500, missing=missing))
        stays = np.array([s.visits[-1].month - s.index_month for s in subjects])
        fast = np.array([s.latents.decline_points_per_year > 1 for s in subjects])
        return float(stays[~fast].mean() - stays[fast].mean())

    assert abs(excess(0)) < 5
    assert excess(1) > 8


def test_everybody_has_mci_a_score_and_an_image_at_the_index_visit_and_none_before(many: tuple[Subject, ...]) -> None:
    for subject in many:
        index = subject.index_visit
        assert index.diagnosis == "MCI"
        assert index.cdrsb >= 0.5
        assert all(v.diagnosis == "CN" for v in subject.visits if v.day < index.day)
        assert [v.day for v in subject.visits] == sorted(v.day for v in subject.visits)
    assert 0.04 < np.mean([s.index_month > 0 for s in many]) < 0.12


def test_a_subject_depends_on_seed_and_index_alone() -> None:
    first = draw_subjects(CohortConfig(subjects=11))
    others = [
        CohortConfig(subjects=37),
        CohortConfig(subjects=11, grid=VolumeGrid(shape=(91, 109, 91), spacing_mm=2.0)),
        CohortConfig(subjects=11, layout="caps"),
    ]
    for config in others:
        assert draw_subjects(config)[:11] == first
    assert draw_subjects(CohortConfig(subjects=11, seed=1)) != first


def test_scanner_strength_leaves_people_and_their_course_alone() -> None:
    assert draw_subjects(CohortConfig(subjects=7, site_shift=0)) == draw_subjects(
        CohortConfig(subjects=7, site_shift=2)
    )


def test_shorter_follow_up_only_cuts_later_visits() -> None:
    long, short = (draw_subjects(CohortConfig(subjects=31, follow_up_months=m)) for m in (84, 24))
    for whole, cut in zip(long, short, strict=True):
        assert cut.visits == tuple(v for v in whole.visits if v.month - whole.index_month <= 24)


def test_all_modalities_are_there_when_asked_for() -> None:
    assert all(s.observed == MODALITIES for s in draw_subjects(CohortConfig(subjects=53, all_modalities=True)))


def test_adnimerge_has_the_real_header_and_one_row_a_visit() -> None:
    config = CohortConfig(subjects=300)
    subjects = draw_subjects(config)
    table = adnimerge_table(subjects, config)
    assert tuple(table.columns) == ADNIMERGE_COLUMNS
    assert len(ADNIMERGE_COLUMNS) == len(set(ADNIMERGE_COLUMNS)) == 116
    assert len(table) == sum(len(s.visits) for s in subjects)
    assert not table.duplicated(["RID", "VISCODE"]).any()
    assert set(table.VISCODE) >= {"bl", "m06", "m12", "m24", "m84"}
    assert (table.CDRSB == -4).any(), "ADNI's missing code has to occur, or no reader learns to map it"
    assert set(table.loc[table.CDRSB < 0, "CDRSB"]) <= {-4.0, -1.0}
    assert table.groupby("RID").CDRSB_bl.nunique().eq(1).all()


def test_the_two_clinical_tables_agree_visit_by_visit() -> None:
    config = CohortConfig(subjects=53)
    subjects = draw_subjects(config)
    merged = adnimerge_table(subjects, config).merge(cdr_table(subjects), on=["RID", "VISCODE"], suffixes=("", "_new"))
    assert len(merged) == sum(len(s.visits) for s in subjects)
    assert (merged.CDRSB_new == merged.CDRSB).all()
    assert (merged.EXAMDATE == merged.VISDATE).all()


def test_participants_are_named_as_clinica_names_them() -> None:
    subjects = draw_subjects(CohortConfig(subjects=29))
    table = participants_table(subjects)
    for subject, name, ptid in zip(subjects, table.participant_id, table.alternative_id_1, strict=True):
        assert ptid == subject.ptid
        assert name == "sub-ADNI{}S{}".format(*subject.ptid.split("_S_"))


def test_any_number_of_sites_can_be_asked_for() -> None:
    for count in (1, 7, 59, 130):
        codes = [site.code for site in CohortConfig(sites=count).site_table]
        assert len(codes) == len(set(codes)) == count


def test_a_site_declared_twice_is_refused() -> None:
    sites = [{"code": "011"}, {"code": "011"}]
    with pytest.raises(ConfigurationError, match="twice: 011"):
        parse_config({"sites": sites}, CohortConfig, "test")


def test_a_misspelt_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="site_shift"):
        parse_config({"site_shfit": 1}, CohortConfig, "test")
