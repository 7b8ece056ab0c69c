"""A coordinator that announces its models to one site with a kit, and can lie about each part of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from flwr.app import Message, MessageType, RecordDict

from permmoe.federated.audit import Entry, Receipt
from permmoe.federated.instructions import Instruction, Part, write_instruction
from permmoe.federated.model_chain import Announcement, Link, Purpose, head_of, sign_head
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe_client.connection.identity import open_ledger
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import read_site
from permmoe_server.provisioning.authority import Identity, read_identity
from tests.support.secure_federation import found
from tests.support.site_messages import WEIGHTS, ask
from tests.support.tiny_federation import tiny_plan

NEWER = {name: tensor + 0.01 for name, tensor in WEIGHTS.items()}
CRAFTED = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}


@dataclass
class AnnouncingCoordinator:
    """It keeps its chain in `links`; a test changes what it likes."""

    plan: RoundPlan
    site: Path
    """The site.yaml of the hospital that it asks."""
    server: Identity
    links: list[Link] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, plan: RoundPlan | None = None, visits: int = 23) -> AnnouncingCoordinator:
        """A coordinator and one hospital, unpacked from its kit."""
        plan = plan or tiny_plan(rounds=9)
        federation = found(folder, plan, ("north",), visits=visits)
        place = federation.deployment.folder
        return cls(plan, federation.deployment.sites["north"], read_identity(place.server, place.server_key))

    @property
    def ledger(self) -> Ledger:
        ledger = open_ledger(read_site(self.site))
        assert ledger
        return ledger

    def entries(self) -> list[Entry]:
        return list(self.ledger.entries())

    def announce(self, number: int, purpose: Purpose, weights: Mapping[str, torch.Tensor] = WEIGHTS) -> Link:
        """Enter a model into the chain, unless it is there."""
        link = Link(number, purpose, PackedModel.of(weights).digest())
        if link not in self.links:
            self.links.append(link)
        return link

    def announcement(
        self, links: Sequence[Link] | None = None, *, study: str | None = None, signer: Identity | None = None
    ) -> Announcement:
        """The chain, or these links, signed."""
        shown, by = tuple(self.links if links is None else links), signer or self.server
        head = head_of(study or self.plan.digest(), shown)
        return Announcement(shown, sign_head(head, by.key, by.certificate, by.certificate_pem.decode()))

    def send(
        self,
        number: int,
        purpose: Purpose,
        weights: Mapping[str, torch.Tensor] = WEIGHTS,
        *,
        announcement: Announcement | None = None,
        receipts: Sequence[Receipt] = (),
    ) -> Message:
        """Ask the hospital for work on a model, announced honestly or as given; its reply."""
        if announcement is None:
            self.announce(number, purpose, weights)
            announcement = self.announcement()
        return ask(self.site, self.message(number, purpose, weights, announcement, receipts), kind_of(purpose))

    def message(
        self,
        number: int,
        purpose: Purpose,
        weights: Mapping[str, torch.Tensor] = WEIGHTS,
        announcement: Announcement | None = None,
        receipts: Sequence[Receipt] = (),
    ) -> RecordDict:
        """The message that asks for it."""
        model, part = PackedModel.of(weights), _part(purpose)
        return write_instruction(Instruction(self.plan, number, model.digest(), part, announcement), model, receipts)


def kind_of(purpose: Purpose) -> str:
    """Flower's type of the message that asks for work."""
    return MessageType.TRAIN if purpose == "training" else MessageType.EVALUATE


def _part(purpose: Purpose) -> Part:
    return "test" if purpose == "test" else "validation"
