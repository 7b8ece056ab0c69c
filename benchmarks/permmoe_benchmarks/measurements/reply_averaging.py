"""The server's averaging of many large replies, against Flower's FedAvg."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from permmoe.config import ModelConfig
from permmoe.federated.instructions import Instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.runtime.process_memory import peak_memory_mb
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures
from permmoe_server.protocol.acceptance import accept_training
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes
from permmoe_server.protocol.optimisers import server_step

LARGE = ModelConfig(width=128, tokens=4)
"""A model of 4.8 million parameters."""
REPLIES = 40


def average_replies(scale: Scale, replies: int = REPLIES) -> Figures:
    """Return the seconds of checking and folding replies as they arrive, dividing and stepping, and the peak memory.

    Freed pages are kept, as in the server. The scale changes nothing.
    """
    keep_freed_pages()
    layout, weights = _large()
    plan = RoundPlan(model=LARGE)
    instruction = Instruction(plan, 1, PackedModel.of(weights).digest())
    generator = torch.Generator().manual_seed(0)

    def arriving() -> Iterator[RecordDict]:
        for i in range(replies):
            changes = {m: torch.randn(layout.size(m), generator=generator) * 1e-3 for m in layout.modules}
            updates = {m: ModuleUpdate(change * 20, 20.0) for m, change in changes.items()}
            figures = TrainingFigures(visits=20.0, loss_sum=1.0, train_seconds=1.0)
            yield write_train_reply(TrainReply(f"site-{i}", 1, instruction.model_digest, updates, figures))

    before, seconds, running = peak_memory_mb(), 0.0, RunningSum()
    for content in arriving():
        started = time.perf_counter()
        reply = accept_training(content, instruction, layout, ())
        running = fold(running, reply.updates, reply.figures.visits, longest=plan.federation.max_update_norm)
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    for module, change in mean_changes(running, weights):
        weights[module], _ = server_step(plan.federation, weights[module], change, {})
    return {"seconds": seconds + time.perf_counter() - started, "peak_mb_above_model": peak_memory_mb() - before}


def average_with_flower(scale: Scale, replies: int = REPLIES) -> Figures:
    """Return the same of Flower's FedAvg, which is given all replies together and checks none of their values."""
    layout, weights = _large()
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    generator = torch.Generator().manual_seed(0)
    before, messages = peak_memory_mb(), []
    for node in range(replies):
        arrays = {m: Array((w + torch.randn(len(w), generator=generator) * 1e-3).numpy()) for m, w in weights.items()}
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 20})})
        instruction = Message(RecordDict({}), 1001 + node, MessageType.TRAIN)
        messages.append(Message(content, reply_to=instruction))
    started = time.perf_counter()
    averaged, _ = FedAvg().aggregate_train(1, messages)
    assert averaged is not None and len(averaged) == len(layout.modules)
    return {"seconds": time.perf_counter() - started, "peak_mb_above_model": peak_memory_mb() - before}


def _large() -> tuple[ModuleLayout, dict[str, torch.Tensor]]:
    model = make_model(LARGE, 0)
    layout = ModuleLayout.of(model)
    return layout, layout.flatten_all(model.state_dict())


SIDES = {
    "averaging": Measurement(average_replies, is_fresh=True),
    "averaging_flower": Measurement(average_with_flower, is_fresh=True),
}
