"""The clinical tables of the cohort under ADNI's own names: ADNIMERGE, CDR, and Clinica's participants and sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

import pandas as pd

from permmoe.data.cohort.clinical_visits import ClinicalVisit
from permmoe.data.cohort.disease import EVENLY
from permmoe.data.cohort.scanners import site_scanner
from permmoe.data.cohort.settings import CohortConfig
from permmoe.data.cohort.subjects import Subject, case_mix

_ECOG = tuple(
    f"Ecog{who}{what}"
    for who in ("Pt", "SP")
    for what in ("Mem", "Lang", "Visspat", "Plan", "Organ", "Divatt", "Total")
)

ADNIMERGE_COLUMNS: tuple[str, ...] = (
    "RID", "COLPROT", "ORIGPROT", "PTID", "SITE", "VISCODE", "EXAMDATE", "DX_bl", "AGE", "PTGENDER", "PTEDUCAT",
    "PTETHCAT", "PTRACCAT", "PTMARRY", "APOE4", "FDG", "PIB", "AV45", "FBB", "ABETA", "TAU", "PTAU", "CDRSB", "ADAS11",
    "ADAS13", "ADASQ4", "MMSE", "RAVLT_immediate", "RAVLT_learning", "RAVLT_forgetting", "RAVLT_perc_forgetting",
    "LDELTOTAL", "DIGITSCOR", "TRABSCOR", "FAQ", "MOCA", *_ECOG, "FLDSTRENG", "FSVERSION", "IMAGEUID", "Ventricles",
    "Hippocampus", "WholeBrain", "Entorhinal", "Fusiform", "MidTemp", "ICV", "DX", "mPACCdigit", "mPACCtrailsB",
    "EXAMDATE_bl", "CDRSB_bl", "ADAS11_bl", "ADAS13_bl", "ADASQ4_bl", "MMSE_bl", "RAVLT_immediate_bl",
    "RAVLT_learning_bl", "RAVLT_forgetting_bl", "RAVLT_perc_forgetting_bl", "LDELTOTAL_BL", "DIGITSCOR_bl",
    "TRABSCOR_bl", "FAQ_bl", "mPACCdigit_bl", "mPACCtrailsB_bl", "FLDSTRENG_bl", "FSVERSION_bl", "IMAGEUID_bl",
    "Ventricles_bl", "Hippocampus_bl", "WholeBrain_bl", "Entorhinal_bl", "Fusiform_bl", "MidTemp_bl", "ICV_bl",
    "MOCA_bl", *(f"{name}_bl" for name in _ECOG), "ABETA_bl", "TAU_bl", "PTAU_bl", "FDG_bl", "PIB_bl", "AV45_bl",
    "FBB_bl", "Years_bl", "Month_bl", "Month", "M", "update_stamp",
)  # fmt: skip
"""The header of ADNIMERGE.csv, in its order; columns that the cohort does not model stay empty."""

CDR_COLUMNS = (
    "PHASE", "PTID", "RID", "VISCODE", "VISCODE2", "VISDATE", "CDGLOBAL", "CDRSB", "SITEID", "update_stamp",
)  # fmt: skip

UPDATE_STAMP = "2025-12-23 00:00:00.0"


def adnimerge_table(subjects: Iterable[Subject], config: CohortConfig) -> pd.DataFrame:
    """One row a visit, `ADNIMERGE_COLUMNS`."""
    rows = [row for subject in subjects for row in _adnimerge_rows(subject, config)]
    return pd.DataFrame(rows, columns=list(ADNIMERGE_COLUMNS)).sort_values(["RID", "M"], ignore_index=True)


def cdr_table(subjects: Iterable[Subject]) -> pd.DataFrame:
    """The Clinical Dementia Rating under the names of newer releases, one row a visit."""
    rows = [
        {
            "PHASE": subject.phase.name,
            "PTID": subject.ptid,
            "RID": subject.rid,
            "VISCODE": viscode(visit),
            "VISCODE2": viscode(visit),
            "VISDATE": visit.day.isoformat(),
            "CDGLOBAL": _global_rating(visit.cdrsb),
            "CDRSB": visit.cdrsb,
            "SITEID": int(subject.site.code),
            "update_stamp": UPDATE_STAMP,
        }
        for subject in subjects
        for visit in subject.visits
    ]
    return pd.DataFrame(rows, columns=list(CDR_COLUMNS)).sort_values(["RID", "VISDATE"], ignore_index=True)


def participants_table(subjects: Iterable[Subject]) -> pd.DataFrame:
    """`participants.tsv`, one row a subject, as adni-to-bids names its columns."""
    rows = [
        {
            "participant_id": subject.bids_id,
            "alternative_id_1": subject.ptid,
            "sex": subject.person.sex[0],
            "age_bl": subject.person.age_years,
            "education_level": subject.person.education_years,
            "apoe4": subject.person.apoe4_alleles,
            "site": subject.site.code,
            "original_study": subject.phase.name,
            "diagnosis_sc": _enrolment_diagnosis(subject),
        }
        for subject in subjects
    ]
    return pd.DataFrame(rows)


def sessions_table(subject: Subject) -> pd.DataFrame:
    """A subject's `_sessions.tsv`, one row a visit."""
    return pd.DataFrame(
        [
            {
                "session_id": session_label(visit),
                "examination_date": visit.day.isoformat(),
                "current_study": subject.phase.name,
                "diagnosis": {"Dementia": "AD", "": "n/a"}.get(visit.diagnosis, visit.diagnosis),
                "cdr_sb": visit.cdrsb if visit.cdrsb >= 0 else "n/a",
                "MMSE": "n/a" if visit.mmse is None else visit.mmse,
            }
            for visit in subject.visits
        ]
    )


