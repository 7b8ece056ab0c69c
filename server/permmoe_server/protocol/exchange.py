"""Messages to sites over Flower's Grid, and their replies. Every wait is bounded; a failure becomes a rule's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import itemgetter

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

from permmoe_server.protocol.acceptance import RejectedReply
from permmoe_server.protocol.federation import POLL_SECONDS, Federation

MOST_TIMES_ASKED = 4
"""Of one site in one exchange: what ends a site's process each time would hold the others up."""

AskAgain = Callable[[Collection[int]], Mapping[str, int]]
"""Sends nodes what they were asked before; message -> node, without the nodes that none could be sent to."""


def never() -> bool:
    """Of an exchange that waits for every reply: that those it has are enough."""
    return False


def nobody(_: Collection[int]) -> Mapping[str, int]:
    """Of an exchange that asks no site again."""
    return {}


def is_lost(reply: Message | None) -> bool:
    """Whether a node's connection was lost before it had answered."""
    return reply is not None and reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE


def exchange(
    federation: Federation,
    contents: Mapping[int, RecordDict],
    message_type: str,
    group: str,
    deadline_seconds: float,
    *,
    ttl_seconds: float | None = None,
    unanswered: dict[str, int] | None = None,
    lost: set[int] | None = None,
    ask_again: AskAgain = nobody,
    is_enough: Callable[[], bool] = never,
) -> Iterator[tuple[int, Message | None]]:
    """Send each node its content, and yield (node, reply) in the order of arrival.

    A node that is silent until the deadline, or until the replies are enough, comes last, with None. Replies are
    matched by the message that they answer: the error that Flower makes for a lost node names the coordinator as its
    sender. A message is answered once, and by the node that it was sent to: what another node says of it is dropped,
    and takes nobody's place.

    A site may answer for `ttl_seconds`, by default until the deadline. `unanswered`, message -> node, may hold messages
    of earlier exchanges, whose replies are yielded as well; in the end it holds those that are still without one.

    With `lost`, which may hold nodes of earlier exchanges, a node whose connection is lost is asked again once it is
    back. In the end `lost` holds those that are not, and they come with the error that says so, or with None.
    """
    grid, clock = federation.grid, federation.clock
    deadline = clock.now() + deadline_seconds
    waiting = {} if unanswered is None else unanswered
    sent = send(federation, contents, message_type, group, deadline_seconds if ttl_seconds is None else ttl_seconds)
    waiting |= sent
    unsent = contents.keys() - sent.values()
    away: dict[int, Message | None] = dict.fromkeys(lost or ())
    times: Counter[int] = Counter(contents.keys())
    while True:
        if back := away.keys() & set(grid.get_node_ids()) if away else ():
            again = ask_again(sorted(back))
            waiting |= again
            times.update(again.values())
            away = {node: reply for node, reply in away.items() if node not in again.values()}
        if not waiting or clock.now() >= deadline or is_enough():
            break
        n_waiting = len(waiting)
        for reply in grid.pull_messages(list(waiting)):
            answered = reply.metadata.reply_to_message_id
            if answered not in waiting or not _is_from(reply, waiting[answered]):
                continue
            node = waiting.pop(answered)
            if lost is not None and is_lost(reply) and times[node] < MOST_TIMES_ASKED:
                away[node] = reply
            else:
                yield node, reply
        if len(waiting) == n_waiting:
            clock.pause(POLL_SECONDS)
    if lost is not None:
        lost.clear()
        lost.update(away)
    yield from sorted([*away.items(), *((node, None) for node in [*unsent, *waiting.values()])], key=itemgetter(0))


def send(
    federation: Federation, contents: Mapping[int, RecordDict], message_type: str, group: str, ttl_seconds: float
) -> dict[str, int]:
    """Send each node its content; message -> node, without the nodes that none could be sent to."""
    messages = [
        Message(content, node, message_type, ttl=ttl_seconds, group_id=group) for node, content in contents.items()
    ]
    identifiers = federation.grid.push_messages(messages)
    return {identifier: node for identifier, node in zip(identifiers, contents, strict=True) if identifier}


def content_of(message: Message | None) -> RecordDict:
    """A reply's content. Raises RejectedReply for silence or an error, of which only the type is kept."""
    if message is None:
        raise RejectedReply("no_reply")
    if message.has_error():
        raise RejectedReply(error_type(message.error))
    return message.content


def error_type(error: Error) -> str:
    """The name of the exception where the site sent just that, else Flower's name of the error's code.

    An error's text may name a patient or a path; a text that is not a single word of ASCII is dropped unread.
    """
    reason = error.reason or ""
    # Letters of other scripts may be shown in another order, or pass for ours.
    if reason.isascii() and reason.isidentifier() and len(reason) <= 64:
        return reason
    names = {code: name for name, code in vars(ErrorCode).items() if isinstance(code, int)}
    return names.get(error.code, "UNKNOWN")


def _is_from(reply: Message, node: int) -> bool:
    # An error in a node's place may be Flower's own.
    own = (node, SUPERLINK_NODE_ID) if reply.has_error() else (node,)
    return reply.metadata.src_node_id in own
