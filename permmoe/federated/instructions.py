"""Instructions: what the coordinator asks of a site in a round, with the model that the site starts from.

A model is named by the SHA-256 of each of its modules, so that only those modules need to travel that a site can
use and does not hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from permmoe.federated.audit import AuditError, Receipt
from permmoe.federated.federation_config import Wire
from permmoe.federated.model_chain import Announcement, pack_links, parse_head, unpack_links
from permmoe.federated.module_records import read_digests, read_modules, write_digests, write_modules
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel, digest_of, module_digests
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import MalformedRecord, record_of, typed
from permmoe.federated.trained_modules import fixed_modules
from permmoe.federated.wire import down_format, packed_size, up_format

Part = Literal["validation", "test"]


class ModulesMissing(Exception):
    """The site lacks a module that was not sent because it should hold it: it was restarted, or a reply was lost."""


@dataclass(frozen=True)
class Instruction:
    """What the coordinator asks of a site; the model travels beside it."""

    plan: RoundPlan
    round: int
    """From 1."""
    model_digest: str
    part: Part = "validation"
    """The part of its visits that a site evaluates; training always takes the training visits."""
    announcement: Announcement | None = None
    """All models of the study so far, this one among them; None from a coordinator without a key."""

    @property
    def up_wire(self) -> Wire:
        """The format in which the changes of this round travel."""
        federation = self.plan.federation
        return up_format(federation.wire, sets_means=federation.sets_means(self.round))


def write_instruction(
    instruction: Instruction,
    model: PackedModel,
    receipts: Iterable[Receipt] = (),
    travelling: Collection[str] | None = None,
) -> RecordDict:
    """Write the message that opens a round; receipts are for the ledgers of the sites they name.

    `travelling` names the modules that are sent; the site holds the others, or has no use for them. By default all are
    sent. Those that every participant has by itself never are.
    """
    fixed = fixed_modules(instruction.plan, model.modules)
    wanted = model.modules if travelling is None else travelling
    sent = {name: model.modules[name] for name in wanted if name not in fixed}
    settings = ConfigRecord(
        {
            "plan": instruction.plan.canonical_json(),
            "round": instruction.round,
            "model-digest": instruction.model_digest,
            "part": instruction.part,
            "travelling": " ".join(sorted(sent)),
        }
    )
    by_site = ConfigRecord({receipt.head.site: receipt.line().decode() for receipt in receipts})
    content = RecordDict(
        {
            "model": write_modules(sent),
            "digests": write_digests(model.digests),
            "instruction": settings,
            "receipts": by_site,
        }
    )
    if announced := instruction.announcement:
        content["announced"] = ConfigRecord(
            {"links": pack_links(announced.links), "head": announced.signed.line().decode()}
        )
    return content


def read_instruction(content: RecordDict) -> Instruction:
    """Return the instruction of a message. Raises MalformedRecord for anything incomplete or unknown."""
    settings = record_of(content, "instruction", ConfigRecord)
    try:
        plan = _parsed_plan(typed(settings, "plan", str))
    except ValueError:
        raise MalformedRecord("plan") from None
    match typed(settings, "part", str):
        case "validation" | "test" as part:
            number, digest = typed(settings, "round", int), typed(settings, "model-digest", str)
            return Instruction(plan, number, digest, part, _read_announcement(content))
    raise MalformedRecord("part")


def _read_announcement(content: RecordDict) -> Announcement | None:
    """All models that came announced, not verified; None where the coordinator announces none."""
    if "announced" not in content:
        return None
    record = record_of(content, "announced", ConfigRecord)
    try:
        links, signed = unpack_links(typed(record, "links", bytes)), parse_head(typed(record, "head", str).encode())
    except AuditError:
        raise MalformedRecord("announced") from None
    return Announcement(links, signed)


# The same text comes with every message of a study.
@lru_cache(maxsize=16)
def _parsed_plan(text: str) -> RoundPlan:
    return RoundPlan.model_validate_json(text)


def read_model(
    content: RecordDict,
    instruction: Instruction,
    layout: ModuleLayout,
    held: PackedModel | None = None,
    needed: Collection[str] | None = None,
) -> PackedModel:
    """Return the model that an instruction names, from what came with it and what the site holds of earlier ones.

    `needed` names the modules that the site has a use for, by default all; others are returned only where they came or
    are held. Raises MalformedRecord where the digests are not those of the named model, or a module came that does not
    have the digest stated for it or that no message of this study holds, ModulesMissing where a needed module neither
    came nor is held.
    """
    digests = read_digests(record_of(content, "digests", ConfigRecord))
    if set(digests) != set(layout.modules):
        raise MalformedRecord("digests")
    if digest_of(digests) != instruction.model_digest:
        raise MalformedRecord("model_digest")
    names = typed(record_of(content, "instruction", ConfigRecord), "travelling", str).split()
    if not set(names) <= set(layout.modules):
        raise MalformedRecord("unknown_module")
    # "What every participant has by itself is in no message": it never changes.
    if fixed_modules(instruction.plan, layout.modules) & set(names):
        raise MalformedRecord("fixed_module")
    wire = instruction.plan.federation.wire
    sizes = {name: packed_size(layout.size(name), down_format(name, wire)) for name in names}
    came = read_modules(record_of(content, "model", ArrayRecord), sizes)
    if any(digests[name] != own for name, own in module_digests(came).items()):
        raise MalformedRecord("model_digest")
    old = {name: packed for name, packed in held.modules.items() if held.digests[name] == digests[name]} if held else {}
    modules = {**old, **came}
    if not set(layout.modules if needed is None else needed) <= set(modules):
        raise ModulesMissing
    return PackedModel(modules, {name: digests[name] for name in modules})


def read_receipt_line(content: RecordDict, site: str) -> bytes | None:
    """Return the receipt for a site's ledger that came with an instruction, not verified; None without one."""
    receipts = content.get("receipts")
    line = receipts.get(site) if isinstance(receipts, ConfigRecord) else None
    return line.encode() if isinstance(line, str) else None
