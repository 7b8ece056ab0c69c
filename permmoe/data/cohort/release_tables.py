"""The tables that ADNI's archive ships beside CDR, under its names and codes, drawn from the cohort's hidden states.

Clinical tables have every visit; tables of scans have those of whom the cohort has the image, at the index visit and a
year and two years after it, on days of their own. They take no random number from any other stream: a cohort with them
has the same images and the same other tables. Sites' scanners distort regions as they distort images, though less:
FreeSurfer, Centiloids and manual checks are there to take out what scanners put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, timedelta

import numpy as np
import pandas as pd
from scipy.special import expit

from permmoe.data.cohort.clinical_visits import ClinicalVisit
from permmoe.data.cohort.disease import Latents, cdrsb_at, cdrsb_before
from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.scanners import Scanner, site_scanner
from permmoe.data.cohort.scores import ClinicalScores
from permmoe.data.cohort.settings import CohortConfig
from permmoe.data.cohort.subjects import Subject
from permmoe.data.cohort.tables import eleven_items

RELEASED = "23Dec2025"
"""The day in the tables' names."""
SCANNED_MONTHS = (0, 12, 24)
"""After the index visit."""
LEFT_IN = 0.5
"""How much of a scanner's distortion the laboratories' pipelines leave in."""
ADNI2_CODES = {0: "v03", 6: "v05", 12: "v11", 24: "v21", 36: "v31", 48: "v41", 60: "v51"}
CENTILOIDS_OF_SUVR = {"FBP": (188.22, -189.16), "FBB": (157.15, -151.87)}
"""Slope and intercept of SUVR to the whole cerebellum (Royse et al. 2021, Alzheimers Res Ther 13:99)."""
TRACERS = {"AV45": "FBP", "FBB": "FBB"}
"""As UCBERKELEY calls ADNIMERGE's; Pittsburgh compound B is not in its table."""

Row = dict[str, object]


def release_tables(subjects: Iterable[Subject], config: CohortConfig) -> dict[str, pd.DataFrame]:
    """The tables by file name."""
    rows: dict[str, list[Row]] = {}
    for subject in subjects:
        for table, row in (*_of_person(subject), *_of_visits(subject, config.seed), *_of_scans(subject, config)):
            rows.setdefault(table, []).append(row)
    return {f"{table}_{RELEASED}.csv": pd.DataFrame(rows[table]) for table in sorted(rows)}


def _identity(subject: Subject, visit: ClinicalVisit) -> Row:
    phase, months = subject.phase.name, visit.month
    code = f"m{months:02d}" if months else "bl"
    of_phase = {
        "ADNI2": ADNI2_CODES.get(months, code),
        "ADNI3": f"y{months // 12}" if months and months % 12 == 0 else code,
        "ADNI4": f"4_{code}",
    }
    return {
        "PHASE": phase, "PTID": subject.ptid, "RID": subject.rid, "VISCODE": of_phase.get(phase, code),
        "VISCODE2": code, "SITEID": int(subject.site.code),
    }  # fmt: skip


def _of_person(subject: Subject) -> Iterator[tuple[str, Row]]:
    person, first = subject.person, subject.visits[0]
    born = first.day - timedelta(days=round(person.age_years * 365.25))
    yield "PTDEMOG", {
        **_identity(subject, first), "VISDATE": first.day.isoformat(), "PTGENDER": 1 if person.sex == "Male" else 2,
        "PTDOB": f"{born:%m/%Y}", "PTDOBYY": born.year, "PTEDUCAT": person.education_years,
    }  # fmt: skip
    genotype = ("3/3", "3/4", "4/4")[person.apoe4_alleles]
    yield "APOERES", {**_identity(subject, first), "APTESTDT": first.day.isoformat(), "GENOTYPE": genotype}


