"""docs/scaling.md and its figures, written from the JSON of a run and from nothing else."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from page import figure_text
from scaling_figures import figures
from scaling_laws import Law, NoLawError, best_law, end_exponent

HOSPITALS, PATIENTS = 1000, 100_000
CORES, GIGABIT = 64, 1e9 / 8
"""Of the cluster and the line (bytes a second) that a projection is made for."""
DEFAULT_FIGURE = {
    "step": "seconds", "epoch": "seconds", "plain_round": "server_seconds", "secure_round": "server_seconds",
    "superlink_round": "round_seconds", "private_step": "ratio", "study": "cells_a_minute",
    "ray_overhead": "client_seconds",
}  # fmt: skip
"""By kind of point: what its curve is first of all about."""
REPEATED = ("server_seconds", "round_seconds")
"""Figures whose single rounds are in `values`."""

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """One figure along a curve: the median of each point, and the least and the most of its repeats."""

    x: list[float]
    median: list[float]
    least: list[float]
    most: list[float]
    repeats: int


@dataclass(frozen=True)
class Estimate:
    """A figure at some x, and where it comes from."""

    y: float
    lower: float
    upper: float
    source: str
    """Measured there, or by which law from how far away."""
    steep: float | None = None
    """What the last two points alone would give, where the x lies beyond the curve."""


def series(curve: Mapping[str, Any], figure: str) -> Series:
    """Of a curve in the JSON; `figure` may be a path such as stage_seconds.mask."""
    x, found = [], []
    for point in curve["points"]:
        values: list[float] = []
        for turn in point["turns"]:
            values += turn["values"] if figure in REPEATED and "values" in turn else [_figure(turn, figure)]
        x.append(float(point["x"]))
        found.append(values)
    return Series(
        x, [statistics.median(v) for v in found], [min(v) for v in found], [max(v) for v in found],
        max(len(v) for v in found),
    )  # fmt: skip


def law_of(found: Series) -> Law | None:
    """None where the points do not support one."""
    try:
        return best_law(found.x, found.median)
    except NoLawError:
        return None


def estimate(result: Result, name: str, figure: str, x: float) -> Estimate | None:
    """A figure at x: as measured where it was, else by the curve's law. None without the curve or without a law."""
    curve = result["curves"].get(name)
    if curve is None:
        return None
    found = series(curve, figure)
    if x in found.x:
        place = found.x.index(x)
        return Estimate(found.median[place], found.least[place], found.most[place], "measured")
    law = law_of(found)
    if law is None:
        return None
    try:
        projection = law.at(x)
    except NoLawError:
        return None
    if projection.beyond <= 1:
        return Estimate(projection.y, projection.lower, projection.upper, f"{law_text(law)}, within the curve")
    last = max(range(len(found.x)), key=found.x.__getitem__)
    steep = found.median[last] * (x / found.x[last]) ** end_exponent(found.x, found.median)
    source = f"{law_text(law)}, {projection.beyond:.3g} × beyond {law.largest:g}"
    return Estimate(projection.y, projection.lower, projection.upper, source, steep)


def law_text(law: Law) -> str:
    """A law's form in a few characters."""
    return f"∝ x^{law.b:.2f}" if law.form == "power" else "fixed part + x"


