"""A round whose GPU fails is answered: by the CPU where the site's file says auto, else by a refusal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import MessageType

import permmoe_client.participation.local_round as local_round
from permmoe.encoder_kinds import ENCODERS
from permmoe.federated.replies import read_evaluation_reply
from permmoe.training.epochs import train_epochs
from permmoe_client.participation.evaluated import evaluated
from permmoe_client.participation.running_site import RunningSites
from tests.support.pretended_gpu import limit_memory, pretend_gpus
from tests.support.site_messages import ask, instruction, trained
from tests.support.tiny_federation import MODEL, tiny_plan, write_site

LOST = torch.AcceleratorError("CUDA error: unspecified launch failure")


@pytest.fixture
def _gains(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = MODEL.encoder.kind
    monkeypatch.setitem(ENCODERS, kind, ENCODERS[kind].__class__(**vars(ENCODERS[kind]) | {"gains_from_gpu": True}))


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str, work: Any) -> list[int]:
    """Let the GPU disappear after the work was done, when weights have changed and nothing has left."""
    calls: list[int] = []

    def once(*arguments: Any, **options: Any) -> Any:
        found = work(*arguments, **options)
        calls.append(len(calls))
        if len(calls) == 1:
            raise LOST
        return found

    monkeypatch.setattr(local_round, name, once)
    return calls


@pytest.mark.usefixtures("_gains")
def test_a_round_whose_gpu_disappears_is_trained_on_the_cpu_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = trained(write_site(tmp_path, "north", device="cpu"), instruction())
    gpus = pretend_gpus(monkeypatch)
    calls = fail_once(monkeypatch, "train_epochs", train_epochs)
    with caplog.at_level(logging.INFO):
        reply = trained(write_site(tmp_path, "north"), instruction())
    assert gpus.sent == ["cuda", "cpu"] and len(calls) == 2
    assert reply.updates.keys() == usual.updates.keys()
    for name, update in usual.updates.items():
        assert torch.equal(reply.updates[name].weighted_delta, update.weighted_delta)
        assert reply.updates[name].support == update.support
    [line] = [text for text in caplog.messages if "the CPU takes its place" in text]
    assert "unspecified launch failure" in line and str(tmp_path) not in line


@pytest.mark.usefixtures("_gains")
def test_an_evaluation_whose_gpu_disappears_is_done_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_site(tmp_path, "north", visits=41)
    usual = read_evaluation_reply(ask(path, instruction(), MessageType.EVALUATE).content)
    gpus = pretend_gpus(monkeypatch)
    fail_once(monkeypatch, "evaluated", evaluated)
    reply = read_evaluation_reply(ask(path, instruction(), MessageType.EVALUATE).content)
    assert gpus.sent == ["cuda", "cpu"] and reply.sums == usual.sums


def test_a_round_is_refused_where_the_file_names_the_gpu_and_the_next_one_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_gpus(monkeypatch)
    fail_once(monkeypatch, "train_epochs", train_epochs)
    path = write_site(tmp_path, "north", device="cuda:0")
    reply = ask(path, instruction())
    assert reply.error.reason == "DeviceUnusable" and str(tmp_path).encode() not in reply.deflate()
    [line] = [text for text in caplog.messages if "DeviceUnusable" in text]
    assert "device cuda:0: it failed (CUDA error: unspecified launch failure)" in line and str(tmp_path) not in line
    usual = trained(write_site(tmp_path, "north", device="cpu"), instruction())
    again = trained(write_site(tmp_path, "north", device="cuda:0"), instruction())
    for name, update in usual.updates.items():
        assert torch.equal(again.updates[name].weighted_delta, update.weighted_delta)


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_a_site_without_the_gpu_that_its_file_names_refuses(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert ask(write_site(tmp_path, "north", device="cuda"), instruction(), kind).error.reason == "DeviceUnusable"


def test_a_mistake_in_a_round_is_no_failure_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(local_round, "train_epochs", broken)
    assert ask(write_site(tmp_path, "north", device="cuda"), instruction()).error.reason == "RuntimeError"


def test_a_round_that_does_not_fit_into_memory_is_the_one_with_micro_batches_and_later_ones_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = tiny_plan(proximal_weight=0.3)
    in_pieces = plan.model_copy(update={"train": plan.train.model_copy(update={"micro_batch": 4})})
    told = trained(write_site(tmp_path, "north", device="cpu"), instruction(in_pieces))
    asked = limit_memory(monkeypatch, 4, after=2)
    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites())
    path = write_site(tmp_path, "north", device="cpu")
    replies = [trained(path, instruction(plan)) for _ in range(2)]
    for reply in replies:
        for name, update in told.updates.items():
            assert torch.equal(reply.updates[name].weighted_delta, update.weighted_delta)
            assert reply.updates[name].support == update.support
        assert reply.figures.loss_sum == told.figures.loss_sum
    assert sum(size > 4 for size in asked) == 3, "two steps went well, one did not, and no later one was tried"
    assert len([text for text in caplog.messages if "begun anew with 4 at a time" in text]) == 1


def test_a_round_of_which_not_even_a_visit_fits_is_refused_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_gpus(monkeypatch)
    limit_memory(monkeypatch, 0)
    reply = ask(write_site(tmp_path, "north", device="cuda"), instruction())
    assert reply.error.reason == "DeviceUnusable" and "checkpoint_encoders" in caplog.text
