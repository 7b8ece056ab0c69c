"""Everything behind the encoders: forward, loss and backward, batched or in loops."""

from __future__ import annotations

import torch
from torch import nn

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.model import Output
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.training.losses import total_loss
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.reference import ReferencePerMMoE
from permmoe_benchmarks.library.scale import PUBLISHED, Scale
from permmoe_benchmarks.library.timing import Figures, median_seconds

VISITS = 8


def fusion_step(scale: Scale, *, is_reference: bool) -> Figures:
    """Return the seconds of a step on tokens of 8 visits, at the published sizes, whatever the scale.

    permmoe's runs in a process that keeps freed pages, as the trainer's does.
    """
    torch.manual_seed(0)
    if not is_reference:
        keep_freed_pages()
    config = ModelConfig.model_validate(PUBLISHED)
    model = make_model(config.model_copy(update={"encoder": EncoderConfig(kind="cnn")}), 0).train()
    module: nn.Module = ReferencePerMMoE.of(model).train() if is_reference else model
    module.encoders = nn.ModuleDict({name: nn.Identity() for name in config.names})
    observed = half_missing(VISITS)
    shape = (config.tokens, config.width)
    inputs = {name: torch.randn(int(observed[:, m].sum()), *shape) for m, name in enumerate(config.names)}
    batch = Batch(inputs, observed, torch.rand(VISITS), torch.randn(VISITS))

    def step() -> None:
        module.zero_grad()
        output: Output = module(batch)
        total_loss(output, batch, TrainConfig()).backward()  # type: ignore[no-untyped-call]

    return {"seconds": median_seconds(step)}


SIDES = {
    "fusion": Measurement(fusion_step, {"is_reference": False}),
    "fusion_loops": Measurement(fusion_step, {"is_reference": True}),
}
