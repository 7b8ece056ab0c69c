"""Messages to the app of a tiny synthetic site, sent as in a simulation and carried in Flower's own format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from flwr.app import Message, MessageType, RecordDict

from permmoe.federated.instructions import Instruction, read_instruction, write_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply, read_train_reply
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from permmoe_client.app import app
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.tiny_federation import MODEL, approve, tiny_plan

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
WEIGHTS = LAYOUT.flatten_all(make_model(MODEL, seed=tiny_plan().train.seed).state_dict())


def instruction(
    plan: RoundPlan | None = None,
    number: int = 1,
    weights: Mapping[str, torch.Tensor] = WEIGHTS,
    digest: str | None = None,
    part: Literal["validation", "test"] = "validation",
) -> RecordDict:
    model = PackedModel.of(weights)
    return write_instruction(Instruction(plan or tiny_plan(), number, digest or model.digest(), part), model)


def ask(path: Path | None, content: RecordDict, kind: str = MessageType.TRAIN, *, is_approved: bool = True) -> Message:
    if path and path.exists() and is_approved:
        approve(path, read_instruction(content).plan)
    grid = InProcessGrid(app, [{"site-config": str(path)} if path else {}], is_serialised=True)
    [reply] = grid.send_and_receive([Message(content, FIRST_NODE, kind, group_id="1")])
    return reply


def trained(path: Path, content: RecordDict) -> TrainReply:
    reply = ask(path, content)
    assert reply.has_content(), reply.error
    return read_train_reply(reply.content, LAYOUT)
