"""A site's reply in the objects that Flower makes of it: its signature is verified, and its size counted, before
anything is inflated.

A reply comes by way of a superlink, the coordinator's or a region's, which is not trusted to bring what the site sent.
What the site has signed says which message it answers, and leads to every object of it by SHA-256
(permmoe.federated.reply_signature). So an answer that is no message is the site's own doing, and whatever a superlink
could have brought about goes by the name of another rule (permmoe_server.protocol.rules.UNPROVEN_RULES).

A message names its content, the content its records, a record its array, an array its chunks, each by the SHA-256 of
its bytes. An array may name one chunk many times, so that few bytes become gigabytes; an object may be missing, or of
another kind than its place asks for, and Flower's own functions then raise what happens to come up. Here whatever a
site sends is either a message of a bounded size or `NotAReply`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_body, get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from permmoe.federated.parcel import LENGTH_BYTES, PARCEL_BYTES, TooManyParts, object_name, unpack
from permmoe.federated.reply_signature import SIGNATURE_BYTES, is_signature, is_signed
from permmoe_server.protocol.reply_sizes import ARRAY_TEXT_BYTES, INDEX_BYTES, REFERENCE_BYTES, ReplySize, n_chunks

LOG = logging.getLogger("permmoe.server")

PARCEL_HEAD_BYTES = 64
"""The kind and the length of a parcel, as Flower writes them before its bytes."""
CHUNK = b"ArrayChunk "
"""How a chunk of an array begins."""
CHILDREN: Mapping[str, frozenset[str]] = {
    "Message": frozenset({"RecordDict"}),
    "RecordDict": frozenset({"ArrayRecord", "MetricRecord", "ConfigRecord"}),
    "ArrayRecord": frozenset({"Array"}),
    "Array": frozenset({"ArrayChunk"}),
    "MetricRecord": frozenset(),
    "ConfigRecord": frozenset(),
    "ArrayChunk": frozenset(),
}
"""Kind of object -> the kinds that it may name."""


class NotAReply(Exception):
    """What came is no reply of the site. `rule` names the broken rule and repeats nothing that was received."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


@dataclass(frozen=True)
class Awaited:
    """What a reply has to be the answer to, and whose."""

    message: str
    """The name of the message that was sent."""
    node: int
    """Whom it was sent to."""
    key: ec.EllipticCurvePublicKey | None
    """What the site signs with; with None, of a node that is no site of the roster, no reply is the site's."""
    most: ReplySize
    """The size of the largest honest reply."""


def most_objects(most: ReplySize) -> int:
    """Return how many objects a reply of this size can have: each is named somewhere, or is the first."""
    return 2 + most.records // REFERENCE_BYTES


def most_parcel_bytes(most: ReplySize) -> int:
    """Return how many bytes a reply of this size takes in parcels, with its signature."""
    n_parts = most_objects(most) + 1
    heads = n_parts * LENGTH_BYTES + most_parcels(most) * PARCEL_HEAD_BYTES
    return most.numbers + most.records + SIGNATURE_BYTES + heads


def most_parcels(most: ReplySize) -> int:
    """Return how many parcels a reply of this size can have: each but the last is full."""
    return 1 + (most.numbers + most.records + SIGNATURE_BYTES) // PARCEL_BYTES


def inflated(identifier: str, sent: Mapping[str, bytes], awaited: Awaited) -> Message:
    """Return the message of this identifier from its own object and its parcels. Raises NotAReply."""
    contents = _signed_objects(identifier, sent, awaited)
    _require_answer(contents[identifier], awaited)
    try:
        named = _named(identifier, contents, awaited.most)
        # Flower's own function would copy the bytes of every chunk.
        chunks = {name: ArrayChunk(_body(part)) for name, part in named.items() if part.startswith(CHUNK)}
        message = inflate_object_from_contents(identifier, named, objects=dict(chunks))
        # "A message holds a content or an error."
        if not isinstance(message, Message) or message.has_content() == message.has_error():
            raise NotAReply("not_a_message")
    except NotAReply:
        raise
    # Flower's parsers raise what their authors did not think of: any of it is the sender's doing, and ends here.
    except Exception as error:
        LOG.warning("a reply could not be read: %s", type(error).__name__)
        raise NotAReply("not_a_message") from error
    return message


