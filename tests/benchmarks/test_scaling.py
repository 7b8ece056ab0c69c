"""Laws that are known are found again, projections say how far they reach, and the page says only what the JSON holds.

No test here looks at a clock.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe.errors import ConfigurationError

# Scripts beside each other, not a package: run as `python benchmarks/scaling.py`.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling
import scaling_page
from scaling_laws import FURTHEST, NoLawError, best_law, end_exponent, power_law, straight_line

PLACES = (3.0, 5.0, 7.0, 11.0)


@given(st.floats(-3, 3), st.floats(1e-6, 1e6))
def test_a_known_power_law_is_found_again(exponent: float, factor: float) -> None:
    law = power_law(PLACES, [factor * x**exponent for x in PLACES])
    assert law.b == pytest.approx(exponent, abs=1e-6) and law.a == pytest.approx(factor, rel=1e-5)
    assert law.residual < 1e-6
    at = law.at(110.0)
    assert at.y == pytest.approx(factor * 110**exponent, rel=1e-4) and at.beyond == pytest.approx(10.0)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_known_fixed_part_is_found_again_and_preferred_to_a_power(fixed: float, each: float) -> None:
    values = [fixed + each * x for x in PLACES]
    law = straight_line(PLACES, values)
    assert (law.a, law.b) == (pytest.approx(fixed, rel=1e-5), pytest.approx(each, rel=1e-5))
    assert best_law(PLACES, values).at(110.0).y == pytest.approx(fixed + each * 110, rel=1e-4)


def test_scatter_does_not_hide_the_slope_behind_a_fixed_part() -> None:
    # A power law lies closer to these, and would say 16 at 1,000.
    at = best_law((3.0, 6.0, 12.0, 24.0), (2.27, 2.91, 3.46, 4.73)).at(1000.0)
    assert at.lower < 2 + 0.105 * 1000 < at.upper


def test_a_quadratic_cost_is_no_straight_line() -> None:
    law = best_law(PLACES, [0.1 * x**2 for x in PLACES])
    assert law.form == "power" and law.b == pytest.approx(2.0)


def test_a_line_that_would_start_below_zero_is_not_taken() -> None:
    assert best_law(PLACES, [x - 2.0 for x in PLACES]).form == "power"


@pytest.mark.parametrize("x", [(), (3.0,), (3.0, 5.0), (3.0, 5.0, 5.0)])
@pytest.mark.parametrize("fit", [power_law, straight_line, best_law, end_exponent])
def test_fewer_than_three_points_give_no_law(fit: Any, x: tuple[float, ...]) -> None:
    with pytest.raises(NoLawError, match="too few"):
        fit(x, [1.0 + value for value in x])


@pytest.mark.parametrize("y", [(1.0, 2.0, 0.0, 3.0), (1.0, -2.0, 1.0, 1.0), (1.0, float("nan"), 1.0, 1.0), (1.0, 2.0)])
def test_points_that_are_none_give_no_law(y: tuple[float, ...]) -> None:
    with pytest.raises(NoLawError):
        best_law(PLACES, y)


@pytest.mark.parametrize("fit", [power_law, straight_line])
def test_no_projection_reaches_further_than_its_limit(fit: Any) -> None:
    law = fit(PLACES, [2.0 * x for x in PLACES])
    law.at(11.0 * FURTHEST)
    with pytest.raises(NoLawError, match="not a projection"):
        law.at(11.1 * FURTHEST)
    with pytest.raises(NoLawError):
        law.at(0.0)


@pytest.mark.parametrize("fit", [power_law, straight_line])
def test_an_interval_holds_its_value_and_widens_with_distance_and_scatter(fit: Any) -> None:
    calm = fit(PLACES, [3.1, 4.9, 7.1, 10.9])
    wild = fit(PLACES, [4.0, 4.0, 9.0, 10.0])
    near, far = calm.at(11.0), calm.at(110.0)
    for at in (near, far, wild.at(11.0)):
        assert at.lower < at.y < at.upper
    assert far.upper / far.y > near.upper / near.y
    assert wild.at(11.0).upper / wild.at(11.0).y > near.upper / near.y


def test_intervals_cover_what_comes_next_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    x = [3.0, 5.0, 7.0, 11.0, 13.0]
    hits = 0
    for _ in range(400):
        values = [2.0 * place**1.5 * float(np.exp(rng.normal(0, 0.1))) for place in x]
        at = power_law(x, values).at(29.0)
        hits += at.lower <= 2.0 * 29.0**1.5 * float(np.exp(rng.normal(0, 0.1))) <= at.upper
    assert 0.91 <= hits / 400 <= 0.985


def test_the_end_of_a_sum_of_costs_is_steeper_than_its_law() -> None:
    values = [1.0 + 0.1 * x**2 for x in PLACES]
    assert power_law(PLACES, values).b < end_exponent(PLACES, values) < 2.0


def fake_point(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What each kind of point answers: known laws, with figures that no machine made."""
    if kind == "constants":
        return {
            "rounds": 7, "local_epochs": 2, "epochs": 3, "batch_size": 5, "stage_deadline_seconds": 11.0,
            "shortest_poll_seconds": 0.2, "longest_poll_seconds": 5.0, "gateway_connections": 13,
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
                "database_mb": 8.0, "questions_a_second": 90.0,
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


def test_every_curve_has_a_kind_of_point_and_places_for_every_scale() -> None:
    import scaling_points

    assert len({curve.name for curve in scaling.CURVES}) == len(scaling.CURVES)
    for curve in scaling.CURVES:
        assert curve.kind in scaling_points.POINTS and curve.kind in scaling_page.DEFAULT_FIGURE
        assert set(curve.at) == set(curve.fixed) == set(curve.turns) == {"tiny", "quick", "full"}


def test_page_and_figures_are_written_from_the_json_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "point", fake_point)
    out = tmp_path / "scaling"
    scaling.benchmark(full=False, tiny=False, only="*", out=out, page_only=False)
    result = json.loads(out.with_suffix(".json").read_text())
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    text = files["scaling.md"]
    assert set(files) == {"scaling.json", "scaling.md", "scaling-step.svg", "scaling-round.svg", "scaling-study.svg"}
    assert all(f"| {name} |" in text for name in result["curves"])
    assert "not measured" not in text
    # Measured at 1,000 hospitals; computed where it was not; by hand: 2.1 s + 1,000 × 0.105 s.
    assert "**8.1 s** | 8 s to 8.2 s | measured" in text
    projected = scaling_page.projections(result)
    assert projected["link"].y == pytest.approx(2.1 + 105, rel=0.01)
    assert projected["one_process"] == pytest.approx(1000 * 2 * 0.08 + 8.1, rel=0.01)
    assert projected["longest"] == "a round over one SuperLink, transport and waiting included"
    for name in set(files) - {"scaling.json"}:
        (tmp_path / name).unlink()
    monkeypatch.setattr(scaling, "point", lambda kind, arguments: pytest.fail("nothing is measured for a page"))
    scaling.benchmark(full=False, tiny=False, only="*", out=out, page_only=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_what_was_not_measured_is_said_and_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "point", fake_point)
    scaling.benchmark(full=False, tiny=True, only="epoch*", out=tmp_path / "scaling", page_only=False)
    text = (tmp_path / "scaling.md").read_text()
    projected = scaling_page.projections(json.loads((tmp_path / "scaling.json").read_text()))
    # 40 patients are 2,500 times fewer than 100,000: that is refused.
    assert projected["epoch"] is None and projected["plain"] is None and projected["one_process"] is None
    assert "| an epoch over all patients in one place, one core | not measured |" in text
    assert "no figure here says anything" in text