def projections(result: Result) -> dict[str, Any]:
    """All that the page says of so many hospitals and patients; what cannot be computed is None."""
    constants = result["constants"]
    each = PATIENTS / HOSPITALS

    def at(name: str, figure: str, x: float) -> Estimate | None:
        return estimate(result, name, figure, x)

    site_epoch = at("epoch-patients", "seconds", each)
    training = site_epoch.y * constants["local_epochs"] if site_epoch else None
    plain = at("round-plain", "server_seconds", HOSPITALS)
    link = at("round-superlink", "round_seconds", HOSPITALS)
    traffic = at("round-plain", "bytes", HOSPITALS)
    secure_site, secure = (at("round-secure", f"{who}_seconds", HOSPITALS) for who in ("site", "server"))
    stages = {
        stage: at("round-secure", f"stage_seconds.{stage}", HOSPITALS)
        for stage in ("advertise", "share", "mask", "count", "open")
    }
    ray = _single(result, "ray", "client_seconds")
    wire = traffic.y / GIGABIT if traffic else None
    parts = {
        "local training at one hospital": training,
        "the server app's own work": plain.y if plain else None,
        "the bytes on a line of 1 Gbit/s": wire,
        "a round over one SuperLink, transport and waiting included": link.y if link else None,
    }
    known = {name: seconds for name, seconds in parts.items() if seconds is not None}
    questions = _most(result, "round-superlink", "questions_a_second")
    return {
        "hospitals": HOSPITALS, "patients": PATIENTS, "each": each, "cores": CORES,
        "epoch": at("epoch-patients", "seconds", PATIENTS), "epoch_memory": at("epoch-patients", "memory_mb", PATIENTS),
        "training": training, "plain": plain, "link": link, "traffic": traffic, "wire": wire,
        "memory": at("round-plain", "server_memory_mb", HOSPITALS),
        "link_memory": at("round-superlink", "server_memory_mb", HOSPITALS),
        "database": at("round-superlink", "database_mb", HOSPITALS),
        "log": at("round-plain", "log_bytes", HOSPITALS), "secure_log": at("round-secure", "log_bytes", HOSPITALS),
        "ledger_entry": _single(result, "round-plain", "ledger_entry_bytes"),
        "model_bytes": _single(result, "round-plain", "model_bytes"),
        "secure": secure, "secure_site": secure_site, "stages": stages,
        "secure_down": at("round-secure", "bytes_down", HOSPITALS),
        "secure_traffic": at("round-secure", "bytes", HOSPITALS),
        "ray": ray, "questions": questions, "link_most": _largest(result, "round-superlink"),
        "busy_questions": HOSPITALS / constants["shortest_poll_seconds"],
        "idle_questions": HOSPITALS / constants["longest_poll_seconds"],
        "parts": parts, "longest": max(known, key=known.__getitem__) if known else None,
        "one_process": _sum(_times(HOSPITALS, training), plain),
        "one_process_secure": _sum(_times(HOSPITALS, training), _times(HOSPITALS, secure_site), secure),
        "ray_cluster": _sum(_times(HOSPITALS / CORES, _sum(training, ray)), plain),
        "superlink": _sum(training, link), "processor_shares": _processor_shares(result),
        "private": _median_of(result, "private-batch", "ratio"),
        "workers": _workers(result),
    }  # fmt: skip


def _processor_shares(result: Result) -> dict[str, float]:
    """Share of the server's processor time that each of its programs took, at the most sites."""
    curve = result["curves"].get("round-superlink")
    if curve is None:
        return {}
    seconds = curve["points"][-1]["turns"][-1]["processor_seconds_by_program"]
    return {name: value / sum(seconds.values()) for name, value in seconds.items()}


def _workers(result: Result) -> dict[str, float] | None:
    """Cells a minute with one and with two workers."""
    curve = result["curves"].get("study-workers")
    if curve is None:
        return None
    found = series(curve, "cells_a_minute")
    return {f"{x:g}": y for x, y in zip(found.x, found.median, strict=True)}


def _single(result: Result, name: str, figure: str) -> float | None:
    """A figure that does not depend on x: of the first point."""
    curve = result["curves"].get(name)
    return None if curve is None else series(curve, figure).median[0]


def _median_of(result: Result, name: str, figure: str) -> float | None:
    curve = result["curves"].get(name)
    return None if curve is None else statistics.median(series(curve, figure).median)


def _most(result: Result, name: str, figure: str) -> float | None:
    curve = result["curves"].get(name)
    return None if curve is None else max(series(curve, figure).median)


def _largest(result: Result, name: str) -> float | None:
    """The largest x of a curve."""
    curve = result["curves"].get(name)
    return None if curve is None else max(series(curve, DEFAULT_FIGURE[curve["kind"]]).x)


