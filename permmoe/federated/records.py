"""Instructions and replies as Flower records, all modules in one array of bytes.

Flower is imported here and in permmoe.federated.secure.messages, and nowhere else in permmoe.

Flower sends, signs and stores every array by itself, at some 10 ms each: a model of 50 modules travels several times
faster in one array. A model is announced by the SHA-256 of each of its modules, so that only those need to travel that
a site can use and does not hold. Whatever is read here came from another machine: nothing in it is taken on trust.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.accounting import Spent
from permmoe.federated.audit import LedgerHead, Receipt
from permmoe.federated.federation_config import Wire
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.roster import SITE_NAME
from permmoe.federated.training_figures import FIGURES, TrainingFigures, missing_rule
from permmoe.federated.update import ModuleUpdate
from permmoe.federated.wire import Bytes, down_format, pack, packed_size, unpack, up_format

PACKED = "modules"
"""The one array of a record of modules."""
Part = Literal["validation", "test"]
Value = TypeVar("Value")

SHA256_BYTES = 32

LEDGER_HEAD = re.compile(r"[0-9]{1,18} [0-9a-f]{64}")
"""A ledger's newest entry: its number and SHA-256."""


class MalformedRecord(Exception):
    """A record that breaks the protocol. `rule` names the broken rule and repeats nothing that was received."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class ModulesMissing(Exception):
    """A module that was not sent, since the site holds it, is not held: the site was restarted, or a reply got lost."""


@dataclass(frozen=True)
class Instruction:
    """What the coordinator asks of a site; the model travels beside it."""

    plan: RoundPlan
    round: int
    """From 1."""
    model_digest: str
    part: Part = "validation"
    """Which of its visits a site evaluates; training always takes the training visits."""

    @property
    def up_wire(self) -> Wire:
        """How the changes of this round travel."""
        federation = self.plan.federation
        return up_format(federation.wire, is_centring=federation.is_centring(self.round))


@dataclass(frozen=True)
class TrainReply:
    """What a site's training of one round made."""

    site: str
    round: int
    model_digest: str
    """Of the model that the site was sent and started from."""
    updates: Mapping[str, ModuleUpdate]
    """Only modules with a support above zero."""
    figures: TrainingFigures
    modalities: tuple[str, ...] = ()
    """What the site's visits have: modules of other modalities need not travel to it. Empty where it does not say."""
    head: LedgerHead | None = None
    """Of the site's ledger, whose newest entry is this reply; None where the site keeps none."""
    spent: tuple[Spent, ...] = ()
    """What it cost in differential privacy: for the ledger, never sent."""


@dataclass(frozen=True)
class EvaluationReply:
    """A site's evaluation of the model, by combination."""

    site: str
    round: int
    model_digest: str
    sums: Mapping[str, ErrorSums]
    head: LedgerHead | None = None
    """As in a training reply."""


@dataclass(frozen=True)
class PackedModel:
    """A model, or some modules of one, as it travels. Digests are of the bytes that are sent: both sides have them."""

    modules: Mapping[str, Bytes]
    digests: Mapping[str, bytes]
    """SHA-256 of every module's bytes."""

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], wire: Wire = "fp32") -> PackedModel:
        """Flat parameters by module, in the formats of their way down."""
        modules = {name: pack(values, down_format(name, wire)) for name, values in weights.items()}
        return cls(modules, module_digests(modules))

    def digest(self) -> str:
        """One digest of all modules, in hexadecimal."""
        return digest_of(self.digests)

    def unpacked(self, layout: ModuleLayout, wire: Wire = "fp32") -> dict[str, Tensor]:
        """Flat parameters of every module of the layout; zeros where a module is not here."""
        return {
            name: unpack(self.modules[name], layout.size(name), down_format(name, wire))
            if name in self.modules
            else torch.zeros(layout.size(name))
            for name in layout.modules
        }


def module_digests(modules: Mapping[str, Bytes]) -> dict[str, bytes]:
    """SHA-256 of every module's bytes."""
    return {name: hashlib.sha256(packed.data).digest() for name, packed in modules.items()}


def digest_of(digests: Mapping[str, bytes]) -> str:
    """SHA-256 over names and digests of modules, whatever their order, in hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(digests):
        sha.update(f"{name}\0".encode() + digests[name])
    return sha.hexdigest()


def content_bytes(content: RecordDict) -> int:
    """Payload of a message, bytes, without Flower's framing."""
    return sum(_bytes_of(record) for record in content.values())


