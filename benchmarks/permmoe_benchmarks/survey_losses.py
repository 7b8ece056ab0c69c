"""What a survey withholds so that nobody is singled out, and what a study that follows it loses.

Hospitals are invented. All numbers are of synthetic patients; seeds are fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from permmoe.federated.release_account import ReleaseAccount, combination_groups
from permmoe.federated.survey_facts import COUNTED, PARTS, Facts
from permmoe.federated.survey_groups import survey_groups
from permmoe.federated.survey_messages import answers

FACTS = Facts(("t1", "flair", "amyloid", "tau"), (0.5, 4.5, 9.5), has_outcome=True)
LEAST = 5
HOSPITALS = (140, 90, 210, 60, 120, 45, 300, 500)
"""Patients of each."""
FIVE_SETS, SHARES = (0b0001, 0b0011, 0b0111, 0b1111, 0b0101), (0.2, 0.45, 0.2, 0.1, 0.05)
SEVERITIES, PART_SHARES, KNOWN = (0.2, 0.6, 0.15, 0.05), (0.6, 0.15, 0.25), 0.75
ASKED = (
    "any/any/any", "t1/any/known", "t1+flair/any/any", "t1+flair/any/known", "t1+flair+amyloid/any/known",
    "t1+flair+amyloid+tau/any/known", "t1+flair/1/any", "t1/3/any",
)  # fmt: skip


@dataclass
class Losses:
    """Sums over hospitals."""

    told: Counter[str] = field(default_factory=Counter)
    true: Counter[str] = field(default_factory=Counter)
    of_parts: int = 0
    """Patients in any part of the split of a study."""
    without: int = 0
    """Of them in that study's sums, without a survey before it."""
    after: int = 0
    """And after the survey."""


def measure(*, all_sets: bool, seed: int = 1) -> Losses:
    """A survey at every hospital, and after it the sums of a study over each part of the split.

    `all_sets`: modalities are there independently of each other, in all 15 sets; else patients have one of five sets.
    """
    rng, losses = np.random.default_rng(seed), Losses()
    for n in HOSPITALS:
        observed = _observed(rng, n, all_sets=all_sets)
        parts = {f"p{i:04}": str(rng.choice(PARTS, p=PART_SHARES)) for i in range(n) if rng.random() < KNOWN}
        severity = rng.choice(4, n, p=SEVERITIES)
        present = {
            name: _facts(mask, int(severity[i]), parts.get(name, "")) for i, (name, mask) in enumerate(observed.items())
        }
        labels = survey_groups(FACTS, ReleaseAccount(), present, LEAST)
        for sums, of_patients in ((losses.told, labels), (losses.true, present)):
            sums.update(answers(FACTS, Counter(FACTS.described(own).name for own in of_patients.values())))
        account = ReleaseAccount().after(labels)
        for part in PARTS:
            own = {name: observed[name] for name, of in parts.items() if of == part}
            losses.of_parts += len(own)
            losses.without += len(combination_groups(ReleaseAccount(), own, LEAST))
            losses.after += len(combination_groups(account, own, LEAST))
    return losses


def _observed(rng: np.random.Generator, n: int, *, all_sets: bool) -> dict[str, int]:
    """The observed set of each patient, a bit mask."""
    masks: Sequence[int]
    if all_sets:
        shares = rng.uniform(0.3, 1.0, 4) * np.array([1.0, 0.8, 0.5, 0.35])
        masks = [int(sum(1 << j for j in range(4) if rng.random() < shares[j])) or 1 for _ in range(n)]
    else:
        masks = [int(mask) for mask in rng.choice(FIVE_SETS, n, p=SHARES)]
    return {f"p{i:04}": mask for i, mask in enumerate(masks)}


def _facts(mask: int, severity: int, part: str) -> int:
    own = COUNTED | sum(bit for j, bit in enumerate(FACTS.modality_bits.values()) if mask >> j & 1)
    own |= FACTS.severity_bits[severity] | FACTS.outcome_bits["known" if part else "unknown"]
    return own | (FACTS.part_bits[part] if part else 0)


def main() -> None:
    """Print both measurements as Markdown."""
    for all_sets in (False, True):
        found = measure(all_sets=all_sets)
        print(f"\n{'all 15 sets of modalities' if all_sets else 'five sets of modalities'}, SYNTHETIC patients\n")
        print("| asked | told | true |\n|---|---|---|")
        for name in ASKED:
            print(f"| {name} | {found.told[name]:,} | {found.true[name]:,} |")
        print(
            f"\nA later study's sums are over {found.after:,} of {found.of_parts:,} patients, and {found.without:,} "
            "without the survey."
        )