def _value(part: float | Estimate | None) -> float | None:
    return part.y if isinstance(part, Estimate) else part


def _sum(*parts: float | Estimate | None) -> float | None:
    """None where a part is not known."""
    values = [_value(part) for part in parts]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _times(factor: float, part: float | Estimate | None) -> float | None:
    value = _value(part)
    return None if value is None else factor * value


def laws(result: Result) -> list[dict[str, Any]]:
    """A row for each curve and figure."""
    rows = []
    further = {"step": ("memory_mb",), "plain_round": ("bytes", "server_memory_mb"), "epoch": ("memory_mb",),
               "secure_round": ("site_seconds", "bytes"), "superlink_round": ("server_memory_mb", "database_mb"),
               "private_step": ("private_memory_mb",)}  # fmt: skip
    for name, curve in result["curves"].items():
        for figure in (DEFAULT_FIGURE[curve["kind"]], *further.get(curve["kind"], ())):
            found = series(curve, figure)
            law = law_of(found)
            rows.append(
                {
                    "name": name, "figure": figure, "axis": curve["axis"], "series": found, "law": law,
                    "end": end_exponent(found.x, found.median) if law else None,
                }
            )  # fmt: skip
    return rows


def write_page(out: Path) -> list[Path]:
    """The page and its figures, from the JSON beside them; the files."""
    result = json.loads(out.with_suffix(".json").read_text())
    written = []
    for name, svg in figures(result, series, law_of, (HOSPITALS, PATIENTS)).items():
        path = out.with_name(f"{out.name}-{name}.svg")
        path.write_text(svg)
        written.append(path)
    path = out.with_suffix(".md")
    path.write_text(page(result, {p.stem.removeprefix(f"{out.name}-"): p.name for p in written}))
    return [path, *written]


def page(result: Result, pictures: Mapping[str, str]) -> str:
    """The page as Markdown; `pictures`: file of each figure."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False)
    templates.filters |= {
        "figure": figure_text, "duration": duration, "size": size, "amount": amount, "estimate": estimate_text,
    }  # fmt: skip
    template = templates.get_template("scaling.md.j2")
    text = template.render(**result, p=projections(result), laws=laws(result), pictures=pictures)
    return text.rstrip() + "\n"


def duration(seconds: float | Estimate | None) -> str:
    """Seconds in the unit that a reader would choose."""
    value = _value(seconds)
    if value is None or not math.isfinite(value):
        return "not measured"
    for limit, unit, name in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (72 * 3600, 3600, "h")):
        if value < limit:
            return figure_text(value / unit, name)
    return figure_text(value / 86400, "days")


def size(count: float | Estimate | None) -> str:
    """Bytes likewise."""
    value = _value(count)
    if value is None:
        return "not measured"
    for limit, unit, name in ((1e3, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if value < limit:
            return figure_text(value / unit, name)
    return figure_text(value / 1e12, "TB")


def amount(value: float, figure: str) -> str:
    """A value of a figure, whose name says the unit."""
    last = figure.rsplit(".", 1)[-1]
    if last.endswith("seconds") or ".seconds" in figure or figure.startswith("stage_seconds"):
        return duration(value)
    if last.endswith("_mb"):
        return size(1e6 * value)
    if "bytes" in last:
        return size(value)
    return figure_text(value, "×" if last == "ratio" else "")


def estimate_text(found: Estimate | None, figure: str) -> str:
    """Value, interval and source in the cells of a table's row."""
    if found is None:
        return "not measured | | |"
    steep = f"{amount(found.steep, figure)}" if found.steep is not None else ""
    interval = f"{amount(found.lower, figure)} to {amount(found.upper, figure)}"
    return f"**{amount(found.y, figure)}** | {interval} | {found.source} | {steep}"


def _figure(turn: Mapping[str, Any], path: str) -> float:
    found: Any = turn
    for key in path.split("."):
        found = found[key]
    return float(found)
