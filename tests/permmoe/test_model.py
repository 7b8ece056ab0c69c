"""The whole forward pass: any combination, any mix of modalities, nothing remembered."""

from __future__ import annotations

import gc
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from permmoe.config import HospitalLine, ModelConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.modality import bank_pairs, combination_mask
from permmoe.model import Output, PerMMoE
from permmoe.training.losses import total_loss
from tests.support.model_batches import random_batch, random_pattern, rows_of, small_config, withhold

CONFIG = small_config()


def model_and_batch(config: ModelConfig = CONFIG, n_visits: int = 13) -> tuple[PerMMoE, Batch]:
    torch.manual_seed(0)
    return PerMMoE(config), random_batch(config, random_pattern(n_visits, len(config.modalities)))


def train_step(model: PerMMoE, batch: Batch) -> Tensor:
    loss = total_loss(model(batch), batch, TrainConfig())
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def assert_same(a: Output, b: Output) -> None:
    torch.testing.assert_close(a.prediction, b.prediction, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.routing.gates, b.routing.gates, atol=1e-5, rtol=1e-4)


def test_parameters_have_the_names_and_shapes_by_which_federation_splits_them() -> None:
    shapes = {name: tuple(p.shape) for name, p in PerMMoE(CONFIG).named_parameters()}
    assert shapes["routers.weight"] == shapes["routers.noise_weight"] == (3, 7, 11)
    assert (shapes["experts.w1"], shapes["experts.b1"]) == ((11, 7, 13), (11, 13))
    assert (shapes["experts.w2"], shapes["experts.b2"]) == ((11, 13, 7), (11, 7))
    assert shapes["missing_bank.embeddings"] == (len(bank_pairs(3)), 5, 7)
    assert {name.split(".")[0] for name in shapes} == {
        "encoders", "missing_bank", "attention", "routers", "experts", "head"
    }  # fmt: skip
    assert {name.split(".")[1] for name in shapes if name.startswith("encoders")} == set(CONFIG.names)


def test_parameters_are_the_whole_state() -> None:
    model = PerMMoE(CONFIG)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def test_a_hospitals_line_stands_behind_a_finished_model_and_training_does_not_know_it() -> None:
    model, batch = model_and_batch()
    line = HospitalLine(intercept=-0.7, slope=0.4)
    at_hospital = PerMMoE(CONFIG.model_copy(update={"at_hospital": line}))
    at_hospital.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.manual_seed(1)
        trained = model(batch).prediction
        torch.manual_seed(1)
        torch.testing.assert_close(at_hospital(batch).prediction, trained)
        found, own = (m.eval()(batch).prediction for m in (at_hospital, model))
    torch.testing.assert_close(found, -0.7 + 0.4 * own)


def test_predictions_are_held_within_the_outcomes_range_in_evaluation_alone() -> None:
    model, batch = model_and_batch()
    free = PerMMoE(CONFIG.model_copy(update={"outcome_range": None}))
    with torch.no_grad():
        model.head.out.weight *= 1000
        free.load_state_dict(model.state_dict())
        unbounded = free.eval()(batch).prediction
        assert unbounded.min() < -18 and unbounded.max() > 18
        assert torch.equal(model.eval()(batch).prediction, unbounded.clamp(-18, 18))
        assert model.train()(batch).prediction.abs().max() > 18


def test_a_model_of_another_outcome_has_its_own_range() -> None:
    model, batch = model_and_batch(CONFIG.model_copy(update={"outcome_range": (0.0, 0.01)}))
    prediction = model.eval()(batch).prediction
    assert (prediction.min(), prediction.max()) == (0, torch.tensor(0.01))


