"""How long after a visit its outcome is: a study that says so is of outcomes of that horizon alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from permmoe.errors import DataError
from permmoe_client.site import SiteConfig


def other_horizon(own: Iterable[float], study: float | None) -> str:
    """Why outcomes of these horizons, months, are not the study's; empty where they are, or it declares none (None)."""
    others = sorted(months for months in own if study is not None and not math.isclose(months, study))
    if study is None or not others:
        return ""
    return f"the study predicts over {study:g} months, and outcomes here are {others[0]:g} months after the visit"


def remedy(site: SiteConfig, study: float) -> str:
    """What to do where they are not."""
    if site.folders:
        return f"set 'folders.target.horizon_months' to {study:g}, or decline the study"
    return f"name a manifest of outcomes {study:g} months after the visit, or decline the study"


def require_horizon(site: SiteConfig, own: Iterable[float], study: float | None) -> None:
    """Raise DataError where the site's outcomes are of another horizon than the study's."""
    if study is not None and (trouble := other_horizon(own, study)):
        sentence = f"{trouble}: {remedy(site, study)}"
        raise DataError(sentence, for_log=sentence)


def horizon_of_settings(site: SiteConfig) -> tuple[float, ...]:
    """The horizon that the settings ask for, months; nothing where a manifest has one of its own."""
    return (site.folders.target.horizon_months,) if site.folders else ()
