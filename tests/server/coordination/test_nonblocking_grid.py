"""What a site sends is untrusted bytes: whatever they are, they are one reply that is left out, and nothing more."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.audit import ENTRY_PURPOSE, LedgerHead
from permmoe.federated.instructions import Instruction
from permmoe.federated.parcel import object_name, unpack
from permmoe.federated.replies import EvaluationReply, TrainReply, write_evaluation_reply, write_head, write_train_reply
from permmoe.federated.reply_signature import PURPOSE, is_signature, sign_reply
from permmoe.federated.secure.blocks import training_blocks
from permmoe.federated.secure.count_shares import sealed_bytes
from permmoe.federated.secure.exchanged import SEALED_SHARES_BYTES, CountShares, MaskedInput, Unmasking
from permmoe.federated.secure.messages import (
    MAX_BYTES,
    read_advertisement,
    read_count_shares,
    read_masked,
    read_masks,
    read_sealed,
    write_advertisement,
    write_bytes,
    write_count_shares,
    write_masked,
    write_masks,
    write_sealed,
)
from permmoe.federated.secure.session import Advertisement
from permmoe.federated.secure.signatures import ADVERTISED, MASKED
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.modality import all_combinations, combination_name
from permmoe_server.coordination import nonblocking_grid, reply_objects
from permmoe_server.coordination.nonblocking_grid import NodeKeys, NonblockingGrid
from permmoe_server.coordination.reply_objects import most_parcel_bytes
from permmoe_server.protocol.acceptance import RejectedReply, accept_evaluation, accept_training, distrusted
from permmoe_server.protocol.exchange import content_of, exchange
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.reply_sizes import largest_replies
from permmoe_server.protocol.rules import MALFORMED_RULES, UNPROVEN_RULES
from permmoe_server.protocol.secure_stages import COUNT, MASK, OPEN, SHARE
from tests.server.protocol.test_rounds import StillClock
from tests.support.mutated_replies import CARRIERS, Carrier, edited, mutated, repeated
from tests.support.records import LAYOUT, PACKED_MODEL
from tests.support.replying_superlink import ReplyingGrid, Sent, flat, sent, site_key, site_keys
from tests.support.tiny_federation import MODEL, tiny_plan

MUTATIONS = int(os.environ.get("PERMMOE_FUZZ_MESSAGES", "400"))
"""100000 for the whole run, which takes an hour under the checks of types that tests run with."""
PLAN = tiny_plan()
INSTRUCTION = Instruction(PLAN, 1, PACKED_MODEL.digest())
HEAD = LedgerHead("north", 17, "a" * 64)
NODES = {11: "north", 12: "south", 13: "west"}
Answer = Callable[[str], Sent]
N_BLOCKS, N_NUMBERS = len(training_blocks(LAYOUT)), sum(training_blocks(LAYOUT).values())


def training(site: str = "north") -> RecordDict:
    updates = {m: ModuleUpdate(torch.linspace(0, 1, LAYOUT.size(m)), 9.0) for m in LAYOUT.modules}
    figures = TrainingFigures(9.0, 3.0, 1.0, 1.0)
    content = write_train_reply(TrainReply(site, 1, INSTRUCTION.model_digest, updates, figures, MODEL.names))
    write_head(content, HEAD)
    return content


def evaluation() -> RecordDict:
    sums = {combination_name(c): ErrorSums(7, 3.5, 2.0, 1.0, 4.0) for c in all_combinations(MODEL.names)}
    return write_evaluation_reply(EvaluationReply("north", 1, INSTRUCTION.model_digest, sums))


def by_site(length: int) -> dict[str, bytes]:
    return {site: bytes(range(length % 256)) for site in NODES.values()}


HONEST = {
    "train": training(),
    "evaluate": evaluation(),
    "advertise": write_advertisement(Advertisement("north", *([b"k" * 32] * 4), b"s" * 103)),
    SHARE: RecordDict({"sealed": write_sealed(by_site(SEALED_SHARES_BYTES), list(NODES.values()))}),
    MASK: write_masked(
        MaskedInput("north", np.arange(N_BLOCKS, dtype=np.uint32), np.arange(N_NUMBERS, dtype=np.uint64), b"s" * 103),
        HEAD,
    ),
    COUNT: write_count_shares(CountShares(by_site(48), bytes(sealed_bytes(len(NODES))), by_site(32))),
    OPEN: write_masks(Unmasking({m: bytes(32) for m in LAYOUT.modules}, by_site(16)), HEAD),
}
READERS = {
    "train": lambda content: accept_training(content, INSTRUCTION, LAYOUT, (), "north"),
    "evaluate": lambda content: accept_evaluation(content, INSTRUCTION, (), "north"),
    "advertise": read_advertisement,
    SHARE: lambda content: read_sealed(content, list(NODES.values())),
    MASK: lambda content: read_masked(content, N_NUMBERS, N_BLOCKS),
    COUNT: lambda content: read_count_shares(content, NODES.values()),
    OPEN: lambda content: read_masks(content, "north"),
}
PLAIN = largest_replies(PLAN, LAYOUT, lambda: 0)
SECURE = largest_replies(tiny_plan(secure=True), LAYOUT, lambda: len(NODES))


def sizes_for(kind: str) -> tuple[str, object]:
    """The message's type, and the sizes of its study."""
    if kind == "advertise":
        return "train", SECURE
    return kind, PLAIN if kind in ("train", "evaluate") else SECURE