def _of_visits(subject: Subject, seed: int) -> Iterator[tuple[str, Row]]:
    """ADAS, DXSUM, FAQ, MMSE and REGISTRY; a code stands where a form is missing."""
    of_planned = stream(seed, Purpose.RELEASE_SCORES, subject.index)
    of_earlier = stream(seed, Purpose.EARLIER_RELEASE_SCORES, subject.index)
    missing = -1 if subject.phase.name == "ADNI1" else -4
    for visit in subject.visits:
        months, rng = visit.month - subject.index_month, of_earlier if visit.is_earlier else of_planned
        course = cdrsb_before(subject.latents, -months) if visit.is_earlier else cdrsb_at(subject.latents, months)
        points = max(0.0, course)
        noise, lost = rng.standard_normal(2), rng.random(3) < 0.02
        dated = {**_identity(subject, visit), "VISDATE": visit.day.isoformat()}
        adas = float(np.clip(round(8 + 5.0 * points + 4.0 * noise[0], 2), 0, 85))
        faq = int(np.clip(round(2.6 * points - 0.5 + 2.5 * noise[1]), 0, 30))
        if visit.scores is not None:
            yield from _own_scores(visit.scores, dated, missing)
        else:
            yield "ADAS", {**dated, "TOTSCORE": eleven_items(adas), "TOTAL13": missing if lost[0] else adas}
            yield "FAQ", {**dated, "FAQTOTAL": missing if lost[1] else faq}
            yield "MMSE", {**dated, "MMSCORE": missing if lost[2] else visit.mmse}
        code = {"CN": 1, "MCI": 2, "Dementia": 3}.get(visit.diagnosis, missing)
        examined = {**_identity(subject, visit), "EXAMDATE": visit.day.isoformat()}
        yield "DXSUM", {**examined, "DIAGNOSIS": code}
        yield "REGISTRY", {**examined, "RGCONDCT": 1}


def _own_scores(scores: ClinicalScores, dated: Row, missing: int) -> Iterator[tuple[str, Row]]:
    """The same numbers as in ADNIMERGE."""
    adas, faq, mmse = scores.adas13, scores.faq, scores.mmse
    eleven = missing if adas is None else eleven_items(adas)
    yield "ADAS", {**dated, "TOTSCORE": eleven, "TOTAL13": missing if adas is None else adas}
    yield "FAQ", {**dated, "FAQTOTAL": missing if faq is None else faq}
    yield "MMSE", {**dated, "MMSCORE": missing if mmse is None else mmse}


def _of_scans(subject: Subject, config: CohortConfig) -> Iterator[tuple[str, Row]]:
    scanner = site_scanner(config.seed, subject.site.code, config.site_shift)
    rng = stream(config.seed, Purpose.RELEASE_SCANS, subject.index)
    intracranial = float(rng.normal(1.56e6 if subject.person.sex == "Male" else 1.40e6, 1.1e5))
    for months in SCANNED_MONTHS:
        # Numbers are drawn for every scan, whether it was made or not: a shorter follow-up only cuts the list.
        days = [timedelta(days=int(day)) for day in rng.integers(-30, 31, 4)]
        rows = (
            ("t1", "UCSFFSX7", _freesurfer(subject, scanner, months, intracranial, rng)),
            ("flair", "UCD_WMH", _lesions(subject.latents, scanner, months, intracranial, rng)),
            ("amyloid", "UCBERKELEY_AMY_6MM", _amyloid(subject, scanner, months, rng)),
            ("tau", "UCBERKELEY_TAU_6MM", _tau(subject.latents, scanner, months, rng)),
        )
        visit = next((v for v in subject.visits if v.month == subject.index_month + months), None)
        for (modality, table, row), shift in zip(rows, days, strict=True):
            if visit is not None and row is not None and modality in subject.observed:
                yield table, {**_identity(subject, visit), **_dated(table, visit.day + shift), **row}


def _dated(table: str, day: date) -> Row:
    made = day + timedelta(days=400)
    if table.startswith("UCBERKELEY"):
        return {"SCANDATE": day.isoformat(), "PROCESSDATE": made.isoformat()}
    return {"EXAMDATE": day.isoformat(), "RUNDATE": made.isoformat()}


def _atrophy(latents: Latents, scanner: Scanner, months: int) -> float:
    progressed = min(latents.neurodegeneration + 0.12 * max(latents.tau, 0.0) * months / 12, 2.0)
    return progressed + LEFT_IN * scanner.apparent_atrophy


