"""The end of `permmoe data prepare` in a terminal: how many images are good, why others are not; names no one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.table import Table

from permmoe.preparation.quality.judged import Judged
from permmoe.preparation.quality.limits import MEASURES, MODALITY_NAMES
from permmoe.preparation.quality.rules import Verdict

MOST_DOUBTS = 3
"""What images are doubted for is listed so far: the page lists all."""


def summary_table(judged: Iterable[Judged]) -> Table:
    """A row for each modality, in the order of the model's own, and the reasons most often met."""
    images = list(judged)
    table = Table("modality", title="Prepared images", title_justify="left")
    for heading in ("good", "to look at", "failed"):
        table.add_column(heading, justify="right")
    table.add_column("why", overflow="fold")
    others = {image.modality: image.modality for image in images if image.modality not in MODALITY_NAMES}
    for modality, name in (MODALITY_NAMES | others).items():
        own = [image for image in images if image.modality == modality]
        counts = Counter(image.verdict for image in own)
        if own:
            table.add_row(name, *(str(counts[verdict]) for verdict in Verdict), _why(own))
    return table


def _why(images: Iterable[Judged]) -> str:
    """Reasons of failures, then titles of doubts, each with its count."""
    titles = {measure.field: measure.title for measure in MEASURES}
    reasons: Counter[str] = Counter()
    doubts: Counter[str] = Counter()
    for image in images:
        if image.reason is not None:
            reasons[str(image.reason)] += 1
        elif image.verdict is Verdict.LOOK:
            doubts[titles[image.judgement.findings[0].field]] += 1
    return "; ".join(f"{text} ({count})" for text, count in [*reasons.most_common(), *doubts.most_common(MOST_DOUBTS)])