def keys() -> Mapping[int, ec.EllipticCurvePublicKey]:
    return site_keys(*NODES)


def pulled(kind: str, answer: Answer, carry: Callable[[Sent], Sent] = Sent.signed, roster: NodeKeys = keys) -> Message:
    """What the protocol is handed where node 11 was sent a message of a kind; `answer` makes what it sends back, and
    `carry` what the superlink makes of that."""
    message_type, largest = sizes_for(kind)
    superlink = ReplyingGrid(NODES)
    grid = NonblockingGrid(superlink, largest, roster)
    [asked] = grid.push_messages([Message(RecordDict(), 11, message_type, ttl=60.0, group_id="1")])
    superlink.answer_as_it_is(replace(carry(answer(asked)), reply_to=asked))
    [reply] = grid.pull_messages([asked])
    most, one = largest(message_type), max(map(len, superlink.replies[asked].objects.values()), default=0)
    assert superlink.pulled_bytes <= most_parcel_bytes(most) + one, "no more is fetched than an honest reply has"
    return reply


def outcome(kind: str, answer: Answer, carry: Callable[[Sent], Sent] = Sent.signed, roster: NodeKeys = keys) -> str:
    """The rule that a reply breaks; `taken` for none."""
    return rule_of(kind, pulled(kind, answer, carry, roster))


def rule_of(kind: str, reply: Message) -> str:
    try:
        with distrusted():
            READERS[kind](content_of(reply))
    except RejectedReply as rejection:
        return rejection.rule
    return "taken"


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_reply_to_every_stage_is_taken_and_fits_the_size_that_is_allowed(kind: str) -> None:
    assert outcome(kind, lambda asked: sent(11, asked, HONEST[kind])) == "taken"


def test_the_largest_honest_replies_fit() -> None:
    widest = {f"{i:064}": bytes(MAX_BYTES) for i in range(len(NODES))}
    counted = CountShares(dict.fromkeys(NODES.values(), bytes(48)), bytes(sealed_bytes(len(NODES))), widest)
    assert outcome(COUNT, lambda asked: sent(11, asked, write_count_shares(counted))) == "taken"


def test_attack_a_chunk_that_is_named_a_thousand_times_is_not_inflated() -> None:
    for times in (2, 1000, 1_000_000):
        assert outcome("train", lambda asked, n=times: repeated(sent(11, asked, HONEST["train"]), n)) == "reply_size"


def test_attack_a_reply_larger_than_an_honest_one_is_not_even_fetched() -> None:
    more = {f"more-{i}": write_bytes({"x": bytes([i]) * 3000}) for i in range(100)}
    flood = RecordDict({**HONEST["evaluate"], **more})
    assert outcome("evaluate", lambda asked: sent(11, asked, flood)) == "reply_size"


@pytest.mark.parametrize("missing", ["Message", "RecordDict", "ArrayRecord", "Array", "ArrayChunk", "MetricRecord"])
def test_attack_a_reply_that_lacks_an_object_is_not_taken_and_nobodys_fault(missing: str) -> None:
    def lacking(asked: str) -> Sent:
        reply = sent(11, asked, HONEST["train"])
        kept = {n: content for n, content in reply.objects.items() if content.split(b" ")[0] != missing.encode()}
        return replace(reply, objects=kept, tree=flat(reply.root, kept))

    assert outcome("train", lacking) in ("altered", "REPLY_MESSAGE_UNAVAILABLE")


def test_attack_a_reply_of_other_bytes_than_its_name_says_is_no_message() -> None:
    def renamed(asked: str) -> Sent:
        reply, other = (sent(11, asked, HONEST["train"], created_at=created) for created in (1.8e9, 1.7e9))
        return replace(reply, objects={**reply.objects, reply.root: other.objects[other.root]})

    assert outcome("train", renamed) == "altered"


def test_attack_a_reply_in_another_nodes_name_or_to_anothers_message_takes_nobodys_place() -> None:
    reply = HONEST["train"]
    assert outcome("train", lambda asked: sent(11, asked, reply, src_node_id=12)) == "wrong_node"
    assert outcome("train", lambda asked: sent(11, asked, reply, reply_to_message_id="0" * 64)) == "replayed"
    assert outcome("train", lambda asked: sent(12, asked, reply)) == "wrong_node"


