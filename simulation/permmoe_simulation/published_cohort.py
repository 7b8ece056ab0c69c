"""What is published of ADNI's subjects with MCI, beside which a synthetic cohort is set.

Each figure has its source, and how it is known: `read` where the source's abstract or table was read for this list;
`estimate` where it is this project's, made before from the archive's tables of contents and from memory of papers, and
no publication could be read for it. Nothing else is given: where a row says so, no figure was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from permmoe.data.cohort.realism import ADNI_AVAILABILITY
from permmoe.data.cohort.settings import MODALITIES


@dataclass(frozen=True)
class Published:
    """A figure of ADNI, or of a cohort like it, as its source has it."""

    figure: str
    source: str
    known: Literal["read", "estimate"] = "read"


BONDI = "Bondi et al. 2014, J Alzheimers Dis 42:275, Table 2: 846 of ADNI with MCI, its three groups together"
PETERSEN = "Petersen et al. 2010, Neurology 74:201: ADNI1"
ESTIMATE = "this project's estimate; no publication read has it"

_FROM_SOURCES: Mapping[str, tuple[Published, ...]] = {
    "age": (Published("73.2 (7.2 to 8.3)", BONDI),),
    "women": (Published("41%", BONDI),),
    "education": (Published("16.0 (2.5 to 3.4)", BONDI),),
    "APOE ε4 carriers": (Published("50%", BONDI),),
    "amyloid positive": (
        Published("37%", "Doraiswamy et al. 2014, Mol Psychiatry 19:1044: 52 with MCI, recently diagnosed; not ADNI"),
        Published("42%", "PMC6143120: 232 with amnestic MCI, flutemetamol; not ADNI"),
        Published("69%", "Villemagne et al. 2011, Ann Neurol 69:181: 65 with MCI, PiB; not ADNI"),
    ),
    "CDR-SB": (
        Published("1.48 (0.96)", "PMC8446666, Table 1: 77 of ADNI with MCI"),
        Published("1.58 (1.21)", "PMC9014819, Table 1: 83 with MCI, 77 Centiloids on average"),
    ),
    "MMSE": (
        Published("28.2 (1.7)", "PMC8446666, Table 1: 77 of ADNI with MCI"),
        Published("27.3 (2.3)", "PMC9014819, Table 1: 83 with MCI, 77 Centiloids on average"),
    ),
    "ADAS-Cog 13": (
        Published("19.9 (6.8)", "PMC9014819, Table 1: 83 with MCI, 77 Centiloids on average; items not said"),
    ),
    "dementia within a year": (Published("16.5%", PETERSEN),),
    "change at 24 months": (Published("0.8 to 1.0 (1.6 to 1.9)", ESTIMATE, "estimate"),),
    "no change": (
        Published("25 to 30%", ESTIMATE, "estimate"),
        Published("57% no progression over years", "JAD 2021, 10.3233/JAD-210305: 830 of NACC with MCI, latent class"),
    ),
    "better": (Published("15 to 20%", ESTIMATE, "estimate"),),
    "share of the change, vascular": (
        Published(
            "no share found; lesions predict a year's ADAS-Cog and MMSE, CDR-SB is not named",
            "Carmichael et al. 2010, Arch Neurol 67:1370: 804 of ADNI",
        ),
    ),
}


def published() -> dict[str, tuple[Published, ...]]:
    """By a figure's name in permmoe_simulation.cohort_figures."""
    total = sum(phase.subjects for phase in ADNI_AVAILABILITY.values())
    found = dict(_FROM_SOURCES)
    for name, phase in ADNI_AVAILABILITY.items():
        share = Published(f"{phase.subjects / total:.0%}", ESTIMATE, "estimate")
        read = (Published("398 with MCI in ADNI1", PETERSEN),) if name == "ADNI1" else ()
        found[f"share of subjects, {name}"] = (share, *read)
        for modality in MODALITIES:
            found[f"{modality}, {name}"] = (Published(f"{getattr(phase, modality):.0%}", ESTIMATE, "estimate"),)
    for modality in MODALITIES:
        overall = sum(phase.subjects * getattr(phase, modality) for phase in ADNI_AVAILABILITY.values()) / total
        found[f"{modality}, all phases"] = (Published(f"{overall:.0%}", ESTIMATE, "estimate"),)
    return found
