"""Records on the wire: what is written comes back exactly, and what breaks the protocol is refused by rule."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.records import (
    PACKED,
    EvaluationReply,
    Instruction,
    MalformedRecord,
    ModulesMissing,
    PackedModel,
    TrainReply,
    content_bytes,
    read_evaluation_reply,
    read_instruction,
    read_model,
    read_train_reply,
    write_evaluation_reply,
    write_instruction,
    write_modules,
    write_train_reply,
)
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from tests.support.tiny_federation import MODEL, tiny_plan

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
WEIGHTS = LAYOUT.flatten_all(make_model(MODEL, seed=5).state_dict())
PACKED_MODEL = PackedModel.of(WEIGHTS)
ASKED = Instruction(tiny_plan(), 7, PACKED_MODEL.digest(), "test")


def reply() -> TrainReply:
    updates = {name: ModuleUpdate(torch.rand(LAYOUT.size(name)), 2.5) for name in ("head", "bank/clinical/gene")}
    return TrainReply("north", 7, ASKED.model_digest, updates, TrainingFigures(23.0, 11.5, 1.25, 0.5))


def on_the_wire(content: RecordDict) -> RecordDict:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    objects = {key: thing.deflate() for key, thing in get_all_nested_objects(content).items()}
    return inflate_object_from_contents(content.object_id, objects)


def test_a_training_reply_comes_back_bit_by_bit() -> None:
    sent = reply()
    got = read_train_reply(on_the_wire(write_train_reply(sent)), LAYOUT)
    assert {name: u.support for name, u in got.updates.items()} == {name: u.support for name, u in sent.updates.items()}
    assert all(torch.equal(got.updates[n].weighted_delta, u.weighted_delta) for n, u in sent.updates.items())
    figures = ("site", "round", "model_digest", "figures")
    assert all(getattr(got, name) == getattr(sent, name) for name in figures)


def test_an_instruction_and_its_model_come_back() -> None:
    content = on_the_wire(write_instruction(ASKED, PACKED_MODEL))
    got = read_instruction(content)
    assert got == ASKED
    model = read_model(content, got, LAYOUT).unpacked(LAYOUT)
    assert all(torch.equal(model[name], WEIGHTS[name]) for name in WEIGHTS)


def test_sums_come_back_by_combination() -> None:
    sent = EvaluationReply("north", 7, "d", {"clinical+gene": ErrorSums(11, 7.5, 5.25, -3.0, 13.0)})
    assert read_evaluation_reply(on_the_wire(write_evaluation_reply(sent))) == sent


def test_all_modules_are_one_flat_array() -> None:
    record, modules = write_modules(PACKED_MODEL.modules), PACKED_MODEL.modules
    assert {name: array.shape for name, array in record.items()} == {PACKED: (4 * sum(map(len, WEIGHTS.values())),)}
    assert write_modules({name: modules[name] for name in reversed(modules)})[PACKED].data == record[PACKED].data


def test_bytes_count_the_array() -> None:
    size = sum(4 * LAYOUT.size(name) for name in LAYOUT.modules)
    assert size < content_bytes(RecordDict({"model": write_modules(PACKED_MODEL.modules)})) < size + 300


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


def array_of(values: np.ndarray, **claims: object) -> Array:
    array = Array(values)
    fields = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data} | claims
    return Array(**fields)


SIZE = 4 * sum(update.weighted_delta.numel() for update in reply().updates.values())


def send(array: Array) -> Callable[[RecordDict], object]:
    return lambda content: content["update"].update({PACKED: array})


def lying_header() -> bytes:
    """A header that promises an array of 8 TB."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    return buffer.getvalue()


