"""The published pair: Flex-MoE's forward pass against a plain one, its start, its optimiser, and the two files."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from permmoe.config import EncoderConfig, ModelConfig, RunConfig, TrainConfig, VolumeGrid, parse_config, read_config
from permmoe.data.batch import Batch, observed_masks
from permmoe.errors import ConfigurationError
from permmoe.federated.modules import ModuleLayout
from permmoe.layers.convolutions import six_layer_cnn
from permmoe.layers.encoders import SliceEncoder, volume_encoder
from permmoe.modality import Modality, bank_pairs
from permmoe.model import PerMMoE
from permmoe.training.dense_pass import DensePerMMoE, dense_inputs
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern, small_config

MODELS = Path(__file__).parents[2] / "configs" / "models"
FLEX_MOE, PERMMOE = MODELS / "flex-moe-public.yaml", MODELS / "permmoe-published.yaml"


def published_small(**changes: object) -> ModelConfig:
    """The published model in small, unequal sizes: T = 5, d = 6, two heads, E = 11, k = 2; no dropout."""
    settings: dict[str, object] = {
        "encoder": EncoderConfig(cells=(2, 3, 5), dropout=0.0, token_map="slices"), "width": 6, "heads": 2,
        "fusion": "flex_moe", "head": "linear", "bank_deviation": 1.0, "initialisation": "flex_moe",
    }  # fmt: skip
    return small_config(**(settings | changes))


def plain_forward(model: PerMMoE, batch: Batch) -> Tensor:
    """Flex-MoE's pass in evaluation, visit by visit and token by token, from the functions of its paper and code."""
    weights, config = dict(model.named_parameters()), model.config
    rows = dict(zip(bank_pairs(len(config.names)), weights["missing_bank.embeddings"], strict=True))
    predictions, taken = [], dict.fromkeys(config.names, 0)
    for visit, mask in enumerate(observed_masks(batch.observed).tolist()):
        tokens = []
        for m, name in enumerate(config.names):
            if not mask >> m & 1:
                tokens += list(rows[mask, m])
                continue
            x = batch.inputs[name][taken[name]].flatten()
            taken[name] += 1
            if name.startswith("volume"):
                x = x - weights[f"encoders.{name}.features.0.centre"].flatten()
                x = weights[f"encoders.{name}.features.3.weight"] @ x + weights[f"encoders.{name}.features.3.bias"]
            length = -(-len(x) // config.tokens)
            x = torch.cat([x, torch.zeros(config.tokens * length - len(x))])
            for t in range(config.tokens):
                piece = x[t * length : (t + 1) * length]
                token = weights[f"encoders.{name}.project.weight"] @ piece + weights[f"encoders.{name}.project.bias"]
                tokens.append(token)
        x = torch.stack(tokens) + weights["attention.position_embedding"].flatten(0, 1)
        x = F.layer_norm(x, (config.width,), weights["attention.norm.weight"], weights["attention.norm.bias"])
        q, k, v = (weights["attention.to_qkv.weight"] @ x.T).T.split(config.width, dim=1)
        size, heads = config.width // config.heads, []
        for h in range(config.heads):
            own = slice(h * size, (h + 1) * size)
            heads.append((q[:, own] @ k[:, own].T / sqrt(size)).softmax(1) @ v[:, own])
        x = torch.cat(heads, dim=1) @ weights["attention.project.weight"].T + weights["attention.project.bias"]
        x = x + x
        normed = F.layer_norm(
            x, (config.width,), weights["attention.expert_norm.weight"], weights["attention.expert_norm.bias"]
        )
        mixed = []
        for place, token in enumerate(normed):
            router = 0 if config.routers == "shared" else place // config.tokens
            logits = token @ weights["routers.weight"][router]
            chosen = sorted(range(config.experts), key=lambda e: -float(logits[e]))[: config.top_k]
            output = x[place]
            for gate, e in zip(logits[chosen].softmax(0), chosen, strict=True):
                hidden = F.gelu(token @ weights["experts.w1"][e] + weights["experts.b1"][e])
                output = output + gate * (hidden @ weights["experts.w2"][e] + weights["experts.b2"][e])
            mixed.append(output)
        summary = [
            torch.stack(mixed[m * config.tokens : (m + 1) * config.tokens]).mean(0) for m in range(len(config.names))
        ]
        scaled = (batch.baseline[visit] - config.baseline_centre_points) / config.baseline_scale_points
        predictions.append(
            weights["head.out.weight"][0] @ torch.cat([*summary, scaled[None]]) + weights["head.out.bias"][0]
        )
    return torch.stack(predictions)  # fmt: skip


@pytest.mark.parametrize("routers", ["shared", "per_modality"])
def test_the_published_pass_equals_a_plain_one(routers: str) -> None:
    torch.manual_seed(0)
    config = published_small(n_volumes=2, n_tables=2, routers=routers, outcome_range=None)
    model, batch = make_model(config, 1).eval(), random_batch(config, random_pattern(7, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        torch.testing.assert_close(model(batch).prediction, plain_forward(model, batch), atol=1e-5, rtol=1e-4)


def test_the_dense_pass_equals_the_published_one() -> None:
    torch.manual_seed(1)
    config = published_small(n_volumes=2, n_tables=1, outcome_range=None)
    model, batch = make_model(config, 1).eval(), random_batch(config, random_pattern(5, 3))
    dense, inputs = DensePerMMoE(model), dense_inputs(batch, config)
    torch.testing.assert_close(dense(inputs, batch.observed, batch.baseline).prediction, model(batch).prediction)


def test_a_tokens_input_passes_the_published_attention_through_its_values_alone() -> None:
    """In the public code the attention's output is added to itself, so its input is not in the residual."""
    torch.manual_seed(2)
    for fusion, is_silent in (("flex_moe", True), ("pre_norm", False)):
        attention = PerMMoE(published_small(fusion=fusion)).attention.eval()
        with torch.no_grad():
            attention.project.weight.zero_()
            attention.project.bias.zero_()
        assert (float(attention(torch.randn(3, 3, 5, 6)).detach().abs().max()) == 0) == is_silent


def test_dropout_of_the_published_attention_is_on_weights_projection_and_sum() -> None:
    attention = PerMMoE(published_small(dropout=0.5)).attention.train()
    with torch.no_grad():
        attention.project.weight.zero_()
        attention.project.bias.fill_(1.0)
    torch.manual_seed(3)
    output = attention(torch.randn(31, 3, 5, 6))
    # 0 behind the projection's dropout; else 2, to which 0 or 4 is added.
    assert set(output.detach().unique().tolist()) == {0.0, 2.0, 6.0}
    share = float((output == 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.05)


def test_the_published_cnn_drops_whole_channels_behind_its_last_stage() -> None:
    def behind_the_last_stage(dropout_of: str) -> Tensor:
        torch.manual_seed(4)
        encoder = EncoderConfig.model_validate({"kind": "cnn", "dropout": 0.5, "dropout_of": dropout_of})
        features, n_features = six_layer_cnn(ModelConfig(grid=VolumeGrid(shape=(48, 25, 29)), encoder=encoder))
        found: Tensor = features.train()(torch.rand(3, 1, 48, 25, 29)).flatten(2)
        assert found[0].numel() == n_features
        return (found == 0).all(2).float().mean()

    assert float(behind_the_last_stage("channels")) > float(behind_the_last_stage("features")) + 0.2


def test_slices_share_one_map_and_the_last_is_filled_up_with_zeros() -> None:
    torch.manual_seed(5)
    encoder = SliceEncoder(nn.Identity(), 13, published_small())
    inputs = torch.randn(7, 13)
    tokens = encoder(inputs)
    assert tokens.shape == (7, 5, 6) and encoder.project.weight.shape == (6, 3)
    torch.testing.assert_close(tokens[:, 1], encoder.project(inputs[:, 3:6]))
    torch.testing.assert_close(tokens[:, 4], encoder.project(F.pad(inputs[:, 12:], (0, 2))))


def test_a_volumes_slices_are_cut_from_as_many_numbers_as_a_token_is_wide() -> None:
    config = published_small(
        encoder=EncoderConfig(kind="sfcn_lite", token_map="slices"), grid=VolumeGrid(shape=(9, 11, 7))
    )
    encoder = volume_encoder(Modality(name="t1"), config)
    assert encoder(torch.rand(3, 1, 9, 11, 7)).shape == (3, 5, 6)
    assert encoder.project.weight.shape == (6, 2)  # fmt: skip


def test_the_published_start_is_fastmoes() -> None:
    """Its rule takes the second dimension of a stack, and all behind, for the number of inputs."""
    config = ModelConfig(width=32, expert_hidden=64, experts=16, initialisation="flex_moe", bank_deviation=1.0)
    weights = make_model(config, 0).state_dict()
    for name, bound in (
        ("experts.w1", (32 * 64) ** -0.5), ("experts.w2", (32 * 64) ** -0.5), ("routers.weight", 0.25),
        ("routers.noise_weight", 0.25), ("encoders.t1.project.weight", (12 * 14 * 12) ** -0.5),
    ):  # fmt: skip
        assert 0.95 * bound < float(weights[name].abs().max()) <= bound
        assert float(weights[name].std()) == pytest.approx(bound / sqrt(3), rel=0.1)
    assert float(weights["missing_bank.embeddings"].std()) == pytest.approx(1.0, rel=0.1)


def test_without_decay_the_optimiser_is_adam() -> None:
    torch.manual_seed(6)
    model = PerMMoE(small_config())
    twin = PerMMoE(small_config())
    twin.load_state_dict(model.state_dict())
    train = TrainConfig(weight_decay=0.0, learning_rate=0.01)
    for own, optimiser in ((model, make_optimiser(model, train)), (twin, torch.optim.Adam(twin.parameters(), lr=0.01))):
        for step in range(3):
            for i, parameter in enumerate(own.parameters()):
                parameter.grad = torch.full_like(parameter, (-1.0) ** i * (step + 1))
            optimiser.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_published_pair_differs_in_the_routers_alone() -> None:
    flex_moe, permmoe = read_config(FLEX_MOE, RunConfig), read_config(PERMMOE, RunConfig)
    assert flex_moe.model.routers == "shared" and permmoe.model.routers == "per_modality"
    assert flex_moe.model_copy(update={"model": permmoe.model}) == permmoe
    assert flex_moe.model.model_copy(update={"routers": "per_modality"}) == permmoe.model
    assert permmoe.train.routing_losses.balance_pool == "modality"


def test_the_published_model_can_be_built_and_its_encoder_ends_in_the_codes_cells() -> None:
    """3 × 4 × 3 cells of 128 channels at 2 mm, then 128 numbers, then 16 slices of 8."""
    model = make_model(read_config(PERMMOE, RunConfig).model, 0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert (128, 128 * 3 * 4 * 3) in [shape for name, shape in shapes.items() if name.startswith("encoders.t1")]
    assert shapes["encoders.t1.project.weight"] == (128, 8)
    assert shapes["experts.w1"] == (16, 128, 256) and shapes["head.out.weight"] == (1, 4 * 128 + 1)


def test_a_federation_can_average_every_part_of_the_published_model() -> None:
    model = PerMMoE(published_small())
    layout = ModuleLayout.of(model)
    state = model.state_dict()
    restored = layout.unflatten(layout.flatten_all(state))
    assert all(torch.equal(restored[name], value) for name, value in state.items())


def test_channels_can_only_be_dropped_where_there_are_some() -> None:
    with pytest.raises(ConfigurationError, match=r"dropout_of = channels needs an encoder .*\(cnn\), not 'pooled'"):
        parse_config({"encoder": {"dropout_of": "channels"}}, ModelConfig, "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"bank_deviation": 0.02}, {"fusion": "pre_norm"}, {"head": "perceptron"}, {"initialisation": "scaled"},
        {"encoder": {"dropout_of": "features"}}, {"encoder": {"token_map": "features"}},
    ],
)  # fmt: skip
def test_what_the_published_model_needs_leaves_digests_of_others_alone(changes: dict[str, object]) -> None:
    assert ModelConfig.model_validate(changes).digest() == ModelConfig().digest()
