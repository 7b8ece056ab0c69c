"""The modules that have to travel to a site: those that its visits can reach, less those that it holds already.

A site states its modalities in its first training reply, and holds what it was sent for the newest instruction that it
answered. Before that, and after a restart of the coordinator, nothing is known about a site: it is then sent the whole
model. A site that has lost what it held reports it (permmoe.federated.instructions.ModulesMissing) and is sent the
instruction again, with the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from permmoe.federated.audit import Receipt
from permmoe.federated.instructions import Instruction, ModulesMissing, write_instruction
from permmoe.federated.modules import ModuleLayout, reachable_modules
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.records import content_bytes
from permmoe_server.protocol.exchange import AskAgain, error_type, exchange, never, nobody, send
from permmoe_server.protocol.federation import Federation


@dataclass
class Downlink:
    """What is known about the sites of one study, by node."""

    layout: ModuleLayout
    held: dict[int, Mapping[str, bytes]] = field(default_factory=dict)
    """Digests of the modules that a site has."""
    modalities: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def travelling(self, node: int, instruction: Instruction, model: PackedModel) -> frozenset[str]:
        """The modules that have to be sent to a node."""
        held = self.held.get(node, {})
        return frozenset(m for m in self._needed(node, instruction) if held.get(m) != model.digests[m])

    def confirm(self, node: int, instruction: Instruction, digests: Mapping[str, bytes]) -> None:
        """Remember that the site answered, so that it holds what it needs of the model with these digests."""
        self.held[node] = {module: digests[module] for module in self._needed(node, instruction)}

    def learn(self, node: int, modalities: tuple[str, ...]) -> None:
        """Remember the modalities that the site stated; none where it stated nothing."""
        self.modalities[node] = modalities

    def forget(self, node: int) -> None:
        """Know nothing of the site any more: it may have been restarted."""
        self.held.pop(node, None)
        self.modalities.pop(node, None)

    def _needed(self, node: int, instruction: Instruction) -> Iterable[str]:
        names = self.modalities.get(node, ())
        plan = instruction.plan
        return reachable_modules(plan.model, names, plan.members) if names else self.layout.modules


class ModelExchange:
    """An instruction and its model on their way to sites, and the replies."""

    def __init__(
        self, downlink: Downlink, instruction: Instruction, model: PackedModel, receipts: Iterable[Receipt] = ()
    ) -> None:
        self.downlink, self.instruction, self.model, self.receipts = downlink, instruction, model, tuple(receipts)
        self.bytes_down: dict[int, int] = {}
        """Sent to each node."""
        self._contents: dict[int, RecordDict] = {}
        self._written: dict[frozenset[str], tuple[RecordDict, int]] = {}

    def write(self, nodes: Iterable[int]) -> None:
        """Write what goes to each node, before anything is sent."""
        self._contents |= {node: self._content(node) for node in nodes}

    def replies(
        self,
        federation: Federation,
        nodes: Iterable[int],
        message_type: str,
        deadline_seconds: float,
        *,
        ttl_seconds: float | None = None,
        unanswered: dict[str, int] | None = None,
        lost: set[int] | None = None,
        ask_again: AskAgain = nobody,
        is_enough: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, Message | None]]:
        """Each node's reply in the order of arrival, as in `exchange`; one that lacks a module is asked once more."""
        clock, asked_again = federation.clock, set[int]()
        ttl_seconds = deadline_seconds if ttl_seconds is None else ttl_seconds
        unanswered = {} if unanswered is None else unanswered
        ends = clock.now() + ttl_seconds
        self.write(node for node in nodes if node not in self._contents)
        contents = {node: self._contents.pop(node) for node in nodes}
        group = str(self.instruction.round)
        for node, message in exchange(
            federation,
            contents,
            message_type,
            group,
            deadline_seconds,
            ttl_seconds=ttl_seconds,
            unanswered=unanswered,
            lost=lost,
            ask_again=ask_again,
            is_enough=is_enough,
        ):
            if node in asked_again or node not in contents or not _lacks_modules(message):
                yield node, message
                continue
            asked_again.add(node)
            self.downlink.forget(node)
            sent = send(federation, {node: self._content(node)}, message_type, group, max(ends - clock.now(), 0.0))
            unanswered |= sent
            if not sent:
                yield node, None

    def _content(self, node: int) -> RecordDict:
        travelling = self.downlink.travelling(node, self.instruction, self.model)
        if travelling not in self._written:
            content = write_instruction(self.instruction, self.model, self.receipts, travelling)
            self._written[travelling] = content, content_bytes(content)
        content, size = self._written[travelling]
        self.bytes_down[node] = self.bytes_down.get(node, 0) + size
        return content


def _lacks_modules(message: Message | None) -> bool:
    return message is not None and message.has_error() and error_type(message.error) == ModulesMissing.__name__
