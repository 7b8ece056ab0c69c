"""A training that is to be deterministic gives the same bits twice, and asks a GPU for nothing that it would refuse.

There is no GPU here, and a CPU refuses nothing. So the operations of trainings are watched, and held against PyTorch's
own list of those that have no deterministic algorithm on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from permmoe.config import EncoderConfig, ModelConfig, PrivacyConfig, TrainConfig, VolumeGrid
from permmoe.encoder_kinds import ENCODERS
from permmoe.layers.experts import Experts
from permmoe.training import epochs as epochs_module
from permmoe.training import fit as fit_module
from permmoe.training.epochs import train_epochs
from permmoe.training.fit import fit
from permmoe.training.hardware import repeatable
from permmoe.training.private_trainer import train_privately
from permmoe.training.seeds import make_model
from permmoe.training.stacked_epochs import StackedTraining
from tests.support.model_batches import small_config
from tests.support.small_training import TRAIN, are_identical, weights_of
from tests.support.small_visits import small_visits

DETERMINISTIC = TRAIN.model_copy(update={"deterministic": True, "batch_size": 2, "epochs": 1})
Condition = Callable[[tuple[Any, ...], dict[str, Any]], bool]


def always(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return True


def has_weights(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return (args[1] if len(args) > 1 else kwargs.get("weights")) is not None


def is_of_fractions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    asked = kwargs.get("dtype") or args[0].dtype
    return bool(asked.is_floating_point or asked.is_complex)


def multiplies(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return "prod" in (*args, kwargs.get("reduce"))


def is_quantised(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args[0].is_quantized)


def named(*operations: str, where: Condition = always) -> dict[str, Condition]:
    return dict.fromkeys(operations, where)


REFUSED: dict[str, dict[str, Condition]] = {
    "torch.nn.AvgPool3d": named("avg_pool3d_backward"),
    "torch.nn.AdaptiveAvgPool2d": named("_adaptive_avg_pool2d_backward"),
    "torch.nn.AdaptiveAvgPool3d": named("_adaptive_avg_pool3d_backward"),
    "torch.nn.MaxPool3d": named("max_pool3d_with_indices_backward"),
    "torch.nn.AdaptiveMaxPool2d": named("adaptive_max_pool2d_backward"),
    "torch.nn.FractionalMaxPool2d": named("fractional_max_pool2d_backward"),
    "torch.nn.FractionalMaxPool3d": named("fractional_max_pool3d_backward"),
    "torch.nn.MaxUnpool1d": named("max_unpool2d"),
    "torch.nn.MaxUnpool2d": named("max_unpool2d"),
    "torch.nn.MaxUnpool3d": named("max_unpool3d"),
    "torch.nn.functional.interpolate": named(
        "upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward",
        "upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward",
    ),
    "torch.nn.ReflectionPad1d": named("reflection_pad1d_backward"),
    "torch.nn.ReflectionPad2d": named("reflection_pad2d_backward"),
    "torch.nn.ReflectionPad3d": named("reflection_pad3d_backward"),
    "torch.nn.ReplicationPad1d": named("replication_pad1d_backward"),
    "torch.nn.ReplicationPad2d": named("replication_pad2d_backward"),
    "torch.nn.ReplicationPad3d": named("replication_pad3d_backward"),
    "torch.nn.NLLLoss": named("nll_loss_forward", "nll_loss2d_forward"),
    "torch.nn.CTCLoss": named("_ctc_loss_backward"),
    "torch.nn.EmbeddingBag": named("_embedding_bag", "_embedding_bag_dense_backward"),
    "torch.Tensor.put_": named("put", "put_"),
    "torch.histc": named("histc"),
    "torch.bincount": named("bincount", where=has_weights),
    "torch.median": named("median", "nanmedian"),
    "torch.nn.functional.grid_sample": named("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    "torch.cumsum": named("cumsum", "cumsum_", where=is_of_fractions),
    "torch.Tensor.scatter_reduce": named("scatter_reduce", "scatter_reduce_", where=multiplies),
    "torch.Tensor.resize_": named("resize_", where=is_quantised),
}  # fmt: skip
"""What PyTorch says that it refuses on a GPU, some of it in some versions only, and the operations that it means."""
MEANT = {name: condition for operations in REFUSED.values() for name, condition in operations.items()}


class Watched(TorchDispatchMode):
    """Collects the names of all operations, and of those that a GPU would refuse, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.refused: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if name in MEANT and MEANT[name](args, kwargs or {}):
            self.refused.add(name)
        return func(*args, **(kwargs or {}))


def config_of(kind: str, **changes: Any) -> ModelConfig:
    """With everything that a model may have: tables, a spread, unimodal heads, a ridge, dropout."""
    encoder = EncoderConfig.model_validate({"kind": kind, "cells": (2, 3, 5), "dropout": 0.3, "tabular_width": 17})
    grid = VolumeGrid(shape=(24, 25, 27) if kind == "cnn" else (9, 11, 8))
    whole: dict[str, Any] = {"dropout": 0.2, "spread": "laplace", "unimodal_heads": True, "ridge": {}}
    return small_config(1, 2, encoder=encoder, grid=grid, **(whole | changes))


