"""docs/scaling.md and its figures: everything comes from the JSON of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_benchmarks.pages.laws import end_exponent
from permmoe_benchmarks.pages.projections import HOSPITALS, PATIENTS, projections
from permmoe_benchmarks.pages.scaling_figures import scaling_figures
from permmoe_benchmarks.pages.series import DEFAULT_FIGURE, Estimate, Result, law_of, series
from permmoe_benchmarks.pages.text import amount, figure_text, precise_duration, precise_size

FURTHER_FIGURES = {
    "step": ("memory_mb",), "plain_round": ("bytes", "server_memory_mb"), "epoch": ("memory_mb",),
    "secure_round": ("site_seconds", "bytes"), "superlink_round": ("server_memory_mb", "database_mb"),
    "private_step": ("private_memory_mb",),
}  # fmt: skip
"""By kind of point: the figures in the table of laws beside DEFAULT_FIGURE."""


def write_scaling_page(out: Path) -> list[Path]:
    """Write the page and its figures from the JSON beside them, and return their files."""
    result = json.loads(out.with_suffix(".json").read_text())
    written = []
    for name, svg in scaling_figures(result, (HOSPITALS, PATIENTS)).items():
        path = out.with_name(f"{out.name}-{name}.svg")
        write_file(path, svg, mode=PUBLIC_MODE, is_durable=False)
        written.append(path)
    path = out.with_suffix(".md")
    pictures = {p.stem.removeprefix(f"{out.name}-"): p.name for p in written}
    write_file(path, scaling_page(result, pictures), mode=PUBLIC_MODE, is_durable=False)
    return [path, *written]


def scaling_page(result: Result, pictures: Mapping[str, str]) -> str:
    """The page as Markdown; `pictures` has the file of each figure."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False)
    templates.filters |= {
        "figure": figure_text, "duration": _duration, "size": _size, "amount": amount, "estimate": estimate_columns,
    }  # fmt: skip
    template = templates.get_template("scaling.md.j2")
    text = template.render(**result, p=projections(result), laws=laws(result), pictures=pictures)
    return text.rstrip() + "\n"


def laws(result: Result) -> list[dict[str, Any]]:
    """The rows of the table of laws: one for each curve and figure."""
    rows = []
    for name, curve in result["curves"].items():
        for figure in (DEFAULT_FIGURE[curve["kind"]], *FURTHER_FIGURES.get(curve["kind"], ())):
            found = series(curve, figure)
            law = law_of(found)
            end = end_exponent(found.x, found.median) if law else None
            rows.append(
                {"name": name, "figure": figure, "axis": curve["axis"], "series": found, "law": law, "end": end}
            )
    return rows


def estimate_columns(found: Estimate | None, figure: str) -> str:
    """An estimate's value, interval, source and steeper alternative, as the columns of a table's row."""
    if found is None:
        return "not measured | | |"
    steep = f"{amount(found.steep, figure)}" if found.steep is not None else ""
    interval = f"{amount(found.lower, figure)} to {amount(found.upper, figure)}"
    return f"**{amount(found.y, figure)}** | {interval} | {found.source} | {steep}"


def _duration(found: float | Estimate | None) -> str:
    value = found.y if isinstance(found, Estimate) else found
    return "not measured" if value is None else precise_duration(value)


def _size(found: float | Estimate | None) -> str:
    value = found.y if isinstance(found, Estimate) else found
    return "not measured" if value is None else precise_size(value)