def _signed_objects(identifier: str, sent: Mapping[str, bytes], awaited: Awaited) -> dict[str, bytes]:
    """The objects in which a message came whose name the site has signed; they may be too few. Raises NotAReply."""
    own = sent.get(identifier)
    # "The name of a message is the SHA-256 of its bytes", and so on for all that it names.
    if own is None or object_name(own) != identifier:
        raise NotAReply("altered")
    try:
        parts = unpack((sent[name] for name in sent if name != identifier), most_objects(awaited.most) + 1)
    # "A reply is no larger than the largest honest one", in objects as in bytes.
    except TooManyParts:
        raise NotAReply("reply_size") from None
    except ValueError:
        raise NotAReply("altered") from None
    signatures = [part for part in parts.values() if is_signature(part)]
    # "A site signs each of its replies."
    if not signatures:
        raise NotAReply("unsigned")
    # "What counts for a site is signed with its key in the roster", and with one signature.
    if len(signatures) > 1 or awaited.key is None or not is_signed(identifier, signatures[0], awaited.key):
        raise NotAReply("wrong_signature")
    return {**{name: part for name, part in parts.items() if not is_signature(part)}, identifier: own}


def _require_answer(own: bytes, awaited: Awaited) -> None:
    """Check that a message's own bytes say that it is what is awaited. Raises NotAReply."""
    try:
        metadata = ProtoMessage.FromString(get_object_body(own, Message)).metadata
    except (DecodeError, ValueError):
        raise NotAReply("replayed") from None
    # "A node answers for itself."
    if metadata.src_node_id != awaited.node:
        raise NotAReply("wrong_node")
    # "A signature is of the answer to one message": a superlink may hand out another answer of the same site.
    if metadata.reply_to_message_id != awaited.message:
        raise NotAReply("replayed")


def _named(identifier: str, contents: Mapping[str, bytes], most: ReplySize) -> dict[str, bytes]:
    """The objects that a message names, once they are found to fit together and to be within the size.

    What else came is not looked into. Raises NotAReply, KeyError or ValueError.
    """
    records = sum(len(content) for content in contents.values() if not content.startswith(CHUNK))
    # "A reply is no larger than the largest honest one", before any of it is parsed.
    if records > most.records:
        raise NotAReply("reply_size")
    kinds: dict[str, str] = {}
    waiting = [(identifier, frozenset({"Message"}))]
    numbers = 0
    while waiting:
        name, allowed = waiting.pop()
        is_new = name not in kinds
        kind, children, n_bytes = get_object_head_values_from_object_content(contents[name])
        kinds[name] = kind
        # "All came that the message names."
        if any(child not in contents for child in children):
            raise NotAReply("altered")
        # "An object is of a kind that its place allows, and as long as it says."
        if kind not in allowed or n_bytes != len(_body(contents[name])):
            raise NotAReply("not_a_message")
        if is_new:
            waiting += [(child, CHILDREN[kind]) for child in children]
            numbers += _named_bytes(contents[name], children, contents, most) if kind == "Array" else 0
        if numbers > most.numbers:
            raise NotAReply("reply_size")
    return {name: contents[name] for name in kinds}


def _named_bytes(array: bytes, children: list[str], contents: Mapping[str, bytes], most: ReplySize) -> int:
    """The bytes of an array: of every chunk as often as it is named."""
    # "An array says little of itself": JSON takes many times its length once it is read.
    if len(_body(array)) > ARRAY_TEXT_BYTES + INDEX_BYTES * n_chunks(most.numbers):
        raise NotAReply("reply_size")
    sizes = [len(_body(contents[child])) for child in children]
    return sum(sizes[index] for index in json.loads(bytes(_body(array)))["arraychunk_ids"])


def _body(content: bytes) -> memoryview:
    return memoryview(content)[content.index(HEAD_BODY_DIVIDER) + len(HEAD_BODY_DIVIDER) :]
