"""Curves are measured point by point, and the page says only what the JSON holds. No test here looks at a clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from permmoe.errors import ConfigurationError
from permmoe_benchmarks import scaling
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.measurements.projection_constants import projection_constants
from permmoe_benchmarks.measurements.registry import CURVES
from permmoe_benchmarks.pages.projections import projections
from permmoe_benchmarks.pages.scaling import write_scaling_page
from permmoe_benchmarks.pages.series import DEFAULT_FIGURE

KINDS = {curve.function: curve.kind for curve in CURVES} | {projection_constants: "constants"}


def fake_point(point: Measurement) -> dict[str, Any]:
    """Figures that follow known laws, and that no machine made."""
    kind, arguments = KINDS[point.function], point.arguments
    if kind == "constants":
        return {
            "rounds": 7, "local_epochs": 2, "epochs": 3, "batch_size": 5, "stage_deadline_seconds": 11.0,
            "wait_seconds": 8.0, "gateway_connections": 13,
            "gateway_upstream_connections": 17, "most_roster_bytes": 1_000_000, "superlink_databases": ["sqlite"],
        }  # fmt: skip
    n = next(arguments[name] for name in ("clients", "patients", "workers", "batch") if name in arguments)
    shared = {"bytes_down": 1e6, "bytes_up": 2e6, "bytes": 3e6 * n, "log_bytes": 1000 * n, "ledger_entry_bytes": 3000,
              "model_bytes": 1.6e6}  # fmt: skip
    match kind:
        case "step":
            speed = 2e-6 if arguments["kind"] == "pooled" else 9e-6 * (arguments["edge"] / 24) ** 3
            seconds = 0.004 + speed * 1000 * arguments["batch"] * arguments["modalities"]
            return {"seconds": seconds, "memory_mb": 50 + 3e3 * seconds}
        case "plain_round":
            values = [0.008 * n, 0.0082 * n, 0.0081 * n]
            return {"server_seconds": values[1], "values": values, "server_memory_mb": 25.0, **shared}
        case "secure_round":
            stages = dict.fromkeys(("advertise", "share", "mask", "count", "open"), 0.0005 * n**1.5)
            return {"server_seconds": 0.004 * n**1.4, "values": [0.004 * n**1.4, 0.0042 * n**1.4],
                    "stage_seconds": stages, "site_seconds": 5 * 0.0005 * n**1.5, **shared}  # fmt: skip
        case "superlink_round":
            return {
                "round_seconds": 2 + 0.1 * n, "values": [2 + 0.1 * n, 2.2 + 0.11 * n], "server_memory_mb": 1300 + n,
                "database_mb": 8.0, "idle_cores": 0.01 * n, "processor_seconds": 0.1 * n,
                "processor_seconds_by_program": {"superlink": 3.0, "gateway": 1.0},
            }  # fmt: skip
        case "study":
            return {"cells_a_minute": 6.0 * n**0.9}
        case "private_step":
            return {"ratio": 4.0, "private_memory_mb": 40.0 + n}
        case "epoch":
            return {"seconds": 0.01 + 7e-4 * n, "memory_mb": 60 + 0.03 * n}
        case _:
            return {"client_seconds": 0.06}


def test_every_curve_has_a_default_figure_and_places_for_every_scale() -> None:
    assert len({curve.name for curve in CURVES}) == len(CURVES)
    for curve in CURVES:
        assert curve.kind in DEFAULT_FIGURE
        assert set(curve.at) == set(curve.fixed) == set(curve.turns) == {"tiny", "quick", "full"}


def test_page_and_figures_are_written_from_the_json_alone(tmp_path: Path) -> None:
    out = tmp_path / "scaling"
    scaling.write_result(scaling.measured_result("quick", "*", fake_point), out)
    result = json.loads(out.with_suffix(".json").read_text())
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    text = files["scaling.md"]
    assert set(files) == {"scaling.json", "scaling.md", "scaling-step.svg", "scaling-round.svg", "scaling-study.svg"}
    assert all(f"| {name} |" in text for name in result["curves"])
    assert "not measured" not in text
    # Measured at 1,000 hospitals; computed where it was not; by hand: 2.1 s + 1,000 × 0.105 s.
    assert "**8.1 s** | 8 s to 8.2 s | measured" in text
    projected = projections(result)
    assert projected["link"].y == pytest.approx(2.1 + 105, rel=0.01)
    assert projected["one_process"] == pytest.approx(1000 * 2 * 0.08 + 8.1, rel=0.01)
    assert projected["longest"] == "a round over one SuperLink, transport and waiting included"
    for name in set(files) - {"scaling.json"}:
        (tmp_path / name).unlink()
    write_scaling_page(out)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_what_was_not_measured_is_said_and_not_computed(tmp_path: Path) -> None:
    scaling.write_result(scaling.measured_result("tiny", "epoch*", fake_point), tmp_path / "scaling")
    text = (tmp_path / "scaling.md").read_text()
    projected = projections(json.loads((tmp_path / "scaling.json").read_text()))
    # 40 patients are 2,500 times fewer than 100,000: that is refused.
    assert projected["epoch"] is None and projected["plain"] is None and projected["one_process"] is None
    assert "| an epoch over all patients in one place, one core | not measured |" in text
    assert "no figure here says anything" in text


def test_part_of_the_curves_is_not_written_to_the_docs(tmp_path: Path) -> None:
    assert scaling.place_of(None, "quick", "ray") is None
    assert scaling.place_of(None, "tiny", "*") is None
    assert scaling.place_of(None, "quick", "*") == scaling.DOCS
    assert scaling.place_of(tmp_path, "tiny", "ray") == tmp_path


def test_curves_and_scales_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no curve is called"):
        scaling.measured_result("quick", "nothing", fake_point)
    with pytest.raises(ConfigurationError, match="exclude each other"):
        scaling.benchmark(full=True, tiny=True, only="*", out=None, page_only=False)


def test_points_where_curves_cross_are_measured_once_a_turn() -> None:
    measured: list[str] = []

    def counted(point: Measurement) -> dict[str, Any]:
        measured.append(json.dumps([point.address, point.arguments], sort_keys=True))
        return fake_point(point)

    steps = [curve for curve in CURVES if curve.name.endswith("pooled")]
    found = scaling.measured_points(steps, "full", counted)
    assert len(measured) == 5 * len(set(measured)) and len(set(measured)) == 22 - 2
    assert all(len(place["turns"]) == 5 for places in found.values() for place in places)


def test_one_real_curve_comes_out_as_json_and_page(tmp_path: Path) -> None:
    def here(point: Measurement) -> dict[str, Any]:
        return point.function(**point.arguments)

    result = scaling.measured_result("tiny", "epoch-patients", here)
    scaling.write_result(result, tmp_path / "scaling")
    points = result["curves"]["epoch-patients"]["points"]
    assert [place["x"] for place in points] == [10, 20, 40]
    assert all(place["turns"][0]["seconds"] > 0 for place in points)
    assert "| epoch-patients | seconds |" in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling-study.svg").read_text().startswith("<svg xmlns=")
