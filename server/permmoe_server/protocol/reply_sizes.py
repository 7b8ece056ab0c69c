"""How large an honest reply can be at most, so that a larger one is refused before it takes any memory.

The largest honest reply to each kind of message is written here with the very functions that sites write theirs with,
and counted as Flower carries it. Only the numbers of a model are not written but multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
import torch
from flwr.app import MessageType, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from permmoe.calibration.score_counts import N_BINS
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums
from permmoe.federated.approval_question import APPROVAL_MESSAGE, ApprovalAnswer, write_answer
from permmoe.federated.audit import LedgerHead
from permmoe.federated.federation_config import Wire
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import error_noise
from permmoe.federated.replies import EvaluationReply, TrainReply, write_evaluation_reply, write_head, write_train_reply
from permmoe.federated.roster import LONGEST_SITE_NAME
from permmoe.federated.secure.blocks import evaluation_blocks, training_blocks
from permmoe.federated.secure.count_shares import SEALED_KEY_BYTES, sealed_bytes
from permmoe.federated.secure.exchanged import SEALED_SHARES_BYTES, CountShares, MaskedInput, Unmasking
from permmoe.federated.secure.messages import (
    MAX_BYTES,
    write_bytes,
    write_count_shares,
    write_masked,
    write_masks,
    write_sealed,
)
from permmoe.federated.secure.session import Blocks
from permmoe.federated.summed_scores import of_group, severity_groups
from permmoe.federated.survey_facts import Facts
from permmoe.federated.survey_messages import SURVEY_MESSAGE, SurveyReply, survey_blocks, write_survey_reply
from permmoe.federated.training_figures import FIGURES, TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.federated.wire import packed_size
from permmoe.modality import all_combinations, combination_name
from permmoe_server.protocol.secure_stages import COUNT, MASK, OPEN, SHARE

ENVELOPE_BYTES = 4096
"""For what a reply has beside its records: the message's metadata, and NumPy's header of the array."""
REFERENCE_BYTES = 65
"""The name of an object in another's head."""
ARRAY_TEXT_BYTES, INDEX_BYTES = 1024, 24
"""What an array says of itself, and how much it says about each of its chunks, at most."""
DIGEST = "f" * 64
HEAD = LedgerHead("s", 10**18 - 1, DIGEST)
"""The longest that a ledger's newest entry can be written."""
LARGEST_ROUND = 2**62


@dataclass(frozen=True)
class ReplySize:
    """The most that a reply may take."""

    numbers: int
    """Bytes of its one array, those that are named several times counted as often."""
    records: int
    """Bytes of everything else. A record takes some twenty times as much once it is read, an array does not."""


LargestReply = Callable[[str], ReplySize]
"""Message type -> how large an honest reply to such a message is at most."""


def largest_replies(plan: RoundPlan, layout: ModuleLayout, n_sites: Callable[[], int]) -> LargestReply:
    """Return the sizes of a study's replies. `n_sites` counts the sites of the roster, which may grow."""
    write = _secure_replies if plan.federation.secure else _plain_replies
    approval = {APPROVAL_MESSAGE: _size(write_answer(ApprovalAnswer(has_approved=True)))}
    sizes = lru_cache(maxsize=8)(lambda sites: {**write(plan, layout, sites), **approval})
    return lambda message_type: sizes(n_sites())[message_type]


def _plain_replies(plan: RoundPlan, layout: ModuleLayout, n_sites: int) -> Mapping[str, ReplySize]:
    site, nothing = "s" * LONGEST_SITE_NAME, torch.zeros(0)
    updates = {module: ModuleUpdate(nothing, 1.0) for module in layout.modules}
    figures = TrainingFigures(**dict.fromkeys(FIGURES, 1.0))
    training = write_train_reply(TrainReply(site, LARGEST_ROUND, DIGEST, updates, figures, plan.model.names))
    combinations = {combination_name(c) for c in all_combinations(plan.model.names)}
    sums = dict.fromkeys(combinations, ErrorSums(1, 1.0, 1.0, 1.0, 1.0))
    further = dict.fromkeys(combinations, FurtherSums(1.0, 1.0)) if plan.evaluation else {}
    scores = dict.fromkeys(combinations, np.ones(N_BINS, np.int64)) if plan.federation.calibrate else {}
    groups = range(severity_groups(plan, "validation"))
    severity = {of_group(name, group): row for name, row in scores.items() for group in groups}
    reply = EvaluationReply(site, LARGEST_ROUND, DIGEST, sums, further=further, scores=scores, severity=severity)
    if plan.federation.has_private_evaluations:
        reply = EvaluationReply(site, LARGEST_ROUND, DIGEST, {}, noised=np.ones(error_noise(plan).shape, np.int64))
    evaluation = write_evaluation_reply(reply)
    write_head(training, HEAD)
    write_head(evaluation, HEAD)
    # Which format a round's changes have depends on the round: none takes more than this.
    numbers = max(sum(packed_size(layout.size(m), wire) for m in layout.modules) for wire in get_args(Wire))
    return {MessageType.TRAIN: _size(training, numbers), MessageType.EVALUATE: _size(evaluation)}


