"""Parameters as named modules: complete, disjoint, reversible; and how much of a site's data trained each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from permmoe.config import ModelConfig
from permmoe.ensemble import Ensemble, empty_network
from permmoe.federated.member_modules import of_member, own_name
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.training.exposure import Exposure
from permmoe.training.seeds import make_model
from tests.support.tiny_federation import MODEL

SHARED = MODEL.model_copy(update={"routers": "shared"})
SINGLE = MODEL.model_copy(update={"modalities": MODEL.modalities[:1]})
ADNI = ModelConfig(width=8, tokens=2, expert_hidden=3, head_hidden=5)
WITH_PARTNERS = ModelConfig(width=8, tokens=2, unimodal_heads=True, ridge={"cells": (1, 2, 3)}, spread="laplace")


@pytest.mark.parametrize("config", [MODEL, SHARED, SINGLE, ADNI, WITH_PARTNERS])
def test_every_element_of_every_parameter_belongs_to_exactly_one_module(config: ModelConfig) -> None:
    model = PerMMoE(config)
    state, start = {}, 0
    for name, parameter in model.named_parameters():
        state[name] = torch.arange(start, start + parameter.numel(), dtype=torch.float32).view(parameter.shape)
        start += parameter.numel()
    flat = torch.cat(list(ModuleLayout.of(model).flatten_all(state).values()))
    assert torch.equal(flat.sort().values, torch.arange(start, dtype=torch.float32))


@pytest.mark.parametrize("config", [MODEL, SHARED, SINGLE, WITH_PARTNERS])
def test_unflatten_undoes_flatten_bit_by_bit(config: ModelConfig) -> None:
    model = make_model(config, seed=3)
    layout = ModuleLayout.of(model)
    state = layout.unflatten(layout.flatten_all(model.state_dict()))
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", [MODEL, SHARED, SINGLE, ADNI, WITH_PARTNERS])
def test_unflatten_is_copying_each_part_to_its_place(config: ModelConfig) -> None:
    layout = ModuleLayout.of(PerMMoE(config))
    modules = {module: torch.randn(layout.size(module)) for module in reversed(layout.modules)}
    expected = {name: torch.full(shape, torch.nan) for name, shape in layout.shapes.items()}
    for module, parts in layout.slices.items():
        start = 0
        for part in parts:
            target = expected[part.parameter] if part.index is None else expected[part.parameter][part.index]
            target.copy_(modules[module][start : start + part.size].view(part.shape))
            start += part.size
    state = layout.unflatten(modules)
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)


def test_modules_are_named_as_the_design_says() -> None:
    config = MODEL.model_copy(update={"modalities": MODEL.modalities[:2], "experts": 3})
    expected = {
        "encoder/clinical", "encoder/fluid", "router/clinical", "router/fluid", "expert/0", "expert/1", "expert/2",
        "bank/clinical/fluid", "bank/fluid/clinical", "trunk", "head",
    }  # fmt: skip
    assert set(ModuleLayout.of(PerMMoE(config)).modules) == expected
    shared = ModuleLayout.of(PerMMoE(config.model_copy(update={"routers": "shared"})))
    assert set(shared.modules) == expected - {"router/clinical", "router/fluid"} | {"router/shared"}


@pytest.mark.parametrize("config", [MODEL, SHARED, WITH_PARTNERS])
def test_modules_of_an_ensemble_are_those_of_its_members_each_in_its_place(config: ModelConfig) -> None:
    models = [make_model(config, seed) for seed in (3, 5, 7)]
    ensemble, single = Ensemble(models), ModuleLayout.of(models[0])
    layout = ModuleLayout.of(ensemble)
    flat = layout.flatten_all(ensemble.state_dict())
    assert flat.keys() == {of_member(i, module) for i in (1, 2, 3) for module in single.modules}
    for i, model in enumerate(models, start=1):
        for module, own in single.flatten_all(model.state_dict()).items():
            assert torch.equal(flat[of_member(i, module)], own) and own_name(of_member(i, module)) == module
    state = layout.unflatten(flat)
    assert list(state) == [name for name, _ in ensemble.named_parameters()]
    assert all(torch.equal(state[name], value) for name, value in ensemble.state_dict().items())
    assert single.for_members(1) is single and single.for_members(3) == layout


def test_a_site_reaches_the_same_modules_of_every_member() -> None:
    alone = reachable_modules(MODEL, ("clinical",))
    assert reachable_modules(MODEL, ("clinical",), 1) == alone and "encoder/gene" not in alone
    together = reachable_modules(MODEL, ("clinical",), 3)
    assert together == {of_member(i, module) for i in (1, 2, 3) for module in alone}
    assert together < set(ModuleLayout.of(empty_network(MODEL, 3)).modules)


def test_a_full_adni_model_has_28_bank_modules() -> None:
    modules = ModuleLayout.of(PerMMoE(ADNI)).modules
    assert sum(name.startswith("bank/") for name in modules) == 28
    assert "bank/t1+amyloid/tau" in modules


def test_a_stacked_parameter_is_cut_along_its_first_dimension() -> None:
    model = make_model(MODEL, seed=3)
    layout, state = ModuleLayout.of(model), model.state_dict()
    pieces = [state[f"experts.{name}"][4].reshape(-1) for name in ("w1", "b1", "w2", "b2")]
    assert torch.equal(layout.flatten(state, "expert/4"), torch.cat(pieces))
    assert layout.size("expert/4") == 10 * 7 + 7 + 7 * 10 + 10
    router = [state["routers.weight"][2].reshape(-1), state["routers.noise_weight"][2].reshape(-1)]
    assert torch.equal(layout.flatten(state, "router/gene"), torch.cat(router))


def test_flattened_modules_share_no_memory_with_the_model() -> None:
    model = make_model(MODEL, seed=3)
    layout = ModuleLayout.of(model)
    before = layout.flatten_all(model.state_dict())
    kept = {name: flat.clone() for name, flat in before.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], kept[name]) for name in kept)


def test_unflatten_refuses_a_module_of_the_wrong_size_or_absent() -> None:
    model = make_model(MODEL, seed=3)
    layout = ModuleLayout.of(model)
    modules = layout.flatten_all(model.state_dict())
    with pytest.raises(ValueError, match="head"):
        layout.unflatten(modules | {"head": modules["head"][:-1]})
    del modules["head"]
    with pytest.raises(KeyError):
        layout.unflatten(modules)


def test_a_parameter_without_a_module_is_an_error() -> None:
    model = PerMMoE(MODEL)
    model.calibration = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"calibration belongs to no module"):
        ModuleLayout.of(model)


EXPOSURE = Exposure(
    visits=30.0,
    observed={"clinical": 30.0, "fluid": 11.0, "gene": 0.0},
    imputed={"clinical": 0.0, "fluid": 19.0, "gene": 30.0},
    patterns={0b001: 19.0, 0b011: 11.0},
    expert_mass=torch.tensor([13.0, 7.0, 5.0, 5.0, 0.0]),
)


def test_support_follows_the_table() -> None:
    support = module_support(MODEL, EXPOSURE)
    assert support.keys() == set(ModuleLayout.of(PerMMoE(MODEL)).modules)
    trained = {name: value for name, value in support.items() if value > 0}
    assert trained == {
        "trunk": 30, "head": 30, "encoder/clinical": 30, "encoder/fluid": 11, "router/clinical": 30, "router/fluid": 11,
        "expert/0": 13, "expert/1": 7, "expert/2": 5, "expert/3": 5,
        "bank/clinical/fluid": 19, "bank/clinical/gene": 19, "bank/clinical+fluid/gene": 11,
    }  # fmt: skip


def test_the_spread_is_a_module_of_its_own_that_every_visit_trains() -> None:
    config = MODEL.model_copy(update={"spread": "laplace"})
    support = module_support(config, EXPOSURE)
    assert support.keys() == set(ModuleLayout.of(PerMMoE(config)).modules)
    assert support["spread"] == 30 and "spread" in reachable_modules(config, ("fluid",))
    assert "spread" not in module_support(MODEL, EXPOSURE)


def test_kappa_gives_a_router_support_from_imputed_visits() -> None:
    support = module_support(MODEL, EXPOSURE, imputed_router_support=0.5)
    assert support["router/gene"] == 15 and support["router/fluid"] == 11 + 9.5 and support["encoder/gene"] == 0


def test_a_shared_router_is_trained_by_every_visit() -> None:
    support = module_support(SHARED, EXPOSURE)
    assert support["router/shared"] == 30 and "router/clinical" not in support


def test_names_survive_a_modality_with_an_underscore() -> None:
    named = MODEL.model_copy(update={"modalities": (*MODEL.modalities[:1], Modality(name="t2_star"))})
    assert "bank/clinical/t2_star" in ModuleLayout.of(PerMMoE(named)).modules
