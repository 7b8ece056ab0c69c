"""docs/performance.md: the figures come from the JSON of a run, the words from the template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from permmoe_benchmarks.pages.text import figure_text


def performance_page(result: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False)
    templates.filters["figure"] = figure_text
    return templates.get_template("performance.md.j2").render(result).rstrip() + "\n"
