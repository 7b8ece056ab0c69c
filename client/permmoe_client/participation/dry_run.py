"""A rehearsal: one round trained offline, and exactly what would have left, on disk for anybody to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from safetensors.torch import save

from permmoe.encoder_weights import brought_encoders
from permmoe.ensemble import joined
from permmoe.errors import ConfigurationError
from permmoe.federated.instructions import Instruction, write_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.replies import (
    EvaluationReply,
    TrainReply,
    read_evaluation_reply,
    read_train_reply,
    write_evaluation_reply,
    write_train_reply,
)
from permmoe.federated.secure.blocks import (
    evaluation_blocks,
    evaluation_numbers,
    training_blocks,
    training_numbers,
)
from permmoe.federated.summed_scores import Scores, severity_groups
from permmoe.federated.trained_modules import trained_modules
from permmoe.preparation.progress import Progress
from permmoe.runtime.files import write_file
from permmoe.training.seeds import make_model, member_seed
from permmoe_client.connection.fleet import message_bytes
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.local_round import evaluate_round, train_round
from permmoe_client.participation.rehearsed_sum import RehearsedInput, rehearse_sum
from permmoe_client.participation.running_site import RunningSite, Workshop
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.participation.survey_rehearsal import rehearse_survey
from permmoe_client.release.outbox import released
from permmoe_client.release.withdrawals import read_withdrawals
from permmoe_client.site import SiteConfig

README, UNDER_MASK = "README.txt", "under-the-mask"
FILES = {
    "training.bin": "the bytes of the message after training",
    "update.safetensors": "how each module changed, summed over visits",
    "training.json": "numbers of visits, losses and times",
    "evaluation.bin": "the bytes of the message after evaluation",
    "evaluation.json": "sums of errors by combination of modalities",
}
"""What each file holds."""

DONE = {"training": "trained", "evaluation": "evaluated"}


@dataclass(frozen=True)
class _Rehearsed:
    """One message of a rehearsal, as files."""

    leaves: Mapping[str, bytes | str]
    stays: Mapping[str, bytes | str]
    """What a mask would cover; nothing in a study without the secure sum."""
    said: str


def dry_run(settings: SiteConfig, plan: RoundPlan, folder: Path, progress: Progress | None = None) -> str:
    """Train as in the first round that learns the outcome, evaluate as after the first evaluated one; nothing is sent.

    Both begin with the study's own first weights. Of a plain study `folder` then holds `training.bin` and
    `evaluation.bin`, the bytes of the two messages; `update.safetensors`, the sums by module; `training.json` and
    `evaluation.json`, all figures. Of a secure study the two messages hold the masked numbers, and what is under the
    mask is in the folder `under-the-mask`. `README.txt` says of each file whether it would leave. A study without
    evaluations has no evaluation's files. Only their owner may read them, and the ledger is not touched. `progress` is
    told how far the preparation of raw images is. A survey has files of its own (`rehearse_survey`). An evaluation is
    rehearsed with an untrained model in place of the one that is judged: as many numbers would leave, of other values.

    Returns what to say about it. Raises ConfigurationError for a folder that is not empty, and what training and the
    secure sum raise.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty; name a new folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if plan.survey is not None:
        return rehearse_survey(settings, plan, folder)
    brought = brought_encoders(plan.model, settings.weights)
    model = joined([make_model(plan.model, member_seed(plan.train.seed, i), brought) for i in range(plan.members)])
    layout = ModuleLayout.of(model)
    packed = PackedModel.of(layout.flatten_all(model.state_dict()), plan.federation.wire)
    first = min(plan.federation.first_supervised, plan.federation.rounds)
    instruction = Instruction(_judging(plan, packed.digest()), first, packed.digest())
    content = write_instruction(instruction, packed)
    site = RunningSite(
        settings,
        withdrawals=read_withdrawals(open_ledger(settings)),
        workshop=Workshop(partial(site_visits, progress=progress)),
    )
    parts = []
    if plan.kind == "training":
        parts.append(_training(train_round(instruction, content, site), instruction, settings, layout))
    if planned := _first_evaluation(instruction):
        parts.append(_evaluation(evaluate_round(planned, content, site), planned, settings))
    leaves = {name: content for part in parts for name, content in part.leaves.items()}
    stays = {f"{UNDER_MASK}/{name}": content for part in parts for name, content in part.stays.items()}
    for name, file_content in {**leaves, **stays, README: _readme(plan, leaves, stays)}.items():
        write_file(folder / name, file_content)
    n = len(site.withdrawals.subjects)
    without = f" {n} patients withdrew and are in none of it." if n else ""
    evaluated = "" if planned else ", and no sums of errors, as the study evaluates nothing"
    return (
        f"one round of study {plan.name} {DONE[plan.kind]} here; nothing was sent. Would have left: "
        f"{', and '.join(part.said for part in parts)}{evaluated}. All of it is in {folder}, and {README} there says "
        f"what each file is.{without}"
    )


