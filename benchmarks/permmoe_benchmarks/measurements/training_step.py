"""A training step: the trainer's own, from rows in memory to changed weights, against one in plain PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from permmoe.config import ModelConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.layers.convolutions import Convolution
from permmoe.model import PerMMoE
from permmoe.runtime.memory_pages import M_MMAP_MAX, keep_freed_pages
from permmoe.training.epochs import train_epochs
from permmoe.training.hardware import autocast
from permmoe.training.losses import total_loss
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits, model_config
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.reference import ReferencePerMMoE
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures, median_seconds

GLIBC_MMAP_MAX = 65536
"""How many blocks glibc takes from the kernel by themselves, by default (mallopt(3))."""

Variant = Literal["as it is", "channels outermost", "pages kept", "pages given back"]


@dataclass(frozen=True)
class WatchedVisits(VisitData):
    """Visits that call `on_epoch` whenever the trainer is about to draw an epoch's batches from them."""

    on_epoch: Callable[[], object] = lambda: None

    def batches(self, parts: Sequence[Tensor], withheld: Tensor, at: Tensor | None = None) -> Iterator[Batch]:
        """The batches of VisitData."""
        self.on_epoch()
        return super().batches(parts, withheld, at)


def trainer_step(scale: Scale, encoder: str, variant: Variant = "as it is") -> Figures:
    """Return the seconds and the arithmetic (GFLOP) of the trainer's step, and its model's prediction without noise."""
    config = model_config(scale, encoder)
    data, model = half_missing_visits(config, scale.visits), make_model(config, 0)
    if variant == "channels outermost":
        use_plain_convolutions(model)
    if variant in PAGES:
        data = WatchedVisits(**vars(data), on_epoch=PAGES[variant])
    train = TrainConfig(batch_size=scale.visits, modality_dropout=0.0)
    optimiser = make_optimiser(model, train)

    def step() -> None:
        train_epochs(model, data, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)

    figures = {"seconds": median_seconds(step)}
    with FlopCounterMode(display=False) as counter:
        step()
    noiseless = make_model(config.model_copy(update=_without_noise(config)), 0).train()
    if variant == "channels outermost":
        use_plain_convolutions(noiseless)
    with torch.no_grad(), autocast(noiseless, train):
        prediction = noiseless(data.batch(torch.arange(scale.visits))).prediction
    return figures | {"gflop": counter.get_total_flops() / 1e9, "prediction": prediction.tolist()}


def reference_step(scale: Scale) -> Figures:
    """Return the seconds of the same step in plain PyTorch: forward, loss, backward, clipped gradient, AdamW."""
    config = model_config(scale, "cnn")
    batch = half_missing_visits(config, scale.visits).batch(torch.arange(scale.visits))
    train, reference = TrainConfig(), ReferencePerMMoE.of(make_model(config, 0)).train()
    optimiser = torch.optim.AdamW(reference.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)

    def step() -> None:
        optimiser.zero_grad()
        loss = total_loss(reference(batch), batch, train)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reference.parameters(), train.gradient_norm or inf)
        optimiser.step()
        loss.item()

    seconds = median_seconds(step)
    noiseless = ReferencePerMMoE.of(make_model(config.model_copy(update=_without_noise(config)), 0)).train()
    with torch.no_grad():
        prediction = noiseless(batch).prediction
    return {"seconds": seconds, "prediction": prediction.tolist()}


def use_plain_convolutions(model: PerMMoE) -> None:
    """Replace convolutions by PyTorch's own, whose feature maps have channels outermost; weights are shared."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Convolution):
                plain = nn.Conv3d(1, 1, 1, child.stride, child.padding)  # type: ignore[arg-type]
                plain.weight, plain.bias = child.weight, child.bias
                parent.register_module(name, plain)


def give_pages_back() -> None:
    """Let freed memory go back to the kernel, but for what the trainer keeps everywhere."""
    ctypes.CDLL(None).mallopt(M_MMAP_MAX, GLIBC_MMAP_MAX)
    keep_freed_pages()


PAGES: Mapping[str, Callable[[], object]] = {
    "pages kept": partial(keep_freed_pages, without_limit=True),
    "pages given back": give_pages_back,
}
"""Called after the trainer has decided for itself, at the beginning of each epoch."""


def _without_noise(config: ModelConfig) -> Mapping[str, Any]:
    """Changes of a configuration after which training mode draws no random number."""
    encoder = config.encoder.model_copy(update={"dropout": 0.0})
    return {"encoder": encoder, "dropout": 0.0, "router_noise": False}


SIDES = {
    "reference_step": Measurement(reference_step),
    "cnn_step": Measurement(trainer_step, {"encoder": "cnn"}),
    "cnn_step_channels_outermost": Measurement(trainer_step, {"encoder": "cnn", "variant": "channels outermost"}),
    "cnn_step_pages_kept": Measurement(trainer_step, {"encoder": "cnn", "variant": "pages kept"}),
    "cnn_step_pages_given_back": Measurement(trainer_step, {"encoder": "cnn", "variant": "pages given back"}),
    "default_step": Measurement(trainer_step, {"encoder": "pooled"}),
    "sfcn_step": Measurement(trainer_step, {"encoder": "sfcn"}),
}
