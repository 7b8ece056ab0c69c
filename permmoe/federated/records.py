"""Instructions and replies as Flower records: all modules in one flat float32 array. The only Flower import in permmoe.

Flower sends, signs and stores every array by itself, at some 10 ms each: a model of 50 modules travels several times
faster in one array. Whatever is read here came from another machine: nothing in it is taken on trust.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from permmoe.evaluation import ErrorSums
from permmoe.federated.audit import Head, Receipt
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.privacy import Spent
from permmoe.federated.update import ModuleUpdate

PACKED = "modules"
"""The one array of a record of modules."""
Part = Literal["validation", "test"]
Value = TypeVar("Value")

SITE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""What a site may call itself: the name ends up in tables and file names."""


LEDGER_HEAD = re.compile(r"[0-9]{1,18} [0-9a-f]{64}")
"""A ledger's newest entry: its number and SHA-256."""


class MalformedRecord(Exception):  # noqa: N818 - a verdict on what was received, not a fault
    """A record that breaks the protocol. `rule` names the broken rule and repeats nothing that was received."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


@dataclass(frozen=True)
class Instruction:
    """What the coordinator asks of a site; the model travels beside it."""

    plan: RoundPlan
    round: int
    """From 1."""
    model_digest: str
    part: Part = "validation"
    """Which of its visits a site evaluates; training always takes the training visits."""


@dataclass(frozen=True)
class TrainReply:
    """What a site's training of one round made."""

    site: str
    round: int
    model_digest: str
    """Of the model that the site was sent and started from."""
    updates: Mapping[str, ModuleUpdate]
    """Only modules with a support above zero."""
    visits: float
    loss_sum: float
    """Training loss summed over the visits of the last local epoch, squared points."""
    train_seconds: float
    overhead_seconds: float
    """The site's time outside training: reading, checking and writing records."""
    head: Head | None = None
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
    head: Head | None = None
    """As in a training reply."""


