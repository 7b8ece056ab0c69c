"""`qc.html`: every prepared image of a dataset on one page, the doubtful ones first.

The page is one file without a request to anywhere; only the sheets, which lie beside it, are loaded as they are looked
at, so that thousands of sessions stay quick. It names subjects: it is readable by its owner only and stays at the site.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float64
from jinja2 import Environment, StrictUndefined

from permmoe.data.reasons import Reason
from permmoe.preparation.quality.judged import Judged, worst_first
from permmoe.preparation.quality.limits import MEASURES, MODALITY_NAMES, Measure
from permmoe.preparation.quality.rules import LEAST_IMAGES, SEVERITY, Verdict, value_of
from permmoe.preparation.scan import MODALITIES
from permmoe.runtime.files import write_file

BINS = 30
MIDDLE = (0.02, 0.98)
"""A distribution is drawn as far as twice the width of this range around it; what lies beyond counts at the ends."""


NOTHING: Mapping[Reason, int] = MappingProxyType({})


@dataclass(frozen=True)
class Distribution:
    """How one measure is distributed over the images of one modality."""

    measure: Measure
    low: float
    high: float
    counts: tuple[int, ...]
    median: float
    images: int


@dataclass(frozen=True)
class Row:
    """A line of one of the summary's tables."""

    name: str
    counts: tuple[int, ...]


def write_page(
    path: Path,
    judged: Sequence[Judged],
    *,
    title: str,
    is_synthetic: bool,
    without_picture: Mapping[Reason, int] = NOTHING,
) -> None:
    """Write the page of a dataset, readable by its owner only; `title` names the dataset.

    `without_picture`: how many scans were left out before there was an image of them, by reason.
    """
    html = qc_page(judged, path.parent, title=title, is_synthetic=is_synthetic, without_picture=without_picture)
    write_file(path, html, is_durable=False)


def qc_page(
    judged: Sequence[Judged],
    folder: Path,
    *,
    title: str,
    is_synthetic: bool,
    without_picture: Mapping[Reason, int] = NOTHING,
) -> str:
    """The page's HTML, as `write_page`; its links to sheets are relative to `folder`. Every text is escaped."""
    room = files("permmoe.preparation.quality")
    script = (room / "qc.js").read_text(encoding="utf-8")
    modalities = _in_order({image.modality for image in judged})
    distributions = {m: _distributions([i for i in judged if i.modality == m]) for m in modalities}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((room / "qc.html.j2").read_text(encoding="utf-8")).render(
        title=title,
        is_synthetic=is_synthetic,
        modalities=modalities,
        names=MODALITY_NAMES,
        totals=Counter(str(image.verdict) for image in judged),
        images=len(judged),
        sessions=len({(image.subject, image.session) for image in judged}),
        by_modality=_by_modality(judged, modalities),
        by_finding=_by_finding(judged, modalities),
        without_picture=sorted(without_picture.items(), key=lambda item: (-item[1], item[0])),
        few=[m for m in modalities if sum(image.modality == m for image in judged) < LEAST_IMAGES],
        least=LEAST_IMAGES,
        distributions=distributions,
        bars=_bars,
        script=script,
        script_digest=b64encode(sha256(script.encode()).digest()).decode(),
        data=_data(judged, distributions, folder),
    )


