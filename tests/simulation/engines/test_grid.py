"""The in-process Grid keeps Flower's contract, and gives the same weights however messages travel."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from torch import Tensor

from permmoe.errors import PermmoeError
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.client_workers import Answer, answered
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid, run_in_process
from tests.support.tiny_federation import node_configs, tiny_plan

echo = ClientApp()


@echo.train()
def _echo(message: Message, context: Context) -> Message:
    """Count calls in the node's state, and spoil what came before sending it back."""
    name = str(context.node_config["name"])
    if name == "broken":
        raise RuntimeError("text of the exception")
    calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
    context.state["calls"] = ConfigRecord({"n": calls})
    message.content["config"]["seen-by"] = name
    return Message(RecordDict({"reply": message.content["config"], "calls": context.state["calls"]}), reply_to=message)


def echoes(*names: str, **settings: bool) -> InProcessGrid:
    return InProcessGrid(echo, [{"name": name} for name in names], **settings)


def question(node: int, content: RecordDict | None = None) -> Message:
    content = content or RecordDict({"config": ConfigRecord({"q": 1}), "model": ArrayRecord({"a": Array(ONES)})})
    return Message(content, node, MessageType.TRAIN, group_id="1")


ONES = torch.ones(11).numpy()


class OneThread:
    """Workers of a simulated federation, or ones that raise an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self._thread, self._error = ThreadPoolExecutor(1), error

    def submit(self, app: ClientApp, message: Message, context: Context) -> Future[Answer]:
        return self._thread.submit(self._answer, app, message, context)

    def close(self) -> None:
        self._thread.shutdown()

    def _answer(self, app: ClientApp, message: Message, context: Context) -> Answer:
        if self._error:
            raise self._error
        return answered(app, message, context)


@pytest.mark.parametrize("is_serialised", [False, True])
def test_a_node_cannot_change_what_another_is_sent(is_serialised: bool) -> None:
    grid = echoes("ant", "bee", is_serialised=is_serialised)
    content = question(0).content
    list(grid.send_and_receive([question(node, content) for node in grid.get_node_ids()]))
    assert dict(content["config"]) == {"q": 1}


def test_replies_name_the_message_that_they_answer() -> None:
    grid = echoes("ant", "bee")
    identifiers = list(grid.push_messages([question(FIRST_NODE), question(FIRST_NODE + 1)]))
    replies = [reply for identifier in identifiers for reply in grid.pull_messages([identifier])]
    assert [reply.metadata.reply_to_message_id for reply in replies] == identifiers
    assert [reply.metadata.src_node_id for reply in replies] == [FIRST_NODE, FIRST_NODE + 1]
    assert [reply.content["reply"]["seen-by"] for reply in replies] == ["ant", "bee"]


def test_without_workers_one_reply_is_in_memory_at_a_time() -> None:
    grid = echoes("ant", "bee")
    identifiers = list(grid.push_messages([question(FIRST_NODE), question(FIRST_NODE + 1)]))
    assert len(list(grid.pull_messages(identifiers))) == 1
    assert len(list(grid.pull_messages(identifiers))) == 1
    assert not list(grid.pull_messages(identifiers))


def test_a_node_keeps_its_state_between_messages() -> None:
    grid = echoes("ant", "bee")
    for _ in range(2):
        list(grid.send_and_receive([question(FIRST_NODE)]))
    [reply] = grid.send_and_receive([question(FIRST_NODE)])
    [other] = grid.send_and_receive([question(FIRST_NODE + 1)])
    assert (reply.content["calls"]["n"], other.content["calls"]["n"]) == (3, 1)


def test_an_exception_becomes_an_error_reply_with_its_text_as_in_flower() -> None:
    [reply] = echoes("broken").send_and_receive([question(FIRST_NODE)])
    assert reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert reply.error.reason == "<class 'RuntimeError'>:<'text of the exception'>"
    assert reply.metadata.src_node_id == FIRST_NODE


def test_a_message_to_an_unknown_node_has_an_empty_identifier() -> None:
    grid = echoes("ant")
    unknown, known = grid.push_messages([question(FIRST_NODE + 9), question(FIRST_NODE)])
    assert unknown == "" and known


def test_bytes_are_counted_by_node() -> None:
    grid = echoes("ant", "bee")
    list(grid.send_and_receive([question(FIRST_NODE), question(FIRST_NODE), question(FIRST_NODE + 1)]))
    assert grid.bytes_down[FIRST_NODE] == 2 * grid.bytes_down[FIRST_NODE + 1] > 2 * ONES.nbytes
    assert grid.bytes_up[FIRST_NODE] > grid.bytes_up[FIRST_NODE + 1] > 0


def federated(folder: Path, **settings: object) -> Mapping[str, Tensor]:
    """Weights after two rounds of the real apps on the three tiny sites."""
    folder.mkdir()
    (folder / "plan.json").write_text(tiny_plan(rounds=2).canonical_json())
    run_config = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_in_process(server_app, client_app, node_configs(folder), run_config, **settings)
    return load_checkpoint(folder / "out" / "model")[0]


def test_serialised_messages_and_workers_give_the_same_weights_bit_by_bit(tmp_path: Path) -> None:
    plain = federated(tmp_path / "plain")
    for name, settings in {"wire": {"is_serialised": True}, "workers": {"workers": OneThread()}}.items():
        other = federated(tmp_path / name, **settings)
        assert all(torch.equal(plain[key], other[key]) for key in plain), name


def test_an_exception_of_the_workers_is_raised_where_the_reply_is_pulled_and_they_are_closed_at_the_end() -> None:
    workers = OneThread(PermmoeError("a machine is gone"))
    grid = InProcessGrid(echo, [{"name": "ant"}], workers=workers)
    with pytest.raises(PermmoeError, match="a machine is gone"):
        grid.send_and_receive([question(FIRST_NODE)])
    grid.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        grid.push_messages([question(FIRST_NODE)])