def test_attack_a_member_that_answers_for_another_does_not_displace_the_honest_answer() -> None:
    superlink = ReplyingGrid(NODES)
    grid = NonblockingGrid(superlink, PLAIN, keys)
    replies = {}
    for node, message in exchange(
        Federation(_Answering(grid, superlink), StillClock()), {n: RecordDict() for n in NODES}, "train", "1", 30.0
    ):
        try:
            replies[node] = accept_training(content_of(message), INSTRUCTION, LAYOUT, (), NODES[node]).site
        except RejectedReply as rejection:
            replies[node] = rejection.rule
    assert replies == {11: "north", 12: "south", 13: "wrong_node"}


class _Answering:
    """Node 13 answers first, and writes 12's name and the message that 12 was sent into its answer."""

    def __init__(self, grid: NonblockingGrid, superlink: ReplyingGrid) -> None:
        self._grid, self._superlink = grid, superlink
        self.get_node_ids, self.push_messages = grid.get_node_ids, grid.push_messages

    def pull_messages(self, message_ids: list[str]) -> list[Message]:
        by_node = {message.metadata.dst_node_id: name for name, message in self._superlink.asked.items()}
        self._superlink.answer(
            sent(13, by_node[13], training("south"), src_node_id=12, reply_to_message_id=by_node[12])
        )
        first = list(self._grid.pull_messages(message_ids))
        for node in (11, 12):
            self._superlink.answer(sent(node, by_node[node], training(NODES[node])))
        return first + list(self._grid.pull_messages(message_ids))


def test_a_reply_to_an_earlier_message_is_handed_out_until_that_message_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    superlink = ReplyingGrid(NODES)
    grid = NonblockingGrid(superlink, PLAIN, keys)

    def push(node: int, ttl: float) -> str:
        [name] = grid.push_messages([Message(RecordDict(), node, "train", ttl=ttl, group_id="1")])
        return name

    long, short = push(11, 600.0), push(12, 60.0)
    assert list(grid.pull_messages([long, short])) == []
    later = time.time() + 61
    monkeypatch.setattr(nonblocking_grid.time, "time", lambda: later)
    again = push(13, 600.0)
    for node, asked in ((11, long), (12, short), (13, again)):
        superlink.answer(sent(node, asked, HONEST["train"]))
    found = {reply.metadata.reply_to_message_id for reply in grid.pull_messages([long, short, again])}
    assert found == {long, again}


def test_an_error_of_a_site_keeps_its_name_and_no_word_of_its_text() -> None:
    assert outcome("train", lambda asked: sent(11, asked, Error(0, "BudgetSpent"))) == "BudgetSpent"
    assert outcome("train", lambda asked: sent(11, asked, Error(0, "/data/patient-7"))) == "UNKNOWN"
    assert outcome("train", lambda asked: sent(11, asked, Error(0, "пациент"))) == "UNKNOWN"


def test_whatever_a_member_sends_is_one_rejected_reply(record_property: object) -> None:
    rng = random.Random(20261128)
    outcomes: Counter[str] = Counter()
    for _ in range(MUTATIONS):
        kind = rng.choice(list(HONEST))
        outcomes[outcome(kind, lambda asked, k=kind: mutated(rng, HONEST[k], 11, asked))] += 1
    record_property("outcomes", dict(outcomes))
    print(dict(outcomes.most_common()))
    assert MUTATIONS * 0.5 < MUTATIONS - outcomes["taken"] < MUTATIONS
    assert outcomes["not_a_message"] and outcomes["reply_size"] and outcomes["wrong_node"]


def test_attack_a_reply_without_the_sites_signature_is_not_even_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    def inflate(*_: object) -> Message:
        raise AssertionError("what nobody signed was inflated")

    monkeypatch.setattr(reply_objects, "inflate_object_from_contents", inflate)

    def invented(asked: str) -> Sent:
        return sent(11, asked, HONEST["train"])

    def signed_by(*nodes: int) -> Callable[[Sent], Sent]:
        return lambda reply: reply.packed(*(sign_reply(reply.root, site_key(node)) for node in nodes))

    assert outcome("train", invented, Sent.packed) == "unsigned"
    # Another hospital, a stranger, and the right key beside another one.
    for nodes in ((12,), (99,), (11, 12), (11, 11)):
        assert outcome("train", invented, signed_by(*nodes)) == "wrong_signature"
    assert outcome("train", invented, roster=lambda: site_keys(12, 13)) == "wrong_signature"
    # A refusal is a reply: an invented one is the superlink's word, and not the hospital's.
    assert outcome("train", lambda asked: sent(11, asked, Error(0, "BudgetSpent")), Sent.packed) == "unsigned"