def _data(judged: Iterable[Judged], distributions: Mapping[str, Sequence[Distribution]], folder: Path) -> str:
    """What the page's script shows, as JSON that may stand inside of an HTML element."""
    sessions: defaultdict[tuple[str, str], list[Judged]] = defaultdict(list)
    for image in worst_first(judged):
        sessions[image.subject, image.session].append(image)
    content = {
        "names": MODALITY_NAMES,
        "measures": {
            modality: [
                {
                    "field": d.measure.field, "title": d.measure.title, "unit": d.measure.unit,
                    "digits": d.measure.digits, "low": d.low, "high": d.high, "counts": d.counts, "median": d.median,
                }
                for d in of_modality
            ]
            for modality, of_modality in distributions.items()
        },
        "sessions": [_session(images, folder) for images in sessions.values()],
    }  # fmt: skip
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def _session(images: Sequence[Judged], folder: Path) -> dict[str, Any]:
    """One session; its images come worst first."""
    by_modality = sorted(images, key=lambda image: _place(image.modality))
    return {
        "subject": images[0].subject,
        "session": images[0].session,
        "verdict": images[0].verdict,
        "sheet": quote(os.path.relpath(images[0].sheet, folder).replace(os.sep, "/")),
        "images": [
            {
                "modality": image.modality,
                "verdict": image.verdict,
                "findings": [[f.verdict, f.field, f.text] for f in image.judgement.findings],
                "values": {m.field: _rounded(value_of(image.metrics, m)) for m in MEASURES},
            }
            for image in by_modality
        ],
    }


def _rounded(value: float | None) -> float | None:
    """Five significant digits; None for what JSON does not hold."""
    return float(f"{value:.5g}") if value is not None and isfinite(value) else None


def _by_modality(judged: Sequence[Judged], modalities: Sequence[str]) -> list[Row]:
    counts = Counter((image.modality, image.verdict) for image in judged)
    return [Row(m, tuple(counts[m, verdict] for verdict in SEVERITY)) for m in modalities]


def _by_finding(judged: Sequence[Judged], modalities: Sequence[str]) -> list[tuple[str, list[Row]]]:
    """How often failed images have which reason, and what doubtful ones are doubted for, by modality."""
    titles = {measure.field: measure.title for measure in MEASURES}
    reasons: Counter[tuple[str, str]] = Counter()
    doubts: Counter[tuple[str, str]] = Counter()
    for image in judged:
        if image.reason is not None:
            reasons[image.reason, image.modality] += 1
        elif image.verdict is Verdict.LOOK:
            doubts.update((titles[field], image.modality) for field in {f.field for f in image.judgement.findings})
    return [("failed", _counted(reasons, modalities)), ("look", _counted(doubts, modalities))]


def _counted(counts: Counter[tuple[str, str]], modalities: Sequence[str]) -> list[Row]:
    rows = [Row(name, tuple(counts[name, m] for m in modalities)) for name in {name for name, _ in counts}]
    return sorted(rows, key=lambda row: (-sum(row.counts), row.name))


def _distributions(images: Sequence[Judged]) -> list[Distribution]:
    """Of each measure that at least one of these images has a number for."""
    found = []
    for measure in MEASURES:
        values = np.array([v for i in images if (v := value_of(i.metrics, measure)) is not None and isfinite(v)])
        if len(values) and measure.suspicious != "none":
            found.append(_distribution(measure, values))
    return found


def _distribution(measure: Measure, values: Float64[np.ndarray, " image"]) -> Distribution:
    bulk_low, median, bulk_high = (float(q) for q in np.quantile(values, (MIDDLE[0], 0.5, MIDDLE[1])))
    reach = (bulk_high - bulk_low) or max(abs(median) * 0.1, 10.0**-measure.digits)
    low, high = max(bulk_low - reach, float(values.min())), min(bulk_high + reach, float(values.max()))
    if high <= low:
        low, high = median - reach, median + reach
    counts, _ = np.histogram(np.clip(values, low, high), BINS, (low, high))
    return Distribution(measure, low, high, tuple(int(n) for n in counts), median, len(values))


def _bars(distribution: Distribution, width: float, height: float) -> list[tuple[float, float, float, float]]:
    """The bars of a histogram: left, top, width and height in a drawing of a given size."""
    most, step = max(distribution.counts), width / BINS
    heights = [height * count / most for count in distribution.counts]
    return [(step * k, height - h, step - 0.5, h) for k, h in enumerate(heights) if h > 0]


def _in_order(modalities: Iterable[str]) -> list[str]:
    return sorted(modalities, key=_place)


def _place(modality: str) -> tuple[int, str]:
    """Where a modality stands among others."""
    return (MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES), modality)
