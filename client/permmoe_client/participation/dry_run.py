"""A rehearsal: one round trained offline, and exactly what would have left, on disk for anybody to look at."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from flwr.app import RecordDict
from safetensors.torch import save

from permmoe.errors import ConfigurationError
from permmoe.federated.instructions import Instruction, write_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.replies import (
    TrainReply,
    read_evaluation_reply,
    read_train_reply,
    write_evaluation_reply,
    write_train_reply,
)
from permmoe.runtime.files import write_file
from permmoe.training.seeds import make_model
from permmoe_client.connection.fleet import message_bytes
from permmoe_client.participation.local_round import evaluate_round, train_round
from permmoe_client.participation.running_site import RunningSite
from permmoe_client.release.outbox import released
from permmoe_client.site import SiteConfig


def dry_run(settings: SiteConfig, plan: RoundPlan, folder: Path) -> str:
    """Train as in the first round that trains and evaluate as after the first that is evaluated; nothing is sent.

    Both begin with the study's own first weights. `folder` then holds `training.bin` and `evaluation.bin`, the bytes of
    the two messages; `update.safetensors`, the sums by module; `training.json` and `evaluation.json`, all figures. A
    study without evaluations has no evaluation's files. Only their owner may read them, and the ledger is not touched.
     Returns what to say about it. Raises ConfigurationError for a folder that is not empty, and what
    training raises.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(plan.model, plan.train.seed)
    layout = ModuleLayout.of(model)
    packed = PackedModel.of(layout.flatten_all(model.state_dict()), plan.federation.wire)
    first = min(2 if plan.federation.centring_round else 1, plan.federation.rounds)
    instruction = Instruction(plan, first, packed.digest())
    content = write_instruction(instruction, packed)
    site = RunningSite(settings)
    reply = released(train_round(instruction, content, site), settings.release)
    training = write_train_reply(reply, instruction.up_wire)
    reply = read_train_reply(training, layout, instruction.up_wire)
    files: dict[str, bytes | str] = {
        "training.bin": message_bytes(training),
        "update.safetensors": save({name: u.weighted_delta.contiguous() for name, u in reply.updates.items()}),
        "training.json": json.dumps(_figures(reply, plan, training), indent=1),
    }
    evaluated = "no sums of errors, as the study evaluates nothing"
    if planned := _first_evaluation(instruction):
        evaluation = write_evaluation_reply(evaluate_round(planned, content, site))
        sums = {name: asdict(s) for name, s in read_evaluation_reply(evaluation).sums.items()}
        files["evaluation.bin"] = message_bytes(evaluation)
        files["evaluation.json"] = json.dumps({"bytes": content_bytes(evaluation), "sums": sums}, indent=1)
        evaluated = f"sums of {len(sums)} combinations, {content_bytes(evaluation):,} bytes"
    for name, file_content in files.items():
        write_file(folder / name, file_content)
    return (
        f"one round of study {plan.name} trained here; nothing was sent. Would have left: {len(reply.updates)} of "
        f"{len(layout.modules)} modules, {content_bytes(training):,} bytes, and {evaluated}. "
        f"All of it is in {folder}"
    )


def _first_evaluation(instruction: Instruction) -> Instruction | None:
    """The study's first evaluation, of the same model; None where it has none."""
    federation = instruction.plan.federation
    if not federation.evaluate_every:
        return None
    if federation.evaluate_every > federation.rounds:
        return replace(instruction, round=federation.rounds, part="test")
    return replace(instruction, round=federation.evaluate_every)


def _figures(reply: TrainReply, plan: RoundPlan, content: RecordDict) -> dict[str, object]:
    return {
        "study": plan.digest(),
        "site": reply.site,
        "round": reply.round,
        "bytes": content_bytes(content),
        **reply.figures.by_name(),
        "support": {name: update.support for name, update in reply.updates.items()},
        "values": {name: update.weighted_delta.numel() for name, update in reply.updates.items()},
    }
