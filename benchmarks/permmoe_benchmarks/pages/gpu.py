"""A card's figures as Markdown: the chapter of docs/gpu.md that has the card's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from permmoe_benchmarks.pages.text import figure_text

HEADER = """| encoder | way | ms a step | times as fast as strict fp32 | share of its peak | device busy | peak memory |
|---|---|---|---|---|---|---|"""


STRICT, HALF, FIXED = "fp32, strict", "bf16", "bf16, deterministic"
"""Ways that others are compared with, by their names in `measurements/gpu_step.py`."""


def gpu_page(result: Mapping[str, Any]) -> str:
    """A chapter, from the figures of `benchmarks/gpu.py`."""
    peaks = ", ".join(f"{figure_text(value, 'TFLOP/s')} in {name}" for name, value in result["peaks"].items())
    versions = ", ".join(
        f"{name} {value}" for name, value in result["versions"].items() if name in ("torch", "permmoe")
    )
    warning = "**Small sizes, which try the command and say nothing of the device.** " if result["is_quick"] else ""
    grid = "×".join(map(str, result["grid"]))
    return "\n".join([
        f"## {result['device']}",
        "",
        f"{warning}{result['machine']}, {versions}, seed {result['seed']}. {grid} voxels, {result['visits']} visits, "
        f"half of their volumes missing, random numbers; median of {result['repeats']} steps. Square matrices reached "
        f"{peaks}.",
        "",
        HEADER,
        *(_row(kind, name, own, result["peaks"]) for kind, own in result["encoders"].items() for name in own["ways"]),
        "",
        *(_sentence(kind, own) for kind, own in result["encoders"].items()),
        *_study(result["study"]),
    ])  # fmt: skip


def _row(kind: str, name: str, own: Mapping[str, Any], peaks: Mapping[str, float]) -> str:
    found = own["ways"][name]
    if "failed" in found:
        return f"| {kind} | {name} | {found['failed'].replace('|', '/')} | | | | |"
    strict = own["ways"][STRICT]
    speed = figure_text(strict["ms"] / found["ms"], "×") if "ms" in strict else ""
    # GFLOP a millisecond are TFLOP a second.
    share = 100 * own["gflop"] / found["ms"] / peaks[found["precision"]]
    busy = f"{figure_text(found['busy_ms'], 'ms')} ({100 * found['busy_ms'] / found['ms']:.0f}%)"
    memory = "" if found["gb"] is None else figure_text(found["gb"], "GB")
    return f"| {kind} | {name} | {figure_text(found['ms'], '')} | {speed} | {share:.1f}% | {busy} | {memory} |"


def _sentence(kind: str, own: Mapping[str, Any]) -> str:
    waits = ", ".join(f"{line} ({n})" for line, n in own["synchronisations"].items()) or "none seen"
    said = [
        f"- {kind}: {figure_text(own['gflop'], 'GFLOP')} a step; {_price(own['ways'])};",
        f"two trainings with deterministic algorithms: {own['deterministic']};",
        f"lines that wait for the device: {waits}.",
    ]
    if memory := own["computed_memory"]:
        said += [
            f"Computed, in fp32: {figure_text(memory['gb'], 'GB')} a step,",
            f"{memory['visits_on_the_card']} visits at once on a card of {memory['card_gb']:.0f} GB.",
        ]
    return " ".join(said)


def _price(ways: Mapping[str, Mapping[str, Any]]) -> str:
    plain, fixed = ways[HALF], ways[FIXED]
    if "ms" not in plain or "ms" not in fixed:
        return "the price of determinism is unknown"
    return f"determinism takes {figure_text(fixed['ms'] / plain['ms'], '×')} the time in bf16"


def _study(study: Mapping[str, Any]) -> list[str]:
    if not study:
        return []
    if "failed" in study:
        return [f"- no rate of a study: {study['failed']}"]
    return [
        f"- `simulation/run.py` on {study['device']}: {figure_text(study['cells_an_hour'], 'cells')} an hour, "
        f"{study['workers']} at a time ({study['cells']} cells of the default study's federated method, "
        f"{study['rounds']} rounds, {study['subjects']} synthetic subjects)."
    ]
