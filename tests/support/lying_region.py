"""A region in the hands of an attacker: its superlink answers in its one hospital's place.

`python -m tests.support.lying_region region FOLDER SITE LIE…` is `permmoe-server region FOLDER`, whose superlink does
with the questions for its hospital, one after another, what it is told, and is honest after that:

honest    the hospital is asked, and its answer handed on
unsigned  an invented answer that says what an honest one says
stranger  such an answer, signed with the attacker's own key
nonsense  an answer that is none, for which a site would be quarantined
replayed  an earlier answer of the hospital, to another question, as it was signed
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from flwr.app import MessageType, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.approval_question import APPROVAL_MESSAGE, ApprovalAnswer, write_answer
from permmoe.federated.audit import LedgerHead
from permmoe.federated.instructions import read_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.parcel import unpack
from permmoe.federated.replies import EvaluationReply, TrainReply, write_evaluation_reply, write_head, write_train_reply
from permmoe.federated.reply_signature import sign_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.training.seeds import make_model
from permmoe_server.coordination import region, superlink_process
from permmoe_server.coordination.message_desk import MessageDesk
from permmoe_server.coordination.programs import region_programs
from permmoe_server.coordination.site_messages import SiteMessages
from permmoe_server.coordination.study_messages import StudyMessages
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.running import run_region_until_end
from tests.support.hostile_member import reply_requests
from tests.support.replying_superlink import Sent, sent

INVENTED = LedgerHead("south", 99, "9" * 64)
"""What an invented answer says of its hospital's ledger: with a receipt for it the hospital could send no more."""


class _Sites(SiteMessages):
    """It keeps what the hospital answers."""

    def __init__(self, state: SqlLinkState) -> None:
        super().__init__(state)
        self.kept: list[tuple[PushMessagesRequest, Sequence[PushObjectRequest]]] = []

    def reply(self, request: PushMessagesRequest, objects: Sequence[PushObjectRequest]) -> PushMessagesResponse:
        self.kept.append((request, objects))
        return super().reply(request, objects)

    def lie(self, request: PushMessagesRequest, objects: Sequence[PushObjectRequest]) -> None:
        """Store what the hospital did not send."""
        super().reply(request, objects)


class _Studies(StudyMessages):
    """It answers what is for the hospital as soon as it comes."""

    def __init__(self, state: SqlLinkState, sites: _Sites, site: str, lies: Iterator[str]) -> None:
        super().__init__(state)
        self._sites, self._site, self._lies = sites, site, lies
        self._key = ec.generate_private_key(ec.SECP384R1())

    def messages(
        self, request: PushAppMessagesRequest, objects: Sequence[PushObjectRequest], task: Task
    ) -> PushAppMessagesResponse:
        answer = super().messages(request, objects, task)
        there = {one.object_id: one.object_content for one in objects}
        for asked in request.messages_list:
            lie = next(self._lies, "honest")
            if lie != "honest":
                # The hospital is never given the question.
                self._state.get_message_ins(node_id=asked.metadata.dst_node_id, limit=None)
                self._sites.lie(*self._lied(lie, asked, there))
        return answer

    def _lied(
        self, lie: str, asked: ProtoMessage, there: dict[str, bytes]
    ) -> tuple[PushMessagesRequest, Sequence[PushObjectRequest]]:
        identifier, node = asked.metadata.message_id, asked.metadata.dst_node_id
        if lie == "replayed":
            # The newest one the superlink is about to give up, as the study's process asks it to.
            kept, objects = self._sites.kept[-2]
            again = PushMessagesRequest.FromString(kept.SerializeToString())
            # What the superlink says of a reply is its own to say.
            header = again.messages_list[0].metadata
            header.reply_to_message_id, header.created_at = identifier, time.time()
            header.ttl = asked.metadata.created_at + asked.metadata.ttl - header.created_at - 1
            return again, objects
        content = RecordDict() if lie == "nonsense" else self._invented(asked, there)
        said: dict[str, Any] = {
            "run_id": asked.metadata.run_id,
            "group_id": asked.metadata.group_id,
            "message_type": asked.metadata.message_type,
        }
        reply: Sent = sent(node, identifier, content, **said)
        signatures = [sign_reply(reply.root, self._key)] if lie == "stranger" else []
        return reply_requests(reply.packed(*signatures), asked.metadata, Node(node_id=node))

    def _invented(self, asked: ProtoMessage, there: dict[str, bytes]) -> RecordDict:
        """Whatever an honest hospital could have said."""
        if asked.metadata.message_type == APPROVAL_MESSAGE:
            return write_answer(ApprovalAnswer(has_approved=True))
        root = asked.metadata.message_id
        parcels = (content for name, content in there.items() if name != root)
        message: Any = inflate_object_from_contents(root, unpack(parcels, 10**6) | {root: there[root]})
        instruction = read_instruction(message.content)
        plan, number, digest = instruction.plan, instruction.round, instruction.model_digest
        if asked.metadata.message_type == MessageType.EVALUATE:
            sums = {"clinical": ErrorSums(9, 0.0, 0.0, 0.0, 0.0)}
            content = write_evaluation_reply(EvaluationReply(self._site, number, digest, sums))
        else:
            layout = ModuleLayout.of(make_model(plan.model, plan.train.seed))
            updates = {"head": ModuleUpdate(torch.ones(layout.size("head")), 9.0)}
            figures = TrainingFigures(9.0, 3.0, 1.0, 1.0)
            reply = TrainReply(self._site, number, digest, updates, figures, ("clinical",))
            content = write_train_reply(reply, instruction.up_wire)
        write_head(content, INVENTED)
        return content


def _superlink(folder: FederationFolder, site: str, lies: Sequence[str]) -> None:
    class LyingDesk(MessageDesk):
        def __init__(self, app: FastAPI) -> None:
            super().__init__(app)
            sites = _Sites(self._state)
            self._sites, self._studies = sites, _Studies(self._state, sites, site, iter(lies))

    patched: Any = superlink_process
    patched.MessageDesk = LyingDesk
    superlink_process.main(folder)


def _region(folder: FederationFolder, site: str, lies: Sequence[str]) -> None:
    superlink, gateway = region_programs(folder)
    command = [sys.executable, "-m", "tests.support.lying_region", "superlink", str(folder.path), site, *lies]
    patched: Any = region
    patched.region_programs = lambda _: (replace(superlink, command=command), gateway)
    run_region_until_end(folder)


if __name__ == "__main__":
    _, role, path, name, *told = sys.argv
    (_superlink if role == "superlink" else _region)(FederationFolder(Path(path)), name, told)
