"""A model as it travels is known by one digest."""

from __future__ import annotations

import torch

from permmoe.federated.packed_model import PackedModel


def test_the_digest_knows_names_and_every_bit_but_no_order() -> None:
    weights = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.zeros(2)}
    digest = PackedModel.of(weights).digest()
    assert digest == PackedModel.of(dict(reversed(weights.items()))).digest() and len(digest) == 64
    others = [
        {**weights, "a": torch.nextafter(weights["a"], torch.tensor(9.0))},
        {"c": weights["a"], "b": weights["b"]},
        {"a": weights["b"], "b": weights["a"]},
        {"a": weights["a"]},
    ]
    assert len({digest, *(PackedModel.of(other).digest() for other in others)}) == 5
