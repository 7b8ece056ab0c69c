"""What a run says of many hospitals and patients: measured there, or computed by the curves' laws."""

from __future__ import annotations

import statistics
from typing import Any

from permmoe_benchmarks.pages.series import DEFAULT_FIGURE, Estimate, Result, estimate, series

HOSPITALS, PATIENTS = 1000, 100_000
CAPACITIES = (10, 100, 1000)
"""Numbers of hospitals that a coordinator's machine is described for."""
CORES, GIGABIT = 64, 1e9 / 8
"""The cores of the cluster and the line (bytes a second) that a projection is made for."""


def projections(result: Result) -> dict[str, Any]:
    """All that the page says of HOSPITALS and PATIENTS; what cannot be computed is None."""
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
    silent_site, silent = (at("round-secure-silent", f"{who}_seconds", HOSPITALS) for who in ("site", "server"))
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
        "silent": silent, "silent_site": silent_site,
        "secure_down": at("round-secure", "bytes_down", HOSPITALS),
        "secure_traffic": at("round-secure", "bytes", HOSPITALS),
        "ray": ray, "idle": at("round-superlink", "idle_cores", HOSPITALS),
        "link_most": _largest(result, "round-superlink"),
        "idle_requests": HOSPITALS / constants["wait_seconds"],
        "capacity": {n: _capacity(result, n) for n in CAPACITIES},
        "parts": parts, "longest": max(known, key=known.__getitem__) if known else None,
        "one_process": _sum(_times(HOSPITALS, training), plain),
        "one_process_secure": _sum(_times(HOSPITALS, training), _times(HOSPITALS, secure_site), secure),
        "ray_cluster": _sum(_times(HOSPITALS / CORES, _sum(training, ray)), plain),
        "superlink": _sum(training, link), "processor_shares": _processor_shares(result),
        "private": _median_of(result, "private-batch", "ratio"),
        "workers": _workers(result),
    }  # fmt: skip


def _capacity(result: Result, hospitals: int) -> dict[str, Estimate | None]:
    """What so many hospitals ask of the coordinator's machine, with plain averaging of every module."""
    figures = ("round_seconds", "processor_seconds", "idle_cores", "server_memory_mb", "database_mb")
    found = {figure: estimate(result, "round-superlink", figure, hospitals) for figure in figures}
    return found | {"bytes": estimate(result, "round-plain", "bytes", hospitals)}


def _processor_shares(result: Result) -> dict[str, float]:
    """The share of the server's processor time that each of its programs took, with the most sites measured."""
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
    """The first point's value of a figure that does not depend on x."""
    curve = result["curves"].get(name)
    return None if curve is None else series(curve, figure).median[0]


def _median_of(result: Result, name: str, figure: str) -> float | None:
    curve = result["curves"].get(name)
    return None if curve is None else statistics.median(series(curve, figure).median)


def _largest(result: Result, name: str) -> float | None:
    """The largest x of a curve."""
    curve = result["curves"].get(name)
    return None if curve is None else max(series(curve, DEFAULT_FIGURE[curve["kind"]]).x)


def _value(part: float | Estimate | None) -> float | None:
    return part.y if isinstance(part, Estimate) else part


def _sum(*parts: float | Estimate | None) -> float | None:
    """The sum, or None where a part is not known."""
    values = [_value(part) for part in parts]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _times(factor: float, part: float | Estimate | None) -> float | None:
    value = _value(part)
    return None if value is None else factor * value