ATTACKS: dict[str, tuple[Callable[[RecordDict], object], str]] = {
    "unknown module": (lambda c: c["support"].update({"encoder/xray": 3.0}), "unknown_module"),
    "one value more": (send(Array(np.zeros(SIZE + 1, "u1"))), "shape"),
    "two dimensions": (send(Array(np.zeros((1, SIZE), "u1"))), "shape"),
    "float64": (send(Array(np.zeros(SIZE))), "dtype"),
    "float64 said to be bytes": (send(array_of(np.zeros(SIZE), dtype="uint8")), "encoding"),
    "truncated": (lambda c: send(array_of(np.zeros(SIZE, "u1"), data=c["update"][PACKED].data[:-1]))(c), "encoding"),
    "a header of 8 TB": (send(array_of(np.zeros(SIZE, "u1"), data=lying_header())), "encoding"),
    "signed bytes said to be unsigned": (send(array_of(np.zeros(SIZE, "i1"), dtype="uint8")), "encoding"),
    "another serialiser": (send(array_of(np.zeros(SIZE, "u1"), stype="pickle")), "encoding"),
    "a second array": (lambda c: c["update"].update({"head": Array(np.zeros(3, "u1"))}), "encoding"),
    "no support": (lambda c: c["support"].pop("head"), "shape"),
    "support without update": (lambda c: c["support"].update({"trunk": 3.0}), "shape"),
    "list as support": (lambda c: c["support"].update({"head": [3.0, 4.0]}), "missing_support"),
    "no visits": (lambda c: c["figures"].pop("visits"), "missing_visits"),
    "no update": (lambda c: c.pop("update"), "missing_update"),
    "update of another kind": (lambda c: c.update({"update": ConfigRecord({})}), "missing_update"),
    "no header": (lambda c: c.pop("reply"), "missing_reply"),
    "no site": (lambda c: c["reply"].pop("site"), "missing_site"),
    "a path as site": (lambda c: c["reply"].update({"site": "../../etc"}), "site_name"),
    "text as round": (lambda c: c["reply"].update({"round": "7"}), "missing_round"),
    "true as round": (lambda c: c["reply"].update({"round": True}), "missing_round"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_broken_training_reply_is_refused_by_rule(attack: str) -> None:
    content = write_train_reply(reply())
    read_train_reply(content, LAYOUT)
    break_it, rule = ATTACKS[attack]
    break_it(content)
    with pytest.raises(MalformedRecord) as refused:
        read_train_reply(content, LAYOUT)
    assert refused.value.rule == rule


def announced(**changed: torch.Tensor) -> PackedModel:
    """The model with some modules changed behind the back of its digests."""
    return PackedModel(PackedModel.of(WEIGHTS | changed).modules, PACKED_MODEL.digests)


def test_a_site_refuses_a_model_that_is_not_the_one_that_was_announced() -> None:
    nudged = torch.nextafter(WEIGHTS["head"], torch.tensor(9.0))
    other = PackedModel.of(WEIGHTS | {"head": nudged})
    for model in (announced(head=nudged), other):
        with pytest.raises(MalformedRecord, match="model_digest"):
            read_model(write_instruction(ASKED, model), ASKED, LAYOUT)


def test_what_a_site_holds_need_not_travel() -> None:
    travelling = {"head", "trunk"}
    content = on_the_wire(write_instruction(ASKED, PACKED_MODEL, travelling=travelling))
    whole = content_bytes(write_instruction(ASKED, PACKED_MODEL))
    assert content_bytes(content) < whole - 4 * sum(LAYOUT.size(m) for m in set(WEIGHTS) - travelling)
    got = read_model(content, ASKED, LAYOUT, held=PACKED_MODEL).unpacked(LAYOUT)
    assert all(torch.equal(got[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("stale", [False, True])
def test_a_site_that_holds_none_or_another_module_says_so(stale: bool) -> None:
    held = PackedModel.of(WEIGHTS | {"encoder/gene": WEIGHTS["encoder/gene"] + 1}) if stale else None
    content = write_instruction(ASKED, PACKED_MODEL, travelling=set(WEIGHTS) - {"encoder/gene"})
    with pytest.raises(ModulesMissing):
        read_model(content, ASKED, LAYOUT, held=held)
    got = read_model(content, ASKED, LAYOUT, held=held, needed={"head"})
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
    content = write_instruction(ASKED, PACKED_MODEL)
    attack(content)
    with pytest.raises(MalformedRecord) as refused:
        read_model(content, ASKED, LAYOUT)
    assert refused.value.rule == rule


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
    content = write_instruction(ASKED, PACKED_MODEL)
    content["instruction"][key] = value
    with pytest.raises(MalformedRecord) as refused:
        read_instruction(content)
    assert refused.value.rule == rule


@pytest.mark.parametrize("values", [3.0, [1.0], [1.5, 0.0, 0.0, 0.0, 0.0], [float("nan"), 0.0, 0.0, 0.0, 0.0]])
def test_sums_that_are_none_are_refused(values: object) -> None:
    content = write_evaluation_reply(EvaluationReply("north", 7, "d", {}))
    content["sums"] = MetricRecord({"clinical": values})
    with pytest.raises(MalformedRecord, match="sums"):
        read_evaluation_reply(content)
