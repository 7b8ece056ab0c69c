"""Sites that are still at work on a round that was closed without them, and what they may yet bring.

Buffered aggregation (FedBuff, Nguyen et al. 2022, arXiv 2106.06639): an update that was begun from the model of round r
and comes in round r + s counts in the step of that round, its change multiplied by (1 + s)^-1/2, module by module. A
site that is at work is asked nothing else, so that it answers in the order in which it was asked.

A site whose connection was lost is asked again once it is back, for what it was asked before; so is every site that was
at work when the coordinator was started again (`StillAtWork` is in the study's state). It goes on where it was, or
sends what it has (permmoe_client.participation.kept_training).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from permmoe.federated.instructions import Instruction
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan


def staleness_factor(rounds: int) -> float:
    """What the change of an update counts for that is so many rounds late; exactly 1 in time."""
    return float((1 + rounds) ** -0.5)


@dataclass(frozen=True)
class Asked:
    """What a site was asked to train, as the server remembers it: replies are held against this alone."""

    instruction: Instruction
    model: PackedModel
    """What it begins with."""
    until: float
    """When its answer is awaited no longer, seconds of the federation's clock."""


@dataclass(frozen=True)
class StillAtWork:
    """What a study that is started again knows of the sites that were at work when a round closed."""

    rounds: Mapping[str, int] = field(default_factory=dict)
    """Site -> the round that it is at work on. A site may be another node of the next process."""
    seconds_left: Mapping[str, float] = field(default_factory=dict)
    """Site -> for how long its answer is awaited; time in which no coordinator runs does not count."""
    models: Mapping[int, PackedModel] = field(default_factory=dict)
    """Round -> the model that sites at work on it begin with."""
    counted: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Round -> the sites whose update that was begun in it is in the model already."""


NOBODY_AT_WORK = StillAtWork()


@dataclass
class AtWork:
    """The sites that were asked to train and have not answered, and who is in the sum of which round."""

    unanswered: dict[str, int] = field(default_factory=dict)
    """Message -> node."""
    lost: set[int] = field(default_factory=set)
    """Nodes whose message is lost to them: they are asked again once they are connected."""
    _asked: dict[int, Asked] = field(default_factory=dict)
    _left: dict[str, Asked] = field(default_factory=dict)
    """By site: what an earlier process asked of sites that are no known node yet."""
    _counted: dict[int, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def going_on(cls, left: StillAtWork, plan: RoundPlan, now: float) -> AtWork:
        """What an earlier process of the coordinator left; its messages are lost to all."""
        asked = {
            site: Asked(
                Instruction(plan, number, left.models[number].digest()),
                left.models[number],
                now + left.seconds_left[site],
            )
            for site, number in left.rounds.items()
        }
        return cls(_left=asked, _counted=dict(left.counted))

    def find(self, nodes: Mapping[str, int]) -> None:
        """Learn which nodes sites are that an earlier process left at work: site -> node."""
        for site in self._left.keys() & nodes.keys():
            self._asked[nodes[site]] = self._left.pop(site)
            self.lost.add(nodes[site])

    def left(self, now: float, name: Callable[[int], str]) -> StillAtWork:
        """What a process that is started after this one has to know; `name` says which site a node is."""
        found = {name(node): self._asked[node] for node in sorted(self.nodes(now))}
        asked = {site: one for site, one in {**self._left, **found}.items() if now < one.until}
        return StillAtWork(
            {site: one.instruction.round for site, one in asked.items()},
            {site: one.until - now for site, one in asked.items()},
            {one.instruction.round: one.model for one in asked.values()},
            dict(self._counted),
        )

    def nodes(self, now: float) -> frozenset[int]:
        """The nodes that have not answered yet and may; those whose time has passed are forgotten."""
        self._asked = {node: asked for node, asked in self._asked.items() if now < asked.until}
        for message in [message for message, node in self.unanswered.items() if node not in self._asked]:
            del self.unanswered[message]
        self.lost.intersection_update(self._asked)
        return frozenset(self.unanswered.values()) | self.lost

    def forget(self, nodes: Iterable[int]) -> None:
        """Await no answer of these nodes any more."""
        for node in nodes:
            del self._asked[node]

    def begin(self, nodes: Iterable[int], instruction: Instruction, model: PackedModel, until: float) -> None:
        """Remember what these nodes are about to be asked."""
        self._asked |= dict.fromkeys(nodes, Asked(instruction, model, until))

    def may_answer(self, node: int, now: float) -> bool:
        """Whether a node has a message without an answer, or will be asked again, and has time left for one."""
        return (node in self.lost or node in self.unanswered.values()) and now < self._asked[node].until

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
        asked = [*self._asked.values(), *self._left.values()]
        oldest = min((one.instruction.round for one in asked), default=0)
        self._counted = {number: sites for number, sites in self._counted.items() if number >= oldest}
