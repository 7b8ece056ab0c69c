"""Who is trained on, who chooses the stopping time, who judges: by subject or by site, never by scan."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from permmoe.config import SplitConfig
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError

Split = Literal["train", "validation", "test"]


def assign_splits(table: VisitTable, split: SplitConfig) -> VisitTable:
    """Give every visit its part; the order of rows plays no role. Splits that a table already has are kept.

    `subject`: each site divides its own subjects, ranked by a hash of seed and identifier, so a site needs to know no
    other and its fractions are exact up to rounding. `site`: whole sites are held out. Beside visits with an outcome
    those without one train encoders alone: they go to the training and move nobody else. Raises DataError where only
    some visits have a split.
    """
    given = sum(v.split != "" for v in table)
    if len(table) and given == len(table):
        return table
    if given:
        raise DataError(
            f"{given} of {len(table)} visits have a split; fill the column 'split' in every row, or leave it empty",
            for_log="only some rows of the manifest name a part of the split",
        )
    known = table.where(lambda visit: visit.delta_cdrsb is not None)
    if 0 < len(known) < len(table):
        divided = {visit.subject_id: visit for visit in assign_splits(known, split)}
        return VisitTable(tuple(divided.get(v.subject_id, replace(v, split="train")) for v in table))
    if split.scheme == "site":
        by_site = _divide_sites(table, split.seed, split.validation, split.test)
        return VisitTable(tuple(replace(v, split=by_site[v.site]) for v in table))
    groups: dict[str, list[Visit]] = defaultdict(list)
    for visit in table:
        groups[visit.site].append(visit)
    by_subject: dict[str, Split] = {}
    for visits in groups.values():
        by_subject |= _divide_subjects([v.subject_id for v in visits], split.seed, split.validation, split.test)
    return VisitTable(tuple(replace(v, split=by_subject[v.subject_id]) for v in table))


def _divide_subjects(subjects: Sequence[str], seed: int, validation: float, test: float) -> dict[str, Split]:
    """Divide one site's subjects: the first by hash are tested, the next validated, and at least one is trained on."""
    ranked = sorted(subjects, key=lambda subject: _rank(seed, subject))
    n = len(ranked)
    n_test = min(int(test * n + 0.5), n - 1)
    n_held_out = min(n_test + int(validation * n + 0.5), n - 1)
    return {
        subject: "test" if place < n_test else "validation" if place < n_held_out else "train"
        for place, subject in enumerate(ranked)
    }


def _divide_sites(table: VisitTable, seed: int, validation: float, test: float) -> dict[str, Split]:
    """Sites in hash order go where they overfill least; with three sites or more no part stays empty."""
    sizes = Counter(v.site for v in table)
    shares: dict[Split, float] = {"train": 1 - validation - test, "test": test, "validation": validation}
    shares = {part: share for part, share in shares.items() if share > 0}
    filled = dict.fromkeys(shares, 0)
    division: dict[str, Split] = {}
    for site in sorted(sizes, key=lambda site: _rank(seed, site)):
        part = min(shares, key=lambda part: (filled[part] + sizes[site]) / shares[part])
        division[site] = part
        filled[part] += sizes[site]
    for part in shares:
        sites_of = Counter(division.values())
        spare = sorted((s for s in division if sites_of[division[s]] > 1), key=lambda s: (sizes[s], _rank(seed, s)))
        if part not in sites_of and spare:
            division[spare[0]] = part
    return division


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
