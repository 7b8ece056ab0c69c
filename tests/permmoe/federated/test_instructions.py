"""An instruction and its model come back exactly; a site refuses what it was not announced, by rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from flwr.app import RecordDict

from permmoe.federated.instructions import Instruction, ModulesMissing, read_instruction, read_model, write_instruction
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.records import MalformedRecord, content_bytes
from tests.support.records import LAYOUT, PACKED_MODEL, WEIGHTS, on_the_wire
from tests.support.tiny_federation import tiny_plan

INSTRUCTION = Instruction(tiny_plan(), 7, PACKED_MODEL.digest(), "test")


def test_an_instruction_and_its_model_come_back() -> None:
    content = on_the_wire(write_instruction(INSTRUCTION, PACKED_MODEL))
    got = read_instruction(content)
    assert got == INSTRUCTION
    model = read_model(content, got, LAYOUT).unpacked(LAYOUT)
    assert all(torch.equal(model[name], WEIGHTS[name]) for name in WEIGHTS)


def announced(**changed: torch.Tensor) -> PackedModel:
    """The model with some modules changed behind the back of its digests."""
    return PackedModel(PackedModel.of(WEIGHTS | changed).modules, PACKED_MODEL.digests)


def test_a_site_refuses_a_model_that_is_not_the_one_that_was_announced() -> None:
    nudged = torch.nextafter(WEIGHTS["head"], torch.tensor(9.0))
    other = PackedModel.of(WEIGHTS | {"head": nudged})
    for model in (announced(head=nudged), other):
        with pytest.raises(MalformedRecord, match="model_digest"):
            read_model(write_instruction(INSTRUCTION, model), INSTRUCTION, LAYOUT)


def test_what_a_site_holds_need_not_travel() -> None:
    travelling = {"head", "trunk"}
    content = on_the_wire(write_instruction(INSTRUCTION, PACKED_MODEL, travelling=travelling))
    whole = content_bytes(write_instruction(INSTRUCTION, PACKED_MODEL))
    assert content_bytes(content) < whole - 4 * sum(LAYOUT.size(m) for m in set(WEIGHTS) - travelling)
    got = read_model(content, INSTRUCTION, LAYOUT, held=PACKED_MODEL).unpacked(LAYOUT)
    assert all(torch.equal(got[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("stale", [False, True])
def test_a_site_that_holds_none_or_another_module_says_so(stale: bool) -> None:
    held = PackedModel.of(WEIGHTS | {"encoder/gene": WEIGHTS["encoder/gene"] + 1}) if stale else None
    content = write_instruction(INSTRUCTION, PACKED_MODEL, travelling=set(WEIGHTS) - {"encoder/gene"})
    with pytest.raises(ModulesMissing):
        read_model(content, INSTRUCTION, LAYOUT, held=held)
    got = read_model(content, INSTRUCTION, LAYOUT, held=held, needed={"head"})
    assert "encoder/gene" not in got.modules and not got.unpacked(LAYOUT)["encoder/gene"].any()


@pytest.mark.parametrize(
    ("attack", "rule"),
    [
        (lambda c: c["digests"].pop("sha256"), "missing_sha256"),
        (lambda c: c["digests"].pop("modules"), "missing_modules"),
        (lambda c: c["digests"].update({"sha256": b"short"}), "digests"),
        (lambda c: c["digests"].update({"sha256": "0" * 32 * len(WEIGHTS)}), "missing_sha256"),
        (lambda c: c["digests"].update({"modules": "head " * len(WEIGHTS)}), "digests"),
        (lambda c: c["digests"].update({"modules": "head", "sha256": bytes(32)}), "digests"),
        (lambda c: c["digests"].update({"modules": c["digests"]["modules"].replace("head", "tail")}), "digests"),
        (lambda c: c["digests"].update({"sha256": bytes(32 * len(WEIGHTS))}), "model_digest"),
        (lambda c: c["instruction"].update({"travelling": "head backdoor"}), "unknown_module"),
        (lambda c: c["instruction"].update({"travelling": "head"}), "shape"),
        (lambda c: c["instruction"].pop("travelling"), "missing_travelling"),
    ],
)
def test_a_site_refuses_an_announcement_that_is_none(attack: Callable[[RecordDict], object], rule: str) -> None:
    content = write_instruction(INSTRUCTION, PACKED_MODEL)
    attack(content)
    with pytest.raises(MalformedRecord) as refused:
        read_model(content, INSTRUCTION, LAYOUT)
    assert refused.value.rule == rule


PRIVATE = {"noise_multiplier": 1.0, "trains": ["head", "router"]}
OF_HEADS = Instruction(tiny_plan(evaluate_every=0, privacy=PRIVATE), 2, PACKED_MODEL.digest())
"""A round of a study that trains heads and routers alone."""


@pytest.mark.parametrize("travelling", [None, {"head", "trunk"}])
def test_what_every_participant_has_by_itself_is_in_no_message(travelling: set[str] | None) -> None:
    content = on_the_wire(write_instruction(OF_HEADS, PACKED_MODEL, travelling=travelling))
    routers = set() if travelling else {"router/clinical", "router/fluid", "router/gene"}
    assert set(content["instruction"]["travelling"].split()) == {"head"} | routers
    got = read_model(content, OF_HEADS, LAYOUT, held=PACKED_MODEL).unpacked(LAYOUT)
    assert all(torch.equal(got[name], WEIGHTS[name]) for name in WEIGHTS)


def test_attack_a_coordinator_that_sends_another_model_in_place_of_what_nobody_trains_is_refused() -> None:
    bent = PackedModel.of(WEIGHTS | {"encoder/gene": WEIGHTS["encoder/gene"] + 0.1})
    announced = replace(OF_HEADS, model_digest=bent.digest())
    content = write_instruction(announced, bent)
    with pytest.raises(ModulesMissing):
        read_model(content, announced, LAYOUT, held=PACKED_MODEL)
    of_another_study = write_instruction(replace(INSTRUCTION, model_digest=bent.digest()), bent)
    with pytest.raises(MalformedRecord, match="fixed_module"):
        read_model(of_another_study, announced, LAYOUT, held=PACKED_MODEL)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("plan", "{}{", "plan"),
        ("plan", '{"modle":{}}', "plan"),
        ("part", "train", "part"),
        ("round", 1.5, "missing_round"),
    ],
)
def test_a_site_refuses_an_instruction_that_it_does_not_understand(key: str, value: object, rule: str) -> None:
    content = write_instruction(INSTRUCTION, PACKED_MODEL)
    content["instruction"][key] = value
    with pytest.raises(MalformedRecord) as refused:
        read_instruction(content)
    assert refused.value.rule == rule
