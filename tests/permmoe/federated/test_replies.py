"""What a site writes comes back exactly, and a reply that breaks the protocol is refused by rule."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.module_records import PACKED
from permmoe.federated.records import MalformedRecord
from permmoe.federated.replies import (
    EvaluationReply,
    TrainReply,
    read_evaluation_reply,
    read_train_reply,
    write_evaluation_reply,
    write_train_reply,
)
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from tests.support.records import LAYOUT, PACKED_MODEL, on_the_wire


def reply() -> TrainReply:
    updates = {name: ModuleUpdate(torch.rand(LAYOUT.size(name)), 2.5) for name in ("head", "bank/clinical/gene")}
    return TrainReply("north", 7, PACKED_MODEL.digest(), updates, TrainingFigures(23.0, 11.5, 1.25, 0.5))


def test_a_training_reply_comes_back_bit_by_bit() -> None:
    sent = reply()
    got = read_train_reply(on_the_wire(write_train_reply(sent)), LAYOUT)
    assert {name: u.support for name, u in got.updates.items()} == {name: u.support for name, u in sent.updates.items()}
    assert all(torch.equal(got.updates[n].weighted_delta, u.weighted_delta) for n, u in sent.updates.items())
    figures = ("site", "round", "model_digest", "figures")
    assert all(getattr(got, name) == getattr(sent, name) for name in figures)


def test_sums_come_back_by_combination() -> None:
    sent = EvaluationReply("north", 7, "d", {"clinical+gene": ErrorSums(11, 7.5, 5.25, -3.0, 13.0)})
    assert read_evaluation_reply(on_the_wire(write_evaluation_reply(sent))) == sent


def test_counts_with_noise_come_back_also_below_zero() -> None:
    noised = np.array([[3, -2, 0], [5, 7, -11]])
    sent = EvaluationReply("north", 7, "d", {}, noised=noised)
    got = read_evaluation_reply(on_the_wire(write_evaluation_reply(sent)))
    assert got.noised is not None and (got.noised == noised).all() and not got.sums


@pytest.mark.parametrize(
    "record", [{}, {"0": [1, 2], "1": [3]}, {"0": [1, 2], "2": [3, 4]}, {"0": [1.5, 2.0]}, {"0": [1 << 62]}, {"0": 5}]
)
def test_counts_with_noise_that_are_no_table_of_whole_numbers_are_malformed(record: dict[str, list[int]]) -> None:
    content = write_evaluation_reply(EvaluationReply("north", 7, "d", {}))
    content["noised"] = MetricRecord(record)
    with pytest.raises(MalformedRecord) as error:
        read_evaluation_reply(content)
    assert error.value.rule == "noised"


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


@pytest.mark.parametrize("values", [3.0, [1.0], [1.5, 0.0, 0.0, 0.0, 0.0], [float("nan"), 0.0, 0.0, 0.0, 0.0]])
def test_sums_that_are_none_are_refused(values: object) -> None:
    content = write_evaluation_reply(EvaluationReply("north", 7, "d", {}))
    content["sums"] = MetricRecord({"clinical": values})
    with pytest.raises(MalformedRecord, match="sums"):
        read_evaluation_reply(content)
