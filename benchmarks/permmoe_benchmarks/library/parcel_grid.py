"""The protocol's grid in one process, with messages packed, named, signed, unpacked and checked as between real
machines.

What is left out is the way: no TLS, no sockets, no superlink and no database.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from permmoe.federated.parcel import MOST_PARTS, Parcels, pack, unpack
from permmoe.federated.reply_signature import sign_reply
from permmoe_server.coordination.nonblocking_grid import failed, packed
from permmoe_server.coordination.reply_objects import Awaited, inflated
from permmoe_server.protocol.reply_sizes import LargestReply
from permmoe_simulation.engines.grid import COORDINATOR_NODE

Work = Callable[[RecordDict, str], RecordDict]
"""Makes a site's reply from the content of a message and the site's name."""


@dataclass(frozen=True)
class _Sent:
    """A message as its site will receive it."""

    node: int
    message_type: str
    identifier: str
    own: bytes
    parcels: Parcels


class ParcelGrid:
    """Nodes that answer one after another, each when its reply is pulled, so that one reply at a time is in memory.

    `work` answers each type of message. A site of `silent` answers nothing from the message type `silent_at` on; its
    error comes at once, so that nobody waits for a deadline. `at_site` is entered with a message's type and a site's
    name for as long as the site is at work, unpacking and packing included. `keys`: what each site signs with.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        keys: Mapping[str, ec.EllipticCurvePrivateKey],
        work: Mapping[str, Work],
        largest: LargestReply,
        at_site: Callable[[str, str], AbstractContextManager[None]],
        silent: Collection[str] = (),
        silent_at: str = "",
    ) -> None:
        self._names, self._work, self._largest, self._at_site = names, work, largest, at_site
        self._keys, self._listed = keys, {name: key.public_key() for name, key in keys.items()}
        order = list(work)
        self._silent = {(name, kind) for kind in order[order.index(silent_at) :] for name in silent} if silent else {}
        self._sent: dict[str, _Sent] = {}
        # Flower's messages ask for these.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, COORDINATOR_NODE

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pack messages as the coordinator does, and return their names."""
        sent = list(messages)
        parcels = packed(message.content for message in sent)
        with no_object_id_recompute():
            names = [message.object_id for message in sent]
            for name, message in zip(names, sent, strict=True):
                metadata, own = message.metadata, message.deflate()
                self._sent[name] = _Sent(
                    metadata.dst_node_id, metadata.message_type, name, own, parcels[id(message.content)]
                )
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the replies, each checked as the coordinator checks what a site sends."""
        for identifier in message_ids:
            if sent := self._sent.pop(identifier, None):
                yield self._reply(sent)

    def _reply(self, sent: _Sent) -> Message:
        site = self._names[sent.node]
        if (site, sent.message_type) in self._silent:
            return failed(sent.identifier, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "Silent")
        with self._at_site(sent.message_type, site):
            contents = unpack(sent.parcels.values(), MOST_PARTS) | {sent.identifier: sent.own}
            message = cast(Message, inflate_object_from_contents(sent.identifier, contents))
            message.metadata.__dict__["_message_id"] = sent.identifier
            reply = Message(self._work[sent.message_type](message.content, site), reply_to=message)
            with no_object_id_recompute():
                name, own = reply.object_id, reply.deflate()
                parcels = pack(reply.content, beside=[sign_reply(name, self._keys[site])])
        # A coordinator's collector of garbage never sees the objects of its sites.
        gc.freeze()
        awaited = Awaited(sent.identifier, sent.node, self._listed[site], self._largest(sent.message_type))
        return inflated(name, {**parcels, name: own}, awaited)