def _freesurfer(subject: Subject, scanner: Scanner, months: int, intracranial: float, rng: np.random.Generator) -> Row:
    """mm and mm³; volumes grow with the head. One of twenty has a lobe that failed, one of fifty failed altogether."""
    atrophy, loss = _atrophy(subject.latents, scanner, months), subject.latents.hippocampal_loss
    size, age = intracranial / 1.48e6, subject.person.age_z
    noise = rng.standard_normal(10)
    hippocampus = (3900 - 750 * atrophy - 350 * loss) * size**0.7
    ventricle = 13_000 * np.exp(0.65 * atrophy + 0.15 * age) * size
    quality, lobe = rng.random(), str(rng.choice(["TEMPQC", "HIPPOQC", "VENTQC"]))
    rating = "Fail" if quality < 0.02 else "Partial" if quality < 0.07 else "Pass"
    lobes = {name: "Fail" if rating == "Fail" or (rating == "Partial" and name == lobe) else "Pass"
             for name in ("TEMPQC", "HIPPOQC", "VENTQC")}  # fmt: skip
    return {
        "FSVER": "7.4.1", "STATUS": "complete", "OVERALLQC": rating, **lobes,
        "ST10CV": round(intracranial, 1),
        "ST29SV": round(hippocampus + 140 * noise[0], 1), "ST88SV": round(1.02 * hippocampus + 140 * noise[1], 1),
        "ST24TA": round(3.45 - 0.50 * atrophy + 0.16 * noise[2], 3),
        "ST83TA": round(3.50 - 0.50 * atrophy + 0.16 * noise[3], 3),
        "ST26TA": round(2.70 - 0.22 * atrophy + 0.08 * noise[4], 3),
        "ST85TA": round(2.70 - 0.22 * atrophy + 0.08 * noise[5], 3),
        "ST40TA": round(2.75 - 0.24 * atrophy + 0.08 * noise[6], 3),
        "ST99TA": round(2.77 - 0.24 * atrophy + 0.08 * noise[7], 3),
        "ST37SV": round(float(ventricle * np.exp(0.20 * noise[8])), 1),
        "ST96SV": round(float(0.93 * ventricle * np.exp(0.20 * noise[9])), 1),
    }  # fmt: skip


def _lesions(latents: Latents, scanner: Scanner, months: int, intracranial: float, rng: np.random.Generator) -> Row:
    """ml."""
    vascular = latents.vascular + 0.05 * months / 12 + LEFT_IN * scanner.apparent_lesions
    lesions, is_bad = float(np.exp(1.2 + 0.8 * vascular + 0.25 * rng.standard_normal())), rng.random() < 0.02
    cranial = round(0.78 * intracranial / 1000, 2)
    return {"STATUS": "BAD FLAIR" if is_bad else "", "CEREBRUM_TCV": cranial, "TOTAL_WMH": round(lesions, 3)}


def _amyloid(subject: Subject, scanner: Scanner, months: int, rng: np.random.Generator) -> Row | None:
    """Centiloids are whole numbers, below 0 in many: −4 and −1 among them are measurements."""
    load = subject.latents.amyloid + 0.02 * months / 12 + LEFT_IN * scanner.apparent_amyloid
    centiloids, quality = round(95 * max(load, -0.25) + 6 * rng.standard_normal()), rng.random()
    tracer = TRACERS.get(scanner.amyloid_tracer(subject.phase.name).column)
    if tracer is None:
        return None
    slope, intercept = CENTILOIDS_OF_SUVR[tracer]
    return {
        "qc_flag": _flag(quality), "TRACER": tracer, "AMYLOID_STATUS": int(centiloids > 20), "CENTILOIDS": centiloids,
        "SUMMARY_SUVR": round((centiloids - intercept) / slope, 3),
    }  # fmt: skip


def _tau(latents: Latents, scanner: Scanner, months: int, rng: np.random.Generator) -> Row:
    """Uptake ratios: Braak stages light up one after another, as in the images."""
    tau = latents.tau + 0.03 * months / 12 + LEFT_IN * scanner.apparent_tau
    early, middle, late = expit((tau - np.array([0.30, 0.48, 0.72])) / 0.09)
    noise, quality, calibration = rng.standard_normal(4), rng.random(), scanner.tau_calibration**LEFT_IN
    load = max(tau, 0.0)
    regions = {
        "META_TEMPORAL_SUVR": 1.12 + 0.15 * early + 0.90 * load * middle,
        "CTX_ENTORHINAL_SUVR": 1.10 + 0.60 * early,
        "CTX_INFERIORTEMPORAL_SUVR": 1.15 + 1.10 * load * middle,
        "CTX_PRECUNEUS_SUVR": 1.08 + 1.00 * load * late,
    }
    ratios = {
        name: round(float((ratio + 0.06 * z) * calibration), 3)
        for (name, ratio), z in zip(regions.items(), noise, strict=True)
    }
    return {"qc_flag": _flag(quality), "TRACER": "FTP", **ratios}


def _flag(quality: float) -> int:
    """2 pass, 1 partial pass, 0 fail, −1 not assessed."""
    return 0 if quality < 0.01 else -1 if quality < 0.02 else 1 if quality < 0.07 else 2