PUBLISHED: dict[str, Any] = {
    "fusion": "flex_moe", "head": "linear", "initialisation": "flex_moe", "routers": "shared", "bank": "unconditioned",
}  # fmt: skip
SMALLEST = {"spread": "none", "unimodal_heads": False, "ridge": None}


def trained(config: ModelConfig, train: TrainConfig) -> dict[str, Tensor]:
    model = make_model(config, 0)
    fit(model, small_visits(config, 3), small_visits(config, 2, seed=1), train)
    return weights_of(model)


def of_private_training(config: ModelConfig) -> None:
    train_privately(
        make_model(config, 0), small_visits(config, 2), DETERMINISTIC.model_copy(update={"balance": False}),
        PrivacyConfig(noise_multiplier=1.0), noise_multiplier=1.0, sample_rate=1.0, steps=1, patients=2.0, seed=0,
    )  # fmt: skip


def of_training_side_by_side(config: ModelConfig) -> None:
    models = [make_model(config, seed) for seed in range(2)]
    StackedTraining(models, [small_visits(config, 3)] * 2, DETERMINISTIC, (0, 1)).train_epoch(0)


def operations(training: Callable[[], object]) -> Watched:
    with Watched() as watched:
        training()
    return watched


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was() -> Iterator[None]:
    yield
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("kind", ENCODERS)
def test_no_training_asks_a_gpu_for_what_it_refuses(kind: str) -> None:
    for changes in ({}, PUBLISHED):
        watched = operations(partial(trained, config_of(kind, **changes), DETERMINISTIC))
        assert "_fused_adamw_" in watched.seen and not watched.refused


@pytest.mark.parametrize("kind", ["pooled", "cnn"])
def test_no_private_training_does(kind: str) -> None:
    assert not operations(partial(of_private_training, config_of(kind, **SMALLEST))).refused


def test_no_training_side_by_side_does() -> None:
    assert not operations(partial(of_training_side_by_side, config_of("pooled"))).refused


def test_no_grouped_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experts as a GPU computes them in half precision."""
    monkeypatch.setattr(Experts, "padded", lambda self, *given: self.grouped(*given, torch.float32))
    config = config_of("pooled", width=8, expert_hidden=16)
    watched = operations(partial(trained, config, DETERMINISTIC))
    assert "_grouped_mm" in watched.seen and not watched.refused


def test_an_operation_that_a_gpu_refuses_would_be_found() -> None:
    plain = DETERMINISTIC.model_copy(update={"deterministic": False})
    assert operations(partial(trained, config_of("cnn"), plain)).refused == {"max_pool3d_with_indices_backward"}
    volumes = torch.rand(1, 1, 4, 5, 6, requires_grad=True)
    for loss in (
        lambda: torch.nn.functional.adaptive_avg_pool3d(volumes, 2).sum().backward(),
        lambda: volumes.flatten().cumsum(0),
        lambda: torch.bincount(torch.tensor([1, 1]), torch.tensor([1.0, 2.0])),
    ):
        assert len(operations(loss).refused) == 1


def test_every_operation_on_pytorchs_list_is_known_here() -> None:
    """A new version of PyTorch may refuse more: what it names is to be added above, with the operations it means."""
    text = torch.use_deterministic_algorithms.__doc__ or ""
    listed = text.split("operations will throw a", 1)[1].split("In addition", 1)[0]
    names = set(re.findall(r"\* :(?:class|func):`([^`]+)`", listed))
    assert len(names) > 15
    assert names <= set(REFUSED), f"not known here: {sorted(names - set(REFUSED))}"


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_deterministic_training_gives_the_same_bits_twice_and_those_of_any_training_on_a_cpu(kind: str) -> None:
    config = config_of(kind)
    first = trained(config, DETERMINISTIC)
    assert are_identical(first, trained(config, DETERMINISTIC))
    assert are_identical(first, trained(config, DETERMINISTIC.model_copy(update={"deterministic": False})))


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_steps_and_validations_run_with_deterministic_algorithms_where_that_is_asked_for(
    is_asked_for: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, bool] = {}

    def noting(module: Any, name: str) -> None:
        original = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            found[name] = torch.are_deterministic_algorithms_enabled()
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)

    noting(epochs_module, "total_loss")
    noting(fit_module, "combination_sums")
    trained(config_of("pooled"), DETERMINISTIC.model_copy(update={"deterministic": is_asked_for}))
    assert found == {"total_loss": is_asked_for, "combination_sums": is_asked_for}


def test_a_training_that_fails_leaves_the_mode_as_it_was() -> None:
    config = config_of("pooled")
    model = make_model(config, 0)
    model.head.out.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError):
        train_epochs(model, small_visits(config, 9), DETERMINISTIC, first_epoch=0, epochs=1, seed=0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with repeatable(DETERMINISTIC):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_configuration_that_does_not_ask_for_it_has_the_digest_that_it_had() -> None:
    assert "deterministic" not in TRAIN.model_dump() and DETERMINISTIC.model_dump()["deterministic"] is True