def test_reordering_the_visits_reorders_the_predictions() -> None:
    model, batch = model_and_batch()
    order = torch.randperm(13).tolist()
    expected = model.eval()(batch)
    shuffled = model(rows_of(batch, CONFIG.names, order))
    torch.testing.assert_close(shuffled.prediction, expected.prediction[order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shuffled.routing.gates, expected.routing.gates[order], atol=1e-5, rtol=1e-4)


def test_a_visits_prediction_does_not_depend_on_its_companions() -> None:
    model, batch = model_and_batch()
    together = model.eval()(batch).prediction
    for visit in range(13):
        alone = model(rows_of(batch, CONFIG.names, [visit])).prediction
        torch.testing.assert_close(alone, together[visit : visit + 1], atol=1e-5, rtol=1e-4)


def test_a_withheld_modality_is_the_same_as_one_that_was_never_measured() -> None:
    model, _ = model_and_batch()
    full = random_batch(CONFIG, torch.ones(5, 3, dtype=torch.bool))
    withheld = withhold(full, CONFIG.names, visit=2, modality=1)
    never = Batch(
        {n: x[torch.arange(5) != 2] if n == "volume1" else x for n, x in full.inputs.items()},
        withheld.observed, full.baseline, full.target,
    )  # fmt: skip
    assert_same(model.eval()(withheld), model(never))
    difference = (model(withheld).prediction - model(full).prediction).abs()
    assert (difference > 1e-6).tolist() == [False, False, True, False, False]


def test_tokens_are_encodings_where_observed_and_the_banks_elsewhere() -> None:
    model, batch = model_and_batch()
    seen: list[Tensor] = []
    model.attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.eval()(batch)
    pairs = bank_pairs(3)
    for visit in range(13):
        alone = rows_of(batch, CONFIG.names, [visit])
        names = [n for n, is_observed in zip(CONFIG.names, batch.observed[visit].tolist(), strict=True) if is_observed]
        mask = combination_mask(names, CONFIG.names)
        for j, name in enumerate(CONFIG.names):
            if name in names:
                expected = model.encoders[name](alone.inputs[name])[0]
            else:
                expected = model.missing_bank.embeddings[pairs.index((mask, j))]
            torch.testing.assert_close(seen[0][visit, j], expected)


def test_a_missing_volume_costs_no_encoding() -> None:
    model, batch = model_and_batch()
    rows: dict[str, int] = {}
    for name, encoder in model.encoders.items():
        encoder.register_forward_pre_hook(lambda _, inputs, name=name: rows.update({name: len(inputs[0])}))
    model(batch)
    assert rows == {n: int(batch.observed[:, j].sum()) for j, n in enumerate(CONFIG.names)}
    rows.clear()
    only_first = random_batch(CONFIG, torch.tensor([[True, False, False]] * 7))
    assert set(only_first.inputs) == {"volume0"}
    train_step(model, only_first)
    assert rows == {"volume0": 7}
    assert all(p.grad is None for n in ("volume1", "volume2") for p in model.encoders[n].parameters())


def test_an_empty_input_is_the_same_as_none() -> None:
    model, _ = model_and_batch()
    batch = random_batch(CONFIG, torch.tensor([[True, False, False]] * 3))
    empty = Batch(
        dict(batch.inputs) | {"volume1": torch.empty(0, 1, 2, 3, 5)}, batch.observed, batch.baseline, batch.target
    )
    assert_same(model.eval()(empty), model(batch))
    train_step(model, empty)
    assert all(p.grad is None for p in model.encoders["volume1"].parameters())


def test_experts_add_to_the_tokens_instead_of_replacing_them() -> None:
    model, batch = model_and_batch()
    seen: list[Tensor] = []
    model.attention.register_forward_hook(lambda _, inputs, output: seen.append(output))
    nn.init.zeros_(model.experts.w2)
    prediction = model.eval()(batch).prediction
    assert torch.equal(prediction, model.head(seen[0], batch.baseline))


def test_inputs_that_disagree_with_the_observed_pattern_are_refused() -> None:
    model, batch = model_and_batch()
    short = Batch(dict(batch.inputs) | {"volume1": batch.inputs["volume1"][1:]}, *_rest(batch))
    with pytest.raises(ValueError, match="volume1, but its input has"):
        model(short)
    absent = Batch({n: x for n, x in batch.inputs.items() if n != "volume1"}, *_rest(batch))
    with pytest.raises(ValueError, match="volume1, but its input has 0 rows"):
        model(absent)


def _rest(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.observed, batch.baseline, batch.target


def test_a_visit_with_nothing_observed_is_refused() -> None:
    model, _ = model_and_batch()
    batch = random_batch(CONFIG, torch.tensor([[True, True, True], [False, False, False]]))
    with pytest.raises(ValueError, match="no observed modality"):
        model(batch)


def test_every_combination_is_predicted_although_training_saw_only_one() -> None:
    """The public Flex-MoE code crashes at a subject whose combination is unknown."""
    model, _ = model_and_batch()
    train_step(model, random_batch(CONFIG, torch.ones(7, 3, dtype=torch.bool)))
    for mask in range(1, 8):
        observed = torch.tensor([[bool(mask >> j & 1) for j in range(3)]])
        assert model.eval()(random_batch(CONFIG, observed)).prediction.isfinite().all()


def test_a_bank_embedding_is_trained_only_by_visits_with_exactly_its_observed_set() -> None:
    model, _ = model_and_batch()
    train_step(model, random_batch(CONFIG, torch.tensor([[True, False, True], [False, True, False]])))
    gradient = model.missing_bank.embeddings.grad
    assert gradient is not None
    trained = {bank_pairs(3)[row] for row in gradient.flatten(1).abs().sum(1).nonzero().flatten().tolist()}
    assert trained == {(0b101, 1), (0b010, 0), (0b010, 2)}


@pytest.mark.parametrize("routers", ["per_modality", "shared"])
def test_every_parameter_gets_a_gradient(routers: str) -> None:
    config = small_config(routers=routers)
    model, _ = model_and_batch(config)
    every = torch.tensor([[bool(mask >> j & 1) for j in range(3)] for mask in range(1, 8)] * 5)
    train_step(model, random_batch(config, every))
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, parameter in learned:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert model.routers.weight.grad is not None
    assert (model.routers.weight.grad.flatten(1).abs().sum(1) > 0).all()


def test_flex_moe_is_the_same_class_with_one_router_for_all() -> None:
    own, batch = model_and_batch()
    shared = PerMMoE(small_config(routers="shared"))
    state = shared.state_dict()
    for name in ("routers.weight", "routers.noise_weight"):
        state[name] = state[name].expand(3, -1, -1)
    own.load_state_dict(state)
    assert_same(own.eval()(batch), shared.eval()(batch))


def test_evaluation_adds_nothing_to_the_next_training_steps_loss() -> None:
    model, batch = model_and_batch()
    torch.manual_seed(1)
    before = train_step(model, batch)
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model(batch)
    model.train()
    torch.manual_seed(1)
    assert torch.equal(train_step(model, batch), before)


def test_nothing_is_kept_between_forward_calls() -> None:
    """The public Flex-MoE code keeps every step's largest logits."""
    model, batch = model_and_batch()

    def attributes() -> dict[str, set[str]]:
        return {
            name: {k for k, v in vars(m).items() if isinstance(v, Tensor)} | set(m._buffers)
            for name, m in model.named_modules()
        }

    def living_tensors() -> int:
        gc.collect()
        return sum(type(o) in (Tensor, nn.Parameter) for o in gc.get_objects())

    train_step(model, batch)
    names, alive = attributes(), living_tensors()
    for _ in range(5):
        train_step(model, batch)
    assert attributes() == names
    assert living_tensors() <= alive


def test_two_runs_from_one_seed_give_the_same_bits() -> None:
    results = []
    for _ in range(2):
        config = small_config(dropout=0.1)
        model, batch = model_and_batch(config)
        results.append([train_step(model, batch), *(p.grad for p in model.parameters() if p.requires_grad)])
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


@pytest.mark.parametrize(("n_volumes", "n_tables"), [(1, 0), (0, 2), (0, 3), (2, 2), (3, 2), (0, 8)])
def test_the_loss_falls_on_any_mix_of_modalities(n_volumes: int, n_tables: int) -> None:
    config = small_config(n_volumes, n_tables, experts=16, width=8, heads=2)
    model, batch = model_and_batch(config, n_visits=29)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        losses.append(train_step(model, batch).item())
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("top_k", [1, 11])
def test_the_model_trains_with_one_expert_a_token_and_with_all(top_k: int) -> None:
    model, batch = model_and_batch(small_config(top_k=top_k))
    assert train_step(model, batch).isfinite()


def test_higher_baseline_means_another_prediction_for_the_same_images() -> None:
    model, batch = model_and_batch()
    worse = Batch(batch.inputs, batch.observed, batch.baseline + 1, batch.target)
    assert ((model.eval()(worse).prediction - model(batch).prediction).abs() > 1e-6).all()


def test_attention_without_mixing_passes_its_input_on() -> None:
    """The public Flex-MoE code adds the attention's output to itself instead of to its input."""
    model, _ = model_and_batch()
    for parameter in model.attention.project.parameters():
        nn.init.zeros_(parameter)
    nn.init.zeros_(model.attention.modality_embedding)
    nn.init.zeros_(model.attention.position_embedding)
    tokens = torch.randn(2, 3, 5, 7)
    assert torch.equal(model.attention(tokens), tokens)


def test_every_token_attends_to_every_token_of_its_visit_and_to_no_other_visit() -> None:
    model, _ = model_and_batch()
    tokens = torch.randn(2, 3, 5, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.attention(tokens)[0, 2, 4].sum(), tokens)
    assert (gradient[0].abs().sum(-1) > 0).all()
    assert gradient[1].abs().sum() == 0


@pytest.mark.parametrize("heads", [1, 7])
def test_attention_equals_its_definition(heads: int) -> None:
    torch.manual_seed(0)
    attention = PerMMoE(small_config(heads=heads)).attention.eval()
    tokens = torch.randn(2, 3, 5, 7)
    x = (tokens + attention.modality_embedding + attention.position_embedding).flatten(1, 2)
    q, k, v = attention.to_qkv(attention.norm(x)).chunk(3, dim=-1)
    size = 7 // heads
    mixed = []
    for a, b in pairwise(range(0, 7 + size, size)):
        weights = (q[..., a:b] @ k[..., a:b].transpose(1, 2) / size**0.5).softmax(-1)
        mixed.append(weights @ v[..., a:b])
    expected = x + attention.project(torch.cat(mixed, dim=-1))
    torch.testing.assert_close(attention(tokens), expected.view_as(tokens), atol=1e-5, rtol=1e-4)


def test_half_precision_agrees_with_single() -> None:
    config = small_config(experts=5, top_k=5, router_noise=False)
    model, batch = model_and_batch(config, n_visits=31)
    exact = model(batch)
    (gradient,) = torch.autograd.grad(exact.prediction.sum(), model.experts.w1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(batch)
    (half_gradient,) = torch.autograd.grad(half.prediction.sum(), model.experts.w1)
    assert half.prediction.dtype == torch.float32
    assert half.routing.gates.dtype == torch.float32
    assert 0 < (half.prediction - exact.prediction).norm() < 0.05 * exact.prediction.norm()
    cosine = torch.cosine_similarity(gradient.flatten(), half_gradient.flatten(), dim=0)
    assert cosine > 0.99