def test_attack_a_signature_of_another_reply_or_of_another_purpose_signs_nothing() -> None:
    def honest(asked: str) -> Sent:
        return sent(11, asked, HONEST["train"])

    def with_signature(signature: bytes) -> str:
        return outcome("train", honest, lambda reply: reply.packed(signature))

    assert with_signature(sign_reply(sent(11, "0" * 64, HONEST["train"]).root, site_key(11))) == "wrong_signature"
    assert with_signature(PURPOSE) == "wrong_signature"
    for algorithm in (hashes.SHA256(), hashes.SHA384()):
        for purpose in (b"", ENTRY_PURPOSE, ADVERTISED, MASKED):

            def of_another_purpose(reply: Sent, before: bytes = purpose, by: hashes.HashAlgorithm = algorithm) -> Sent:
                text = before + bytes.fromhex(reply.root)
                return reply.packed(PURPOSE + site_key(11).sign(text, ec.ECDSA(by)))

            assert outcome("train", honest, of_another_purpose) == "wrong_signature"


@pytest.mark.parametrize("kind", HONEST)
def test_attack_a_reply_that_the_site_gave_to_another_message_is_not_taken_for_this_one(kind: str) -> None:
    kept = sent(11, "a" * 64, HONEST[kind]).signed()
    assert outcome(kind, lambda asked: kept, lambda reply: reply) == "replayed"

    # What names the message that is answered is in what was signed.
    def redirected(asked: str) -> Sent:
        told_anew = sent(11, asked, HONEST[kind])
        return told_anew.packed(*(part for part in parts_of(kept) if is_signature(part)))

    assert outcome(kind, redirected, lambda reply: reply) == "wrong_signature"


def test_attack_what_a_site_once_signed_that_is_no_message_is_counted_once_however_often_it_comes_again() -> None:
    def broken(asked: str) -> Sent:
        whole = sent(11, asked, HONEST["train"])
        [content] = [name for name, written in whole.objects.items() if written.startswith(b"RecordDict ")]
        return edited(whole, content, b"Array  2\0{}", is_named_anew=True)

    assert outcome("train", broken) == "not_a_message"
    kept = broken("a" * 64).signed()
    assert outcome("train", lambda asked: kept, lambda reply: reply) == "replayed"
    # What does not even say what it answers is not known to answer this.
    root = b"Message  9\0" + b"\xff" * 9
    wordless = replace(
        kept, root=object_name(root), objects={object_name(root): root}, tree=flat(object_name(root), [])
    )
    assert outcome("train", lambda asked: wordless) == "replayed"


def parts_of(reply: Sent) -> Iterable[bytes]:
    return unpack((content for name, content in reply.objects.items() if name != reply.root), 10**6).values()


def test_attack_the_superlink_says_itself_what_a_site_would_be_quarantined_for() -> None:
    for code, rule in ((ErrorCode.NODE_UNAVAILABLE, "NODE_UNAVAILABLE"), (-7, "UNKNOWN")):
        superlink = ReplyingGrid(NODES)
        grid = NonblockingGrid(superlink, PLAIN, keys)
        [asked] = grid.push_messages([Message(RecordDict(), 11, "train", ttl=60.0, group_id="1")])
        superlink.errors[asked] = Error(code, "missing_reply")
        [reply] = grid.pull_messages([asked])
        assert rule_of("train", reply) == rule and superlink.pulled_bytes == 0
        list(grid.pull_messages([]))
        assert superlink.confirmed == ["e" * 64]


def test_attack_whatever_a_superlink_makes_of_an_honest_reply_quarantines_nobody() -> None:
    rng = random.Random(20261130)
    outcomes: Counter[str] = Counter()
    for _ in range(MUTATIONS):
        kind = rng.choice(list(HONEST))
        changes = [rng.choice(CARRIERS) for _ in range(rng.choice([1, 1, 1, 2, 3]))]

        def carry(reply: Sent, changes: list[Carrier] = changes) -> Sent:
            carried = reply.signed()
            for change in changes:
                with suppress(ValueError, IndexError, KeyError, TypeError):
                    carried = change(rng, carried)
            return carried

        outcomes[outcome(kind, lambda asked, k=kind: sent(11, asked, HONEST[k]), carry)] += 1
    print(dict(outcomes.most_common()))
    assert not outcomes.keys() & MALFORMED_RULES
    assert outcomes.keys() <= UNPROVEN_RULES.keys() | {"taken", "REPLY_MESSAGE_UNAVAILABLE"}
    assert {"unsigned", "wrong_signature", "altered", "reply_size", "taken"} <= outcomes.keys()