def _bytes_of(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    # Flower 1.41's own count raises for an empty text or list, which anybody may send.
    if isinstance(record, ArrayRecord):
        return record.count_bytes()
    return sum(len(name) + _value_bytes(value) for name, value in record.items())


def _value_bytes(value: object) -> int:
    match value:
        case str() | bytes():
            return len(value)
        case list():
            return sum(map(_value_bytes, value))
        case _:
            return 8


def write_modules(modules: Mapping[str, Bytes]) -> ArrayRecord:
    """Packed modules, one after another in the order of their names."""
    values = [modules[name] for name in sorted(modules)]
    size = sum(map(len, values))
    # As NumPy would write their concatenation, without making it first.
    data = b"".join([_numpy_header(size, "|u1"), *(packed.data for packed in values)])
    return ArrayRecord({PACKED: Array("uint8", (size,), "numpy.ndarray", data)})


def read_modules(record: ArrayRecord, sizes: Mapping[str, int]) -> dict[str, Bytes]:
    """Packed modules of these names and sizes, bytes, not to be changed. Raises MalformedRecord."""
    if set(record) != {PACKED}:
        raise MalformedRecord("encoding")
    names = sorted(sizes)
    ends = np.cumsum([sizes[name] for name in names])
    flat = read_array(record[PACKED], int(ends[-1]) if names else 0, "|u1")
    return dict(zip(names, np.split(flat, ends[:-1]), strict=True)) if names else {}


def write_digests(digests: Mapping[str, bytes]) -> ConfigRecord:
    """SHA-256 digests of modules; as values of their own they would take longer to carry than the model's bytes."""
    names = sorted(digests)
    return ConfigRecord({"modules": " ".join(names), "sha256": b"".join(digests[name] for name in names)})


def read_digests(record: ConfigRecord) -> dict[str, bytes]:
    """Digests by module, whatever modules those are. Raises MalformedRecord."""
    names, joined = typed(record, "modules", str).split(), typed(record, "sha256", bytes)
    if len(set(names)) < len(names) or len(joined) != SHA256_BYTES * len(names):
        raise MalformedRecord("digests")
    return {name: joined[SHA256_BYTES * i :][:SHA256_BYTES] for i, name in enumerate(names)}


def write_instruction(
    instruction: Instruction,
    model: PackedModel,
    receipts: Iterable[Receipt] = (),
    travelling: Collection[str] | None = None,
) -> RecordDict:
    """The message that opens a round; receipts are for the ledgers of the sites they name.

    `travelling`: the modules that are sent; the site holds the others, or has no use for them. All, if left out.
    """
    sent = model.modules if travelling is None else {name: model.modules[name] for name in travelling}
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
    return RecordDict(
        {
            "model": write_modules(sent),
            "digests": write_digests(model.digests),
            "instruction": settings,
            "receipts": by_site,
        }
    )


def read_receipt_line(content: RecordDict, site: str) -> bytes | None:
    """The receipt for a site's ledger that came with an instruction, not verified; None without one."""
    receipts = content.get("receipts")
    line = receipts.get(site) if isinstance(receipts, ConfigRecord) else None
    return line.encode() if isinstance(line, str) else None


def read_instruction(content: RecordDict) -> Instruction:
    """What the coordinator asks. Raises MalformedRecord for anything incomplete or unknown."""
    settings = record_of(content, "instruction", ConfigRecord)
    try:
        plan = _parsed_plan(typed(settings, "plan", str))
    except ValueError:
        raise MalformedRecord("plan") from None
    match typed(settings, "part", str):
        case "validation" | "test" as part:
            return Instruction(plan, typed(settings, "round", int), typed(settings, "model-digest", str), part)
    raise MalformedRecord("part")


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
    """The model that an instruction announces, from what came with it and what the site holds of earlier ones.

    `needed`: the modules that the site has a use for, all if left out; others are here only if they came or are held.
    Raises MalformedRecord where the digests are not those of the announced model or a module that came has not its
    own, ModulesMissing where a needed module neither came nor is held.
    """
    digests = read_digests(record_of(content, "digests", ConfigRecord))
    if set(digests) != set(layout.modules):
        raise MalformedRecord("digests")
    if digest_of(digests) != instruction.model_digest:
        raise MalformedRecord("model_digest")
    names = typed(record_of(content, "instruction", ConfigRecord), "travelling", str).split()
    if not set(names) <= set(layout.modules):
        raise MalformedRecord("unknown_module")
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


def write_train_reply(reply: TrainReply, wire: Wire = "fp32") -> RecordDict:
    """A site's answer to a training instruction."""
    header = _header(reply)
    if reply.modalities:
        header["modalities"] = list(reply.modalities)
    return RecordDict(
        {
            "reply": header,
            "update": write_modules(pack_updates(reply, wire)),
            "support": MetricRecord({name: update.support for name, update in reply.updates.items()}),
            "figures": MetricRecord(dict(reply.figures.by_name())),
        }
    )


def pack_updates(reply: TrainReply, wire: Wire = "fp32") -> dict[str, Bytes]:
    """The changes of a reply as they travel, by module."""
    return {name: pack(update.weighted_delta, wire) for name, update in reply.updates.items()}


def read_train_reply(content: RecordDict, layout: ModuleLayout, wire: Wire = "fp32") -> TrainReply:
    """A site's answer, complete and of the right types and shapes; its values are for the server to judge.

    Raises MalformedRecord.
    """
    site, number, digest = _read_header(content)
    # A module is sent exactly where a support is: the supports' names say what the array holds.
    support = record_of(content, "support", MetricRecord)
    if any(name not in layout.parts for name in support):
        raise MalformedRecord("unknown_module")
    figures = record_of(content, "figures", MetricRecord)
    sizes = {name: packed_size(layout.size(name), wire) for name in support}
    updates = {
        name: ModuleUpdate(unpack(packed, layout.size(name), wire), _number(support, name, "missing_support"))
        for name, packed in read_modules(record_of(content, "update", ArrayRecord), sizes).items()
    }
    return TrainReply(
        site,
        number,
        digest,
        updates,
        TrainingFigures(**{name: _number(figures, name, missing_rule(name)) for name in FIGURES}),
        _read_modalities(content),
        read_head(content, site),
    )


def _read_modalities(content: RecordDict) -> tuple[str, ...]:
    names = record_of(content, "reply", ConfigRecord).get("modalities", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedRecord("modalities")
    return tuple(str(name) for name in names)


def write_evaluation_reply(reply: EvaluationReply) -> RecordDict:
    """A site's answer to an evaluation instruction: for each combination n and four sums."""
    sums = MetricRecord()
    for name, s in reply.sums.items():
        sums[name] = [float(value) for value in astuple(s)]
    return RecordDict({"reply": _header(reply), "sums": sums})


def read_evaluation_reply(content: RecordDict) -> EvaluationReply:
    """A site's sums, of the right types. Raises MalformedRecord."""
    sums: dict[str, ErrorSums] = {}
    for name, values in record_of(content, "sums", MetricRecord).items():
        if not isinstance(values, list) or len(values) != 5 or not float(values[0]).is_integer():
            raise MalformedRecord("sums")
        n, squared, absolute, target, target_squared = map(float, values)
        sums[name] = ErrorSums(int(n), squared, absolute, target, target_squared)
    site, number, digest = _read_header(content)
    return EvaluationReply(site, number, digest, sums, read_head(content, site))


def _header(reply: TrainReply | EvaluationReply) -> ConfigRecord:
    return ConfigRecord({"site": reply.site, "round": reply.round, "model-digest": reply.model_digest})


def write_head(content: RecordDict, head: LedgerHead) -> None:
    """Add the newest entry of the site's ledger, which is that of this very reply."""
    record_of(content, "reply", ConfigRecord)["ledger"] = f"{head.sequence} {head.digest}"


def read_head(content: RecordDict, site: str) -> LedgerHead | None:
    """The head of a site's ledger that came with its reply. Raises MalformedRecord."""
    text = record_of(content, "reply", ConfigRecord).get("ledger")
    if text is None:
        return None
    if not isinstance(text, str) or not LEDGER_HEAD.fullmatch(text):
        raise MalformedRecord("ledger_head")
    sequence, digest = text.split()
    return LedgerHead(site, int(sequence), digest)


def _read_header(content: RecordDict) -> tuple[str, int, str]:
    header = record_of(content, "reply", ConfigRecord)
    site = typed(header, "site", str)
    if not SITE_NAME.fullmatch(site):
        raise MalformedRecord("site_name")
    return site, typed(header, "round", int), typed(header, "model-digest", str)


def read_array(array: Array, size: int, kind: Literal["|u1", "<u8"]) -> np.ndarray:
    """A flat array of so many bytes or uint64 numbers, which nobody may change. Raises MalformedRecord."""
    if array.dtype != np.dtype(kind).name:
        raise MalformedRecord("dtype")
    if tuple(array.shape) != (size,):
        raise MalformedRecord("shape")
    # A parser of NumPy's format would believe the header's shape; the only header it may have is known beforehand.
    header = _numpy_header(size, kind)
    if (
        array.stype != "numpy.ndarray"
        or len(array.data) != len(header) + np.dtype(kind).itemsize * size
        or array.data[: len(header)] != header
    ):
        raise MalformedRecord("encoding")
    return np.frombuffer(array.data, kind, offset=len(header))


def _numpy_header(size: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": (size,)})
    return buffer.getvalue()


def record_of(content: RecordDict, name: str, kind: type[Value]) -> Value:
    """A record of a message, of this kind. Raises MalformedRecord."""
    record = content.get(name)
    if not isinstance(record, kind):
        raise MalformedRecord(f"missing_{name}")
    return record


def typed(record: ConfigRecord, name: str, kind: type[Value]) -> Value:
    """A value of a record, of this kind. Raises MalformedRecord."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedRecord(f"missing_{name.replace('-', '_')}")
    return value


def _number(record: MetricRecord, name: str, rule: str) -> float:
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MalformedRecord(rule)
    return float(value)
