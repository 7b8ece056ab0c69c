"""docs/reasons.md: the figures come from a run of `benchmarks/faithfulness.py`, the words from the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROWS = {
    "the region with the largest value": "1",
    "the three with the largest": "3",
    "the five with the largest": "5",
}


def reasons_page(
    found: Sequence[tuple[str, Mapping[str, float]]],
    *,
    seeds: Sequence[int],
    subjects: int,
    visits: int,
    minutes: float,
) -> str:
    """The page as Markdown; `found` has the figures of each model and seed."""
    models = {model: [figures for name, figures in found if name == model] for model, _ in found}
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False)
    return (
        templates.get_template("reasons.md.j2")
        .render(
            models=models, rows=ROWS, mean=_mean, ratio=_ratio, seeds=seeds, subjects=subjects, visits=visits,
            minutes=minutes,
        )
        .rstrip()
        + "\n"
    )  # fmt: skip


def _mean(figures: Sequence[Mapping[str, float]], key: str) -> str:
    """The mean over seeds."""
    return f"{np.mean([one[key] for one in figures]):.3f}"


def _ratio(figures: Sequence[Mapping[str, float]], over: str, under: str) -> str:
    """The ratio of two figures: the mean over seeds, and the least and the most."""
    ratios = [one[over] / one[under] for one in figures]
    return f"{np.mean(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
