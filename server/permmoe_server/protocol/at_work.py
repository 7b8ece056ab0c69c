"""Sites that are still at work on a round that was closed without them, and what they may yet bring.

Buffered aggregation (FedBuff, Nguyen et al. 2022, arXiv 2106.06639): an update that was begun from the model of round r
and comes in round r + s counts in the step of that round, its change multiplied by (1 + s)^-1/2, module by module. A
site that is at work is asked nothing else, so that it answers in the order in which it was asked.

All of it is in memory: a coordinator that is started again leaves out what was begun before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from permmoe.federated.instructions import Instruction
from permmoe.federated.packed_model import PackedModel


def staleness_factor(rounds: int) -> float:
    """What the change of an update counts for that is so many rounds late; exactly 1 in time."""
    return float((1 + rounds) ** -0.5)


@dataclass(frozen=True)
class Asked:
    """What a site was asked to train, as the server remembers it: replies are held against this alone."""

    instruction: Instruction
    digests: Mapping[str, bytes]
    """Of the modules of the model that it begins with."""
    until: float
    """When its answer is awaited no longer, seconds of the federation's clock."""


@dataclass
class AtWork:
    """The sites that were asked to train and have not answered, and who is in the sum of which round."""

    unanswered: dict[str, int] = field(default_factory=dict)
    """Message -> node."""
    _asked: dict[int, Asked] = field(default_factory=dict)
    _counted: dict[int, frozenset[str]] = field(default_factory=dict)

    def nodes(self, now: float) -> frozenset[int]:
        """The nodes that have not answered yet and may; those whose time has passed are forgotten."""
        self._asked = {node: asked for node, asked in self._asked.items() if now < asked.until}
        for message in [message for message, node in self.unanswered.items() if node not in self._asked]:
            del self.unanswered[message]
        return frozenset(self.unanswered.values())

    def forget(self, nodes: Iterable[int]) -> None:
        """Await no answer of these nodes any more."""
        for node in nodes:
            del self._asked[node]

    def begin(self, nodes: Iterable[int], instruction: Instruction, model: PackedModel, until: float) -> None:
        """Remember what these nodes are about to be asked."""
        self._asked |= dict.fromkeys(nodes, Asked(instruction, model.digests, until))

    def may_answer(self, node: int, now: float) -> bool:
        """Whether a node has a message without an answer, and time left for one."""
        return node in self.unanswered.values() and now < self._asked[node].until

    def asked(self, node: int) -> Asked:
        """What a node was asked last."""
        return self._asked[node]

    def counted(self, number: int) -> Collection[str]:
        """The sites whose update that was begun in this round is in the model already."""
        return self._counted.get(number, ())

    def close(self, counted: Mapping[str, int]) -> None:
        """Remember whose updates are in the sum that the server steps along: site -> the round it was begun in."""
        for site, number in counted.items():
            self._counted[number] = self._counted.get(number, frozenset()) | {site}
        # What nobody is at work on any more no reply can be of.
        oldest = min((asked.instruction.round for asked in self._asked.values()), default=0)
        self._counted = {number: sites for number, sites in self._counted.items() if number >= oldest}