def _training(reply: TrainReply, instruction: Instruction, settings: SiteConfig, layout: ModuleLayout) -> _Rehearsed:
    reply = released(reply, settings.release)
    message = write_train_reply(reply, instruction.up_wire)
    if not instruction.plan.federation.secure:
        # As the server will read it: what the wire format rounds is rounded here too.
        reply = read_train_reply(message, layout, instruction.up_wire)
    update = save({name: u.weighted_delta.contiguous() for name, u in reply.updates.items()})
    modules = f"{len(reply.updates)} of {len(layout.modules)} modules"
    plain: dict[str, bytes | str] = {
        "update.safetensors": update,
        "training.json": json.dumps(_figures(reply, instruction.plan), indent=1),
    }
    if instruction.plan.federation.secure:
        blocks = training_blocks(layout, trained_modules(instruction.plan, instruction.round, layout.modules))
        rehearsed = rehearse_sum(settings, instruction, "training", blocks, training_numbers(reply))
        return _masked("training.bin", rehearsed, plain, f"{modules}, under a mask that is as long as all of them")
    return _Rehearsed(
        {"training.bin": message_bytes(message), **plain}, {}, f"{modules}, {content_bytes(message):,} bytes"
    )


def _evaluation(reply: EvaluationReply, instruction: Instruction, settings: SiteConfig) -> _Rehearsed:
    message = write_evaluation_reply(reply)
    read = read_evaluation_reply(message)
    sums = {name: asdict(s) for name, s in read.sums.items()}
    further = {"further": {name: asdict(f) for name, f in read.further.items()}} if read.further else {}
    # As they would leave: under a mask one visit may have a bin of its own, else no bin has few.
    scores = {"scores": _counted(read.scores)} if read.scores else {}
    scores |= {"severity": _counted(read.severity)} if read.severity else {}
    plain: dict[str, bytes | str] = {"evaluation.json": json.dumps({"sums": sums, **further, **scores}, indent=1)}
    what = f"sums of {len(sums)} combinations"
    if instruction.plan.federation.secure:
        blocks = evaluation_blocks(instruction.plan, instruction.part)
        numbers = evaluation_numbers(reply, severity_groups(instruction.plan, instruction.part))
        rehearsed = rehearse_sum(settings, instruction, instruction.part, blocks, numbers)
        return _masked("evaluation.bin", rehearsed, plain, f"{what}, masked")
    return _Rehearsed(
        {"evaluation.bin": message_bytes(message), **plain}, {}, f"{what}, {content_bytes(message):,} bytes"
    )


def _masked(name: str, rehearsed: RehearsedInput, plain: Mapping[str, bytes | str], what: str) -> _Rehearsed:
    size = content_bytes(rehearsed.message)
    return _Rehearsed(
        {name: message_bytes(rehearsed.message)}, plain, f"{what} ({rehearsed.n_sites} sites), {size:,} bytes"
    )


def _readme(plan: RoundPlan, leaves: Mapping[str, bytes | str], stays: Mapping[str, bytes | str]) -> str:
    judged = (
        "The model to be judged is not here yet, and an untrained one stands in: as many numbers would leave, of other",
        "values.",
    )
    lines = [
        f"A rehearsal of one round of study {plan.name}, {plan.digest()}.",
        "Nothing of it was sent, and nothing of it is in the ledger.",
        *(judged if plan.evaluation else ()),
        "",
        "These would have left this site:",
        *(f"  {name}: {FILES[name]}" for name in leaves),
    ]
    if stays:
        lines += [
            "",
            "This study has the secure sum. The messages above hold masked numbers: without the masks of the other",
            "sites nobody can tell them from chance. Masks are new each time, so that no two rehearsals are alike.",
            "",
            "These would NOT have left; they are what is under the mask:",
            *(f"  {name}: {FILES[Path(name).name]}" for name in stays),
        ]
    return "\n".join(lines) + "\n"


def _judging(plan: RoundPlan, model: str) -> RoundPlan:
    """The plan of an evaluation of another model; any other plan as it is."""
    if plan.evaluation is None:
        return plan
    return plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update={"model_sha256": model})})


def _first_evaluation(instruction: Instruction) -> Instruction | None:
    """The study's first evaluation, of the same model; None where it has none."""
    federation = instruction.plan.federation
    if not federation.evaluate_every:
        return None
    if instruction.plan.evaluation:
        return replace(instruction, part="test")
    validated = filter(federation.is_validated, range(1, federation.rounds + 1))
    if (first := next(validated, None)) is None:
        return replace(instruction, round=federation.rounds, part="test")
    return replace(instruction, round=first)


def _figures(reply: TrainReply, plan: RoundPlan) -> dict[str, object]:
    return {
        "study": plan.digest(),
        "site": reply.site,
        "round": reply.round,
        **reply.figures.by_name(),
        "support": {name: update.support for name, update in reply.updates.items()},
        "values": {name: update.weighted_delta.numel() for name, update in reply.updates.items()},
    }


def _counted(scores: Scores) -> dict[str, dict[int, int]]:
    """The bins that are not empty."""
    return {name: {int(b): int(row[b]) for b in row.nonzero()[0]} for name, row in scores.items()}