def model_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, whatever the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        values = np.ascontiguousarray(state[name].detach().cpu().numpy())
        sha.update(f"{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        sha.update(values.data)
    return sha.hexdigest()


def content_bytes(content: RecordDict) -> int:
    """Payload of a message, bytes, without Flower's framing."""
    return sum(record.count_bytes() for record in content.values())


def write_modules(modules: Mapping[str, Tensor]) -> ArrayRecord:
    """Flat modules, one after another in the order of their names."""
    values = [modules[name] for name in sorted(modules)]
    return ArrayRecord({PACKED: Array(torch.cat(values).numpy() if values else np.zeros(0, "f4"))})


def read_modules(record: ArrayRecord, names: Collection[str], layout: ModuleLayout) -> dict[str, Tensor]:
    """The flat modules of these names. Raises MalformedRecord: unknown_module, dtype, shape, encoding."""
    if any(name not in layout.parts for name in names):
        raise MalformedRecord("unknown_module")
    if set(record) != {PACKED}:
        raise MalformedRecord("encoding")
    sizes = {name: layout.size(name) for name in sorted(names)}
    flat = torch.from_numpy(read_array(record[PACKED], sum(sizes.values()), "<f4"))
    return dict(zip(sizes, torch.split(flat, list(sizes.values())), strict=True))


def write_instruction(instruction: Instruction, model: ArrayRecord, receipts: Iterable[Receipt] = ()) -> RecordDict:
    """The message that opens a round, the same for every site; receipts are for the ledgers of the sites they name."""
    settings = ConfigRecord(
        {
            "plan": instruction.plan.canonical_json(),
            "round": instruction.round,
            "model-digest": instruction.model_digest,
            "part": instruction.part,
        }
    )
    by_site = ConfigRecord({receipt.head.site: receipt.line().decode() for receipt in receipts})
    return RecordDict({"model": model, "instruction": settings, "receipts": by_site})


def read_receipt_line(content: RecordDict, site: str) -> bytes | None:
    """The receipt for a site's ledger that came with an instruction, not verified; None without one."""
    receipts = content.get("receipts")
    line = receipts.get(site) if isinstance(receipts, ConfigRecord) else None
    return line.encode() if isinstance(line, str) else None


def read_instruction(content: RecordDict) -> Instruction:
    """What the coordinator asks. Raises MalformedRecord for anything incomplete or unknown."""
    settings = record_of(content, "instruction", ConfigRecord)
    try:
        plan = RoundPlan.model_validate_json(typed(settings, "plan", str))
    except ValueError:
        raise MalformedRecord("plan") from None
    match typed(settings, "part", str):
        case "validation" | "test" as part:
            return Instruction(plan, typed(settings, "round", int), typed(settings, "model-digest", str), part)
    raise MalformedRecord("part")


def read_model(content: RecordDict, instruction: Instruction, layout: ModuleLayout) -> dict[str, Tensor]:
    """The flat modules that came with an instruction.

    Raises MalformedRecord unless they are complete and have the digest that the instruction names.
    """
    modules = read_modules(record_of(content, "model", ArrayRecord), layout.modules, layout)
    if model_digest(modules) != instruction.model_digest:
        raise MalformedRecord("model_digest")
    return modules


def write_train_reply(reply: TrainReply) -> RecordDict:
    """A site's answer to a training instruction."""
    figures = {name: getattr(reply, name) for name in ("visits", "loss_sum", "train_seconds", "overhead_seconds")}
    return RecordDict(
        {
            "reply": _header(reply),
            "update": write_modules({name: update.weighted_delta for name, update in reply.updates.items()}),
            "support": MetricRecord({name: update.support for name, update in reply.updates.items()}),
            "figures": MetricRecord(figures),
        }
    )


def read_train_reply(content: RecordDict, layout: ModuleLayout) -> TrainReply:
    """A site's answer, complete and of the right types and shapes; its values are for the server to judge.

    Raises MalformedRecord.
    """
    site, number, digest = _read_header(content)
    # A module is sent exactly where a support is: the supports' names say what the array holds.
    support = record_of(content, "support", MetricRecord)
    figures = record_of(content, "figures", MetricRecord)
    deltas = read_modules(record_of(content, "update", ArrayRecord), tuple(support), layout)
    updates = {name: ModuleUpdate(delta, _number(support, name, "missing_support")) for name, delta in deltas.items()}
    return TrainReply(
        site,
        number,
        digest,
        updates,
        _number(figures, "visits"),
        _number(figures, "loss_sum"),
        _number(figures, "train_seconds"),
        _number(figures, "overhead_seconds"),
        read_head(content, site),
    )


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
    header = ConfigRecord({"site": reply.site, "round": reply.round, "model-digest": reply.model_digest})
    if reply.head:
        header["ledger"] = f"{reply.head.sequence} {reply.head.digest}"
    return header


def read_head(content: RecordDict, site: str) -> Head | None:
    """The head of a site's ledger that came with its reply. Raises MalformedRecord."""
    text = record_of(content, "reply", ConfigRecord).get("ledger")
    if text is None:
        return None
    if not isinstance(text, str) or not LEDGER_HEAD.fullmatch(text):
        raise MalformedRecord("ledger_head")
    sequence, digest = text.split()
    return Head(site, int(sequence), digest)


def _read_header(content: RecordDict) -> tuple[str, int, str]:
    header = record_of(content, "reply", ConfigRecord)
    site = typed(header, "site", str)
    if not SITE_NAME.fullmatch(site):
        raise MalformedRecord("site_name")
    return site, typed(header, "round", int), typed(header, "model-digest", str)


def read_array(array: Array, size: int, kind: Literal["<f4", "<u8"]) -> np.ndarray:
    """A flat array of so many float32 or uint64 numbers; a copy. Raises MalformedRecord."""
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
    return np.frombuffer(array.data, kind, offset=len(header)).copy()


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


def _number(record: MetricRecord, name: str, rule: str = "") -> float:
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MalformedRecord(rule or f"missing_{name}")
    return float(value)