def _secure_replies(plan: RoundPlan, layout: ModuleLayout, n_sites: int) -> Mapping[str, ReplySize]:
    blocks = {**training_blocks(layout), **evaluation_blocks(plan, "validation")}
    return {**_stages(blocks, n_sites), **dict.fromkeys((MessageType.TRAIN, MessageType.EVALUATE), _advertisement())}


def survey_replies(plan: RoundPlan, n_sites: Callable[[], int]) -> LargestReply:
    """Return the sizes of a survey's replies, as `largest_replies` those of a study."""
    facts = Facts.of(plan)
    approval = _size(write_answer(ApprovalAnswer(has_approved=True)))

    def sizes(sites: int) -> Mapping[str, ReplySize]:
        if plan.federation.secure:
            return {
                APPROVAL_MESSAGE: approval,
                SURVEY_MESSAGE: _advertisement(),
                **_stages(survey_blocks(facts), sites),
            }
        told = {one.name: LARGEST_ROUND for one in facts.all_described()}
        reply = write_survey_reply(SurveyReply("s" * LONGEST_SITE_NAME, DIGEST, told))
        write_head(reply, HEAD)
        return {APPROVAL_MESSAGE: approval, SURVEY_MESSAGE: _size(reply)}

    cached = lru_cache(maxsize=8)(sizes)
    return lambda message_type: cached(n_sites())[message_type]


def _advertisement() -> ReplySize:
    return _size(RecordDict({"advertisement": write_bytes({"s" * LONGEST_SITE_NAME: bytes(MAX_BYTES)})}))


def _stages(blocks: Blocks, n_sites: int) -> Mapping[str, ReplySize]:
    """The replies to the stages of a secure sum after the first."""
    sites = [f"{i:0{LONGEST_SITE_NAME}}" for i in range(n_sites)]
    short = dict.fromkeys(sites, bytes(MAX_BYTES))
    counted = CountShares(dict.fromkeys(sites, bytes(SEALED_KEY_BYTES)), bytes(sealed_bytes(n_sites)), short)
    bits, nothing = np.zeros(len(blocks), np.uint32), np.zeros(0, np.uint64)
    masked = write_masked(MaskedInput("s" * LONGEST_SITE_NAME, bits, nothing, bytes(MAX_BYTES)), HEAD)
    unmasking = write_masks(Unmasking(dict.fromkeys(blocks, bytes(MAX_BYTES)), short), HEAD)
    return {
        SHARE: _size(RecordDict({"sealed": write_sealed(dict.fromkeys(sites, bytes(SEALED_SHARES_BYTES)), sites)})),
        MASK: _size(masked, 8 * sum(blocks.values())),
        COUNT: _size(write_count_shares(counted)),
        OPEN: _size(unmasking),
    }


def n_chunks(numbers: int) -> int:
    """Return in how many chunks Flower carries so many bytes of an array."""
    return -(-numbers // FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)


def _size(content: RecordDict, numbers: int = 0) -> ReplySize:
    """The size of a content whose array is empty, with so many bytes in the array."""
    numbers += ENVELOPE_BYTES if numbers else 0
    records = sum(len(part.deflate()) for part in get_all_nested_objects(content).values())
    return ReplySize(numbers, records + ENVELOPE_BYTES + (REFERENCE_BYTES + INDEX_BYTES) * n_chunks(numbers))
