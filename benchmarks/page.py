"""docs/performance.md, written from the JSON of a run and from nothing else: figures there, words in the template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def figure_text(value: float, unit: str) -> str:
    """A figure with its unit, three digits at most where it is below a hundred."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + (unit if unit in ("", "×") else f" {unit}")


def page(result: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False)
    templates.filters["figure"] = figure_text
    return templates.get_template("performance.md.j2").render(result).rstrip() + "\n"
