"""What answers a message of a simulated federation: the client app, in the server app's process or in another one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

Answer = tuple[Message, Context]
"""A reply, and the node's context as the client app left it."""


@runtime_checkable
class ClientWorkers(Protocol):
    """Processes that answer messages in the nodes' place.

    Threads would share PyTorch's random generator, and results would depend on timing.
    """

    def submit(self, app: ClientApp, message: Message, context: Context) -> Future[Answer]:
        """The answer to come. Its exception is that of the workers: the client app's own is an error reply."""

    def close(self) -> None:
        """Give up what has not begun."""


def answered(app: ClientApp, message: Message, context: Context) -> Answer:
    """What the client app answers; an exception of it becomes an error reply that holds its text, as in Flower."""
    try:
        return app(message, context), context
    except Exception as error:
        reason = f"{type(error)}:<'{error}'>"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message), context
