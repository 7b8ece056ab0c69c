"""What has to travel to a site: the modules that its visits can reach, less those that it holds already.

A site says which modalities it has with its first training reply, and holds what it was sent for the newest instruction
that it answered. Nothing is known of a site before that, and after a restart of the coordinator: it is then sent
everything. A site that has forgotten what it held says so (permmoe.federated.records.ModulesMissing) and is asked again
with everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from permmoe.federated.audit import Receipt
from permmoe.federated.modules import ModuleLayout, reachable_modules
from permmoe.federated.records import Instruction, ModulesMissing, PackedModel, content_bytes, write_instruction
from permmoe_server.protocol.exchange import error_type, exchange
from permmoe_server.protocol.federation import Federation


@dataclass
class Downlink:
    """What is known of the sites of one study, by node."""

    layout: ModuleLayout
    held: dict[int, Mapping[str, bytes]] = field(default_factory=dict)
    """Digests of the modules that a site has."""
    modalities: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def travelling(self, node: int, instruction: Instruction, model: PackedModel) -> frozenset[str]:
        """The modules that have to be sent."""
        held = self.held.get(node, {})
        return frozenset(m for m in self._needed(node, instruction) if held.get(m) != model.digests[m])

    def confirm(self, node: int, instruction: Instruction, model: PackedModel) -> None:
        """The site answered: it holds what it needs of this model."""
        self.held[node] = {module: model.digests[module] for module in self._needed(node, instruction)}

    def learn(self, node: int, modalities: tuple[str, ...]) -> None:
        """What the site says that its visits have; nothing, where it does not say."""
        self.modalities[node] = modalities

    def _needed(self, node: int, instruction: Instruction) -> Iterable[str]:
        names = self.modalities.get(node, ())
        return reachable_modules(instruction.plan.model, names) if names else self.layout.modules


class ModelExchange:
    """An instruction and its model on their way to sites, and the answers."""

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
        self, federation: Federation, nodes: Iterable[int], message_type: str, deadline_seconds: float
    ) -> Iterator[tuple[int, Message | None]]:
        """Each node's reply in the order of arrival, as in `exchange`; whoever lacks a module is asked once more."""
        clock, forgetful = federation.clock, list[int]()
        deadline = clock.now() + deadline_seconds
        self.write(node for node in nodes if node not in self._contents)
        contents = {node: self._contents.pop(node) for node in nodes}
        group = str(self.instruction.round)
        for node, message in exchange(federation, contents, message_type, group, deadline_seconds):
            if message is not None and message.has_error() and error_type(message.error) == ModulesMissing.__name__:
                self.downlink.held.pop(node, None)
                self.downlink.modalities.pop(node, None)
                forgetful.append(node)
            else:
                yield node, message
        again = {node: self._content(node) for node in forgetful}
        yield from exchange(federation, again, message_type, group, max(deadline - clock.now(), 0.0))

    def _content(self, node: int) -> RecordDict:
        travelling = self.downlink.travelling(node, self.instruction, self.model)
        if travelling not in self._written:
            content = write_instruction(self.instruction, self.model, self.receipts, travelling)
            self._written[travelling] = content, content_bytes(content)
        content, size = self._written[travelling]
        self.bytes_down[node] = self.bytes_down.get(node, 0) + size
        return content
