"""T1s of one subject whose brains are of too different a volume to be one person's: two people under one identifier?

A mask of the brain repeats within a few per cent from scan to scan, and a brain with Alzheimer's disease loses a few
per cent in some years. If brains of different people vary by 9% (one standard deviation; assumed, not measured here),
the volumes of two of them differ by more than `MOST` in about a quarter of pairs: the others this cannot tell. A poor
mask and many years of disease make a difference, too, so that a person has to look, and no image is left out for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.rules import Finding, Judgement, Verdict

MOST = 0.15
"""Of the smaller one's volume."""


def with_one_person_each(
    heads: Sequence[Hashable], images: Sequence[ImageMetrics], judgements: Sequence[Judgement]
) -> list[Judgement]:
    """The judgements, with a finding on each T1 whose brain's volume differs too much from another's of its head.

    `heads` says whose head each image shows; images that have failed are not compared.
    """
    volumes: dict[Hashable, dict[int, float]] = defaultdict(dict)
    for row, (head, image, judgement) in enumerate(zip(heads, images, judgements, strict=True)):
        if image.modality == "t1" and image.mask_volume_ml and judgement.verdict is not Verdict.FAILED:
            volumes[head][row] = image.mask_volume_ml
    judged = list(judgements)
    for of_head in volumes.values():
        for row, volume in of_head.items():
            other = max(of_head.values(), key=lambda one: _difference(one, volume))
            if _difference(other, volume) > MOST:
                judged[row] = Judgement((*judged[row].findings, _finding(volume, other)))
    return judged


def _difference(one: float, other: float) -> float:
    return max(one, other) / min(one, other) - 1


def _finding(volume: float, other: float) -> Finding:
    text = (
        f"Volume of the mask: {volume:.0f} ml, and {other:.0f} ml in another T1 of this subject, more than {MOST:.0%} "
        "apart; two people may be under one identifier, or one of the masks is poor"
    )
    return Finding(Verdict.LOOK, "mask_volume_ml", text, None)
