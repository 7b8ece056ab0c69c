"""What a round costs: its time by what it went to."""

from __future__ import annotations

import pandas as pd

from permmoe_simulation.report.costs import round_split


def rounds_of(sites: list[tuple[float, float, float]], **once: float) -> pd.DataFrame:
    """One round: each site's seconds of training, of its own other work, and of the server's for it."""
    parts = {"write_seconds": 0.25, "step_seconds": 0.25, "evaluate_seconds": 1.0, **once}
    names = ("train_seconds", "overhead_seconds", "server_seconds")
    run = {"method": "m", "regime": "r", "seed": "0", "round": 1}
    return pd.DataFrame([run | dict(zip(names, own, strict=True)) | parts for own in sites])


def test_a_rounds_time_goes_to_its_parts_and_the_rest_is_the_wire() -> None:
    in_turn = round_split(rounds_of([(2.0, 0.5, 0.125), (4.0, 0.25, 0.125)], round_seconds=9.0))
    assert in_turn == {"training": 6.0, "site": 0.75, "write": 0.25, "add": 0.5, "evaluate": 1.0, "wire": 0.5}


def test_of_sites_that_worked_at_once_the_busiest_counts() -> None:
    at_once = round_split(rounds_of([(2.0, 0.5, 0.125), (4.0, 0.25, 0.125)], round_seconds=6.25))
    assert (at_once["training"], at_once["site"], at_once["wire"]) == (4.0, 0.25, 0.25)


def test_rounds_that_do_not_tell_are_left_out_of_the_split() -> None:
    secure = rounds_of([(0.0, 0.0, 0.0)], round_seconds=9.0)
    assert round_split(secure) == round_split(secure.drop(columns="write_seconds")) == {}
