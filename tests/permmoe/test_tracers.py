"""A tracer is known by any name that tables, files and descriptions of series give it."""

from __future__ import annotations

import pytest

from permmoe.tracers import TRACERS, canonical_tracer, modality_of, tracer_in


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("18FAV45", "AV45"),
        ("18F-AV-45", "AV45"),
        ("Florbetapir F18", "AV45"),
        ("[18F]florbetapir", "AV45"),
        ("FBP", "AV45"),
        ("Amyvid", "AV45"),
        ("18FFBB", "FBB"),
        ("BAY 94-9172", "FBB"),
        ("flutemetamol", "FMM"),
        ("11CPIB", "PiB"),
        ("C11-PiB", "PiB"),
        ("Pittsburgh Compound-B", "PiB"),
        ("AZD4694", "NAV4694"),
        ("18FAV1451", "AV1451"),
        ("T807", "AV1451"),
        ("Tauvid", "AV1451"),
        ("MK-6240", "MK6240"),
        ("pi2620", "PI2620"),
        ("PM-PBB3", "APN1607"),
    ],
)
def test_an_alias_means_its_tracer(label: str, name: str) -> None:
    assert canonical_tracer(label) == name


@pytest.mark.parametrize("label", ["", "none", "18FFDG", "FDG", "T80", "AV", "15OH2O"])
def test_other_tracers_are_none(label: str) -> None:
    assert canonical_tracer(label) is None and modality_of(label) is None


def test_no_alias_means_two_tracers() -> None:
    aliases = [alias.upper() for tracer in TRACERS for alias in {tracer.name.upper(), *tracer.aliases}]
    assert len(aliases) == len(set(aliases))
    assert all(canonical_tracer(tracer.name) == tracer.name for tracer in TRACERS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AV45 Coreg, Avg, Std Img and Vox Siz, Uniform Resolution", "AV45"),
        ("ADNI3 AV-1451 (AC)", "AV1451"),
        ("BRAIN AV 1451 75-105", "AV1451"),
        ("PET_Brain_[18F]Florbetaben_20min", "FBB"),
        ("MK-6240 dynamic", "MK6240"),
        ("PIB Co-registered Dynamic", "PiB"),
        ("FDG brain 6x5", None),
        ("CTAC 4.0 thick", None),
        ("", None),
    ],
)
def test_a_description_tells_its_tracer(text: str, name: str | None) -> None:
    assert tracer_in(text) == name