def latents_table(subjects: Iterable[Subject]) -> pd.DataFrame:
    """What no real cohort has: every subject's hidden state."""
    rows = [
        {
            "participant_id": subject.bids_id,
            "PTID": subject.ptid,
            "site": subject.site.code,
            "index_session": session_label(subject.index_visit),
            "observed": "+".join(subject.observed),
            **asdict(subject.latents),
            **({} if subject.patterns is EVENLY else _named(asdict(subject.patterns), "{}_to_the_back")),
        }
        for subject in subjects
    ]
    return pd.DataFrame(rows)


def scanners_table(config: CohortConfig) -> pd.DataFrame:
    """What no real cohort has either: how each site's scanner distorts."""
    rows = []
    for site in config.site_table:
        scanner = site_scanner(config.seed, site.code, config.site_shift)
        rows.append(
            {
                "site": site.code,
                "collects": "+".join(site.modalities),
                "case_mix": case_mix(config.seed, site.code),
                "mri_gain": scanner.mri_gain,
                "mri_contrast": scanner.mri_contrast,
                "mri_fwhm_mm": scanner.mri_fwhm_mm,
                "mri_noise": scanner.mri_noise,
                "apparent_atrophy": scanner.apparent_atrophy,
                "apparent_lesions": scanner.apparent_lesions,
                "apparent_amyloid": scanner.apparent_amyloid,
                "apparent_tau": scanner.apparent_tau,
                "pet_fwhm_mm": scanner.pet_fwhm_mm,
                "pet_noise": scanner.pet_noise,
                "amyloid_calibration": scanner.amyloid_calibration,
                "tau_calibration": scanner.tau_calibration,
                "amyloid_sensitivity": scanner.amyloid_sensitivity,
                "tau_sensitivity": scanner.tau_sensitivity,
                "newer_tracer": scanner.newer_tracer.bids,
            }
        )
    return pd.DataFrame(rows)


def viscode(visit: ClinicalVisit) -> str:
    """ADNI's visit code: bl, m06, m12 …"""
    return f"m{visit.month:02d}" if visit.month else "bl"


def session_label(visit: ClinicalVisit) -> str:
    """Clinica's session label: ses-M000, ses-M012 …"""
    return f"ses-M{visit.month:03d}"


def _adnimerge_rows(subject: Subject, config: CohortConfig) -> Iterator[dict[str, object]]:
    person, first = subject.person, subject.visits[0]
    tracer = site_scanner(config.seed, subject.site.code, config.site_shift).amyloid_tracer(subject.phase.name)
    uptake = round(1.0 + 0.55 * subject.latents.amyloid, 4) if "amyloid" in subject.observed else None
    for visit in subject.visits:
        years = (visit.day - first.day).days / 365.25
        is_index = visit.month == subject.index_month
        yield {
            "RID": subject.rid,
            "COLPROT": subject.phase.name,
            "ORIGPROT": subject.phase.name,
            "PTID": subject.ptid,
            "SITE": int(subject.site.code),
            "VISCODE": viscode(visit),
            "EXAMDATE": visit.day.isoformat(),
            "DX_bl": _enrolment_diagnosis(subject),
            "AGE": person.age_years,
            "PTGENDER": person.sex,
            "PTEDUCAT": person.education_years,
            "APOE4": person.apoe4_alleles,
            tracer.column: uptake if is_index else None,
            "CDRSB": visit.cdrsb,
            "MMSE": visit.mmse,
            **_scores(visit),
            "Ventricles": visit.ventricles_mm3,
            "Hippocampus": visit.hippocampus_mm3,
            "DX": visit.diagnosis,
            "EXAMDATE_bl": first.day.isoformat(),
            "CDRSB_bl": first.cdrsb,
            "MMSE_bl": first.mmse,
            **_named(_scores(first), "{}_bl"),
            "Ventricles_bl": first.ventricles_mm3,
            "Hippocampus_bl": first.hippocampus_mm3,
            f"{tracer.column}_bl": None if subject.index_month else uptake,
            "Years_bl": round(years, 6),
            "Month_bl": round(years * 12, 5),
            "Month": visit.month,
            "M": visit.month,
            "update_stamp": UPDATE_STAMP,
        }


def _scores(visit: ClinicalVisit) -> dict[str, object]:
    """The scores that have causes of their own, beside MMSE, as far as the cohort has them."""
    if visit.scores is None:
        return {}
    of_eleven = None if visit.scores.adas13 is None else eleven_items(visit.scores.adas13)
    return {
        "ADAS11": of_eleven, "ADAS13": visit.scores.adas13, "FAQ": visit.scores.faq,
        "RAVLT_immediate": visit.scores.ravlt,
    }  # fmt: skip


def eleven_items(adas13: float) -> float:
    """ADAS-Cog of 11 items, about two thirds of that of 13: delayed recall and cancellation are not in it."""
    return round(adas13 * 0.65, 2)


def _named(values: Mapping[str, object], pattern: str) -> dict[str, object]:
    return {pattern.format(name): value for name, value in values.items()}


def _enrolment_diagnosis(subject: Subject) -> str:
    if subject.visits[0].diagnosis == "CN":
        return "CN"
    if subject.phase.name == "ADNI1":
        return "LMCI"
    is_early = subject.phase.name == "ADNIGO" or subject.latents.severity_points <= 1.35
    return "EMCI" if is_early else "LMCI"


def _global_rating(cdrsb: float) -> float:
    """The global score that usually goes with a sum of boxes (O'Bryant et al. 2008, Arch Neurol 65:1091)."""
    if cdrsb <= 0:
        return cdrsb
    return next((score for limit, score in ((4.0, 0.5), (9.0, 1.0), (15.5, 2.0)) if cdrsb <= limit), 3.0)
