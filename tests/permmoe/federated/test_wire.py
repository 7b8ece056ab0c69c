"""Formats of the wire: how many bytes, how far off, and nothing lost over rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from permmoe.federated.wire import BLOCK, as_received, down_format, pack, packed_size, unpack, up_format

INEXACT = {"fp16": 2.0**-12, "int8": 1 / 254}
"""The largest error, relative to the largest of its block."""
SIZES = (1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7)
seeds, scales = st.integers(0, 2**31), st.integers(-30, 30)


def numbers(size: int, seed: int, exponent: int = 0) -> torch.Tensor:
    """With blocks of very different magnitudes, and zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.logspace(exponent, exponent + 6, -(-size // BLOCK)).repeat_interleave(BLOCK)[:size]
    return torch.randn(size, generator=generator) * magnitudes * (torch.rand(size, generator=generator) > 0.2)


@pytest.mark.parametrize("size", [0, *SIZES])
@pytest.mark.parametrize(("wire", "width"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_bytes_are_those_of_the_format_and_aligned(wire: str, width: int, size: int) -> None:
    packed = pack(numbers(size, 0), wire)
    assert packed.dtype == np.uint8 and len(packed) == packed_size(size, wire)
    assert len(packed) % 4 == 0 and width * size <= len(packed) < width * size + 4 * (size // BLOCK + 2)


@given(seed=seeds, exponent=scales, size=st.sampled_from(SIZES))
def test_an_error_is_bounded_by_the_largest_of_its_own_block(seed: int, exponent: int, size: int) -> None:
    values = numbers(size, seed, exponent)
    assert torch.equal(as_received(values, "fp32"), values)
    for wire, bound in INEXACT.items():
        error = (as_received(values, wire).double() - values.double()).abs()
        for own, reference in zip(torch.split(error, BLOCK), torch.split(values.abs(), BLOCK), strict=True):
            # A number is divided by its block's largest and multiplied with it again: two more roundings of float32.
            assert own.max() <= (bound + 2 * 2.0**-24) * reference.max().double()


@given(seed=seeds, exponent=scales, size=st.sampled_from(SIZES), wire=st.sampled_from(sorted(INEXACT)))
def test_what_came_out_of_a_format_goes_through_it_unchanged(seed: int, exponent: int, size: int, wire: str) -> None:
    once = as_received(numbers(size, seed, exponent), wire)
    assert torch.equal(as_received(once, wire), once)


@given(seed=seeds, wire=st.sampled_from(sorted(INEXACT)))
def test_with_error_feedback_the_sum_over_rounds_is_off_by_one_rounds_error_at_most(seed: int, wire: str) -> None:
    residual, wanted, received = torch.zeros(600), torch.zeros(600), torch.zeros(600)
    for turn in range(20):
        change = torch.randn(600, generator=torch.Generator().manual_seed(seed + turn))
        sent = as_received(change + residual, wire)
        residual = change + residual - sent
        wanted, received = wanted + change, received + sent
    assert (received - wanted).abs().max() <= INEXACT[wire] * 6 + 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wire", sorted(INEXACT))
def test_what_is_not_finite_comes_out_as_not_a_number_and_spoils_its_own_block_alone(wire: str, bad: float) -> None:
    values = torch.ones(2 * BLOCK)
    values[3] = bad
    received = as_received(values, wire)
    assert received[3].isnan() and torch.equal(received[BLOCK:], torch.ones(BLOCK))


@pytest.mark.parametrize("wire", ["fp32", *INEXACT])
def test_bytes_of_another_length_are_refused(wire: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        unpack(pack(torch.ones(8), wire), 17, wire)


def test_means_and_moments_travel_exactly_and_models_never_in_eight_bits() -> None:
    assert {down_format("head", wire) for wire in ("fp16", "int8")} == {"fp16"}
    for ridge in ("ridge/t1", "member-12/ridge/t1"):
        assert {down_format(ridge, wire) for wire in ("fp32", "fp16", "int8")} == {"fp32"}
    assert down_format("member-12/head", "fp16") == down_format("bank/ridge/t1", "fp16") == "fp16"
    assert up_format("int8", sets_means=True) == "fp32" and up_format("int8", sets_means=False) == "int8"
