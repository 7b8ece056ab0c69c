"""A member with a real key, over real TLS, that sends what is no reply: the study ends with the others' weights."""

from __future__ import annotations

import json
from itertools import cycle, repeat
from pathlib import Path

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree

from permmoe.federated.secure.messages import write_bytes
from permmoe_server.protocol.quarantine import MOST_MALFORMED, QUARANTINED
from permmoe_server.protocol.rules import MALFORMED_RULES, UNPROVEN_RULES
from permmoe_simulation.engines.local_deployment import ended
from tests.server.coordination.test_nonblocking_grid import HONEST
from tests.support.federation_processes import deploy_tiny, final_weights, replayed, start_client, start_server
from tests.support.hostile_member import HostileMember
from tests.support.mutated_replies import edited, repeated
from tests.support.replying_superlink import Sent, flat, sent
from tests.support.tiny_federation import tiny_plan

pytestmark = pytest.mark.xdist_group("deployment")


def reply(message: Message, node: int) -> Sent:
    """Honest to look at: as many numbers as the model has."""
    return sent(node, message.metadata.message_id, HONEST["train"], run_id=message.metadata.run_id)


def lacking_a_child(message: Message, node: int) -> Sent:
    whole = reply(message, node)
    kept = {name: content for name, content in whole.objects.items() if not content.startswith(b"ArrayRecord ")}
    return Sent(node, whole.reply_to, whole.root, flat(whole.root, kept), kept)


def a_chunk_named_a_million_times(message: Message, node: int) -> Sent:
    return repeated(reply(message, node), 500_000)


def to_anothers_message(message: Message, node: int) -> Sent:
    lie = {"src_node_id": node + 1, "reply_to_message_id": "0" * 64, "run_id": message.metadata.run_id}
    return sent(node, message.metadata.message_id, RecordDict({"reply": write_bytes({"x": b"y"})}), **lie)


def no_message(message: Message, node: int) -> Sent:
    whole = without_a_word(message, node)
    [content] = [name for name in whole.objects if name != whole.root]
    return edited(whole, content, b"Array  2\0{}", is_named_anew=True)


def without_a_word(message: Message, node: int) -> Sent:
    return sent(node, message.metadata.message_id, RecordDict(), run_id=message.metadata.run_id)


UNPROVEN = {lacking_a_child: "altered", a_chunk_named_a_million_times: "reply_size", to_anothers_message: "wrong_node"}
"""For these nobody is quarantined: a superlink could have made them of an honest reply, or of none."""


def test_a_member_that_sends_what_is_no_reply_ends_no_study_and_changes_no_weight(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=4, min_sites=2, evaluate_every=1, round_deadline_seconds=60.0)
    deployment = deploy_tiny(tmp_path / "there", plan)
    attacks = [*UNPROVEN, no_message, no_message, without_a_word]
    processes = []
    with ended(processes), HostileMember(deployment.sites["west"], attacks) as west:
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        processes += [start_client(deployment, name) for name in ("north", "south")]
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", 240.0)
    assert status.phase == "finished" and status.rounds_done == 4, status.detail
    assert west.statuses == [200] * len(attacks) and len(west.asked) == len(UNPROVEN) + MOST_MALFORMED
    [path] = deployment.folder.studies.glob("*/rounds.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["is_aggregated"] for record in records] == [True] * 4
    [node] = {site["node"] for record in records for site in record["sites"] if site["rejected"]}
    rules = [
        rule
        for record in records
        for rule in (
            *(site["rejected"] for site in record["sites"] if site["node"] == node),
            *((record[part] or {}).get("rejected", {}).get(str(node)) for part in ("validation", "test")),
        )
        if rule
    ]
    assert rules[:3] == list(UNPROVEN.values()) and set(rules[:3]) <= UNPROVEN_RULES.keys()
    assert rules[3:6] == ["not_a_message", "not_a_message", "missing_sums"] and set(rules[3:6]) <= MALFORMED_RULES
    assert set(rules[6:]) == {QUARANTINED}
    here, there = replayed(tmp_path / "here", plan, records), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def in_anothers_name(request: PushMessagesRequest) -> None:
    request.messages_list[0].metadata.src_node_id += 1


def with_a_time_that_is_none(request: PushMessagesRequest) -> None:
    request.clientapp_runtime_list.append(float("nan"))


def with_a_tree_of_a_hundred_thousand(request: PushMessagesRequest) -> None:
    request.message_object_trees[0].children.extend(ObjectTree(object_id=f"{i:064x}") for i in range(100_000))


def under_another_root(request: PushMessagesRequest) -> None:
    request.message_object_trees[0].object_id = "f" * 64


ENVELOPES = [in_anothers_name, with_a_time_that_is_none, with_a_tree_of_a_hundred_thousand, under_another_root]


def test_a_member_cannot_announce_a_reply_that_would_stop_the_superlink(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=len(ENVELOPES), min_sites=2, evaluate_every=0, round_deadline_seconds=8.0)
    deployment = deploy_tiny(tmp_path, plan)
    envelopes = cycle(ENVELOPES)
    processes = []
    with (
        ended(processes),
        HostileMember(deployment.sites["west"], repeat(reply), lambda request: next(envelopes)(request)) as west,
    ):
        processes.append(start_server(deployment, "--study", str(tmp_path / "study.yaml"), "--stay"))
        processes += [start_client(deployment, name) for name in ("north", "south")]
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", 240.0)
    assert status.phase == "finished" and status.rounds_done == len(ENVELOPES), status.detail
    assert west.statuses and set(west.statuses) == {403}
