"""One stream of random numbers for each (seed, thing, purpose), so that nothing depends on order or count."""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. A number, once used, keeps its meaning: changing one changes every cohort."""

    PHASES = 0
    IDENTIFIERS = 1
    SITE = 2
    SUBJECT = 3
    VISITS = 4
    MISSING = 5
    ANATOMY = 6
    LESIONS = 7
    PATTERNS = 8
    MISREGISTRATION = 9
    T1 = 10
    FLAIR = 11
    AMYLOID = 12
    TAU = 13
    FINE_WARP = 14
    EARLIER_VISITS = 15
    EARLIER_NOISE = 16
    EARLIER_SCORES = 17
    EARLIER_RELEASE_SCORES = 18
    RELEASE_SCORES = 20
    RELEASE_SCANS = 21
    CLINICAL_SCORES = 22
    RAW_HEAD = 30
    RAW_T1 = 31
    RAW_FLAIR = 32
    RAW_AMYLOID = 33
    RAW_TAU = 34


def stream(seed: int, purpose: Purpose, key: int | str = 0) -> np.random.Generator:
    """The generator for one subject (key: its index), one site (key: its code), or the cohort (key: 0)."""
    number = zlib.crc32(key.encode()) if isinstance(key, str) else key
    return np.random.default_rng([seed, int(purpose), number])
