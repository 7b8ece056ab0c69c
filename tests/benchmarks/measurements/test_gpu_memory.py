"""Memory is counted from what autograd keeps: by hand for one encoder, and in proportion to visits and voxels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from permmoe_benchmarks.library.scale import SCALES
from permmoe_benchmarks.measurements.gpu_memory import CONTEXT_GB, memory_of_step

SMALL = replace(SCALES["full"], grid=(24, 24, 24))


def test_the_cnns_largest_maps_are_counted() -> None:
    """Two maps of 32 channels: what the second convolution is given and what it hands to the pooling."""
    two_maps = 2 * 32 * 24**3 * 4 / 1e9
    volumes_a_visit = 2
    kept = memory_of_step(SMALL, "cnn", 1)["gb_a_visit"]
    # Behind the pooling by 2, maps have an eighth of the voxels and twice the channels.
    assert volumes_a_visit * two_maps < kept < 3 * volumes_a_visit * two_maps


@pytest.mark.parametrize("encoder", ["cnn", "sfcn", "pooled"])
def test_memory_grows_with_visits_and_a_card_holds_what_fits(encoder: str) -> None:
    one, nine = memory_of_step(SMALL, encoder, 1), memory_of_step(SMALL, encoder, 9)
    assert nine["gb"] - one["gb"] == pytest.approx(8 * one["gb_a_visit"])
    held = one["visits_on_the_card"]
    assert (
        memory_of_step(SMALL, encoder, held)["gb"] <= 24 - CONTEXT_GB < memory_of_step(SMALL, encoder, held + 1)["gb"]
    )