def test_part_of_the_curves_is_not_written_to_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "point", fake_point)
    monkeypatch.chdir(tmp_path)
    for tiny, only in ((False, "ray"), (True, "*")):
        scaling.benchmark(full=False, tiny=tiny, only=only, out=None, page_only=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="no curve is called"):
        scaling.benchmark(full=False, tiny=False, only="nothing", out=None, page_only=False)
    with pytest.raises(ConfigurationError, match="exclude each other"):
        scaling.benchmark(full=True, tiny=True, only="*", out=None, page_only=False)


def test_points_where_curves_cross_are_measured_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(json.dumps([kind, arguments], sort_keys=True))
        return fake_point(kind, arguments)

    monkeypatch.setattr(scaling, "point", counted)
    steps = [curve for curve in scaling.CURVES if curve.name.endswith("pooled")]
    found = scaling.measured(steps, "full")
    assert len(asked) == 5 * len(set(asked)) and len(set(asked)) == 22 - 2
    assert all(len(place["turns"]) == 5 for places in found.values() for place in places)


def test_one_real_curve_comes_out_as_json_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scaling_points

    in_a_process = scaling.point("epoch", {"patients": 10})
    # The other points here: starting a process takes longer than such a point.
    monkeypatch.setattr(scaling, "point", lambda kind, arguments: scaling_points.POINTS[kind](**arguments))
    scaling.benchmark(full=False, tiny=True, only="epoch-patients", out=tmp_path / "scaling", page_only=False)
    result = json.loads((tmp_path / "scaling.json").read_text())
    points = result["curves"]["epoch-patients"]["points"]
    assert [place["x"] for place in points] == [10, 20, 40]
    assert all(place["turns"][0]["seconds"] > 0 for place in points)
    assert points[0]["turns"][0].keys() == in_a_process.keys()
    assert points[0]["turns"][0]["rows_mb"] == in_a_process["rows_mb"]
    assert "| epoch-patients | seconds |" in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling-study.svg").read_text().startswith("<svg xmlns=")


@pytest.mark.parametrize("is_secure", [False, True])
def test_thin_sites_take_part_in_real_rounds(is_secure: bool) -> None:
    import scaling_points

    found = (scaling_points.secure_round if is_secure else scaling_points.plain_round)(3, 1)
    assert found["bytes"] == pytest.approx(3 * (found["bytes_down"] + found["bytes_up"]))
    assert found["bytes_up"] > (2 if is_secure else 1) * found["model_bytes"]
    assert found["server_seconds"] > 0 and found["ledger_entry_bytes"] > 0
