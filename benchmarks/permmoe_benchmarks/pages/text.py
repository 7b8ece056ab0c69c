"""Figures as text, with three significant digits.

`permmoe.runtime.text` rounds durations and sizes for a reader; here the digits are the result.
"""

from __future__ import annotations

from math import isfinite


def figure_text(value: float, unit: str) -> str:
    """A figure with its unit; all digits before the point, and three significant ones below a hundred."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + (unit if unit in ("", "×") else f" {unit}")


def precise_duration(seconds: float) -> str:
    """Seconds in the unit that a reader would choose; `not measured` for a number that is not finite."""
    if not isfinite(seconds):
        return "not measured"
    for limit, unit, name in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < limit:
            return figure_text(seconds / unit, name)
    return figure_text(seconds / 86400, "days")


def precise_size(n_bytes: float) -> str:
    """Bytes in the decimal unit that a reader would choose."""
    for limit, unit, name in ((1e3, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if n_bytes < limit:
            return figure_text(n_bytes / unit, name)
    return figure_text(n_bytes / 1e12, "TB")


def amount(value: float, figure: str) -> str:
    """A value of a figure, whose name says the unit: it ends in `seconds`, `_mb` or `bytes`, or is a ratio."""
    if figure.startswith("stage_seconds") or figure.endswith("seconds"):
        return precise_duration(value)
    if figure.endswith("_mb"):
        return precise_size(1e6 * value)
    if "bytes" in figure:
        return precise_size(value)
    return figure_text(value, "×" if figure == "ratio" else "")
