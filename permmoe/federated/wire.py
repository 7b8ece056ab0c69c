"""Numbers as bytes on their way between sites and server: exact, in half precision, or in eight bits.

| format | bytes a number | relative to the largest of its block, an error is at most |
|---|---|---|
| `fp32` | 4 | 0 |
| `fp16` | 2 | 2^-12 |
| `int8` | 1 | 1/254 |

The rounding of float32 itself, 2^-23, comes on top. The inexact formats work in blocks of 256 numbers, each divided by
its largest magnitude, which travels beside it as a float32 (block-wise quantisation, Dettmers et al. 2022, arXiv
2110.02861). What a format takes away from a change a site keeps and adds to its next one (error feedback, Karimireddy
et al. 2019, arXiv 1901.09847), so it is late, not lost.

Numbers that came out of a format go through it unchanged. NaN and infinities come out as NaN, for the reader to judge.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from permmoe.federated.federation_config import Wire
from permmoe.federated.member_modules import own_name

# Numbers are read where they lie in a message, whose bytes nobody can change; nor does anybody try.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)

BLOCK = 256
"""Numbers that share a scale."""
Bytes = UInt8[np.ndarray, " byte"]
Direction = Literal["down", "up"]


def down_format(module: str, wire: Wire) -> Wire:
    """How a module's parameters travel to a site.

    Never in eight bits, which is for changes; and a ridge is as sensitive to its moments as its covariance is
    ill-conditioned, so those stay exact, and so does what a harmonisation takes variances from. They travel once.
    """
    is_exact = wire == "fp32" or own_name(module).startswith(("ridge/", "harmonisation/"))
    return "fp32" if is_exact else "fp16"


def up_format(wire: Wire, *, sets_means: bool) -> Wire:
    """How changes travel to the server: exactly in a round that sets means, which no later one corrects."""
    return "fp32" if sets_means else wire


def packed_size(size: int, wire: Wire) -> int:
    """The number of bytes that `size` numbers take, a multiple of four."""
    if wire == "fp32":
        return 4 * size
    elements = size * (2 if wire == "fp16" else 1)
    return 4 * _blocks(size) + elements + -elements % 4


def pack(values: Float32[Tensor, " n"], wire: Wire) -> Bytes:
    """The bytes of some numbers; at `fp32` a view of them."""
    if wire == "fp32":
        return values.detach().contiguous().numpy().astype("<f4", copy=False).view(np.uint8)
    blocks = F.pad(values.detach(), (0, -len(values) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    scaled = blocks / torch.where(scales == 0, 1.0, scales).unsqueeze(1)
    if wire == "fp16":
        elements = scaled.half()
    else:
        elements = scaled.mul(127).round().nan_to_num(0).to(torch.int8)
        scales = torch.where(scales.isfinite(), scales, torch.nan)
    packed = np.zeros(packed_size(len(values), wire), np.uint8)
    n_scales, own = 4 * len(scales), elements.flatten()[: len(values)].numpy().view(np.uint8)
    packed[:n_scales] = scales.numpy().astype("<f4", copy=False).view(np.uint8)
    packed[n_scales : n_scales + len(own)] = own
    return packed


def unpack(packed: Bytes, size: int, wire: Wire) -> Float32[Tensor, " n"]:
    """So many numbers; at `fp32` a view of the bytes, not to be changed. Raises ValueError for another length."""
    if len(packed) != packed_size(size, wire):
        raise ValueError(f"{len(packed)} bytes, expected {packed_size(size, wire)}")
    if wire == "fp32":
        return torch.from_numpy(packed.view("<f4"))
    n_scales = 4 * _blocks(size)
    scales = torch.from_numpy(packed[:n_scales].view("<f4"))
    kind, width = ("<f2", 2) if wire == "fp16" else ("i1", 1)
    elements = torch.from_numpy(packed[n_scales : n_scales + width * size].view(kind)).float()
    if wire == "int8":
        elements = elements / 127
    return elements * scales.repeat_interleave(BLOCK)[:size]


def as_received(values: Float32[Tensor, " n"], wire: Wire) -> Float32[Tensor, " n"]:
    """What the other side will read."""
    return values if wire == "fp32" else unpack(pack(values, wire), len(values), wire)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)
