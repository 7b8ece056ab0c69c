"""Replies that are no replies: honest ones, changed at every level of what Flower carries, by a member before it signs
them, or by a superlink that carries them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from flwr.app import Error, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_body

from permmoe.federated.parcel import joined, object_name, separated
from permmoe.federated.reply_signature import is_signature, sign_reply
from tests.support.replying_superlink import Sent, flat, sent, site_key

KINDS = ["Message", "RecordDict", "ArrayRecord", "MetricRecord", "ConfigRecord", "Array", "ArrayChunk", "object", ""]
WORDS = ["", "not_a_message", "os.system", "Ünïcode", "\u202eevil", "a" * 70, "../../x", "\0", "no_reply", "KeyError"]
VALUES: list[Any] = [
    float("nan"), float("inf"), -1, 0, 2**62, -(2**63), 1e300, True, "", "x" * 1000, b"", b"\0" * 33,
    [], [1.0], [float("nan")] * 5, [1.0] * 5, ["a"], [b"a"], [True],
]  # fmt: skip


INDICES: list[object] = [7, "0", [0.5], [-1], [10**30], None, [[0]]]


def mutated(rng: random.Random, content: RecordDict, node: int, reply_to: str) -> Sent:
    """A reply that began as this content, changed once or more."""
    if rng.random() < 0.05:
        return sent(node, reply_to, Error(rng.choice([0, 1, 7, 2**31 - 1, -5]), rng.choice(WORDS)))
    if rng.random() < 0.1:
        where = {"src_node_id": rng.randrange(2**63), "reply_to_message_id": rng.choice(["", "f" * 64, reply_to[::-1]])}
        name = rng.choice(list(where))
        return sent(node, reply_to, content, **{name: where[name]})
    if rng.random() < 0.35:
        content = _with_other_values(rng, content)
    reply = sent(node, reply_to, content)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 5])):
        # A change may find nothing left to change.
        with suppress(ValueError, IndexError, KeyError, TypeError, RecursionError):
            reply = rng.choice(CHANGES)(rng, reply)
    return reply


def _with_other_values(rng: random.Random, content: RecordDict) -> RecordDict:
    """Records of the right kinds, with values of any kind that Flower carries."""
    records: dict[str, Any] = dict(content.items())
    name = rng.choice(list(records))
    if rng.random() < 0.15:
        del records[name]
    elif rng.random() < 0.15:
        records[rng.choice([name.upper(), "", "x" * 5000])] = records.pop(name)
    elif rng.random() < 0.15:
        records[name] = records[rng.choice(list(records))]
    else:
        record = records[name].copy()
        keys = [*record, "", "unheard-of", "x" * 200]
        for key in rng.sample(keys, min(len(keys), rng.randint(1, 3))):
            try:
                record[key] = rng.choice(VALUES)
            except (TypeError, ValueError):
                record.pop(key, None)
        records[name] = record
    return RecordDict(records)


def edited(reply: Sent, name: str, content: bytes, *, is_named_anew: bool) -> Sent:
    """The reply with other bytes in one object; named anew, every name fits its bytes again."""
    objects = {**reply.objects, name: content}
    if not is_named_anew:
        return replace(reply, objects=objects)
    # Children stand before their parents: a name that changes changes the parents' bytes, and so their names.
    order = list(objects)
    for i, old in enumerate(order):
        new = Sent(0, "", old, ObjectTree(), {}).renamed({old: objects[old]}).root
        for later in order[i + 1 :]:
            objects[later] = objects[later].replace(old.encode(), new.encode())
        order[i] = new
        objects = {new if key == old else key: value for key, value in objects.items()}
    return replace(reply, objects=objects, root=order[-1], tree=flat(order[-1], objects))


def _bytes(rng: random.Random, reply: Sent) -> Sent:
    name = rng.choice(list(reply.objects))
    content = bytearray(reply.objects[name])
    for _ in range(rng.choice([1, 1, 3, 40])):
        at = rng.randrange(len(content) + 1) if rng.random() < 0.5 else rng.randrange(min(len(content), 120) + 1)
        match rng.randrange(3):
            case 0:
                content[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                content[at:at] = rng.randbytes(rng.choice([1, 8, 300]))
            case _:
                del content[at : at + rng.choice([1, 8, 300])]
    return edited(reply, name, bytes(content), is_named_anew=rng.random() < 0.7)


def _kind(rng: random.Random, reply: Sent) -> Sent:
    name = rng.choice(list(reply.objects))
    _, space, rest = reply.objects[name].partition(b" ")
    return edited(reply, name, rng.choice(KINDS).encode() + space + rest, is_named_anew=rng.random() < 0.8)


def _dropped(rng: random.Random, reply: Sent) -> Sent:
    objects = dict(reply.objects)
    del objects[rng.choice(list(objects))]
    return replace(reply, objects=objects, tree=flat(reply.root, objects) if rng.random() < 0.8 else reply.tree)


def _swapped(rng: random.Random, reply: Sent) -> Sent:
    one, other = rng.choice(list(reply.objects)), rng.choice(list(reply.objects))
    objects = {**reply.objects, one: reply.objects[other], other: reply.objects[one]}
    return replace(reply, objects=objects)


def _body(rng: random.Random, reply: Sent) -> Sent:
    name = rng.choice(list(reply.objects))
    head = reply.objects[name].partition(b"\0")[0].split(b" ")
    body = rng.choice([
        b"", b"{}", b"null", b"[" * 100_000, b'{"a":' * 2000, json.dumps({"a": "b" * 64}).encode(), rng.randbytes(200),
        b"\x0a" * 500, json.dumps({"arraychunk_ids": rng.choice(INDICES)}).encode(),
        json.dumps({"dtype": [], "shape": "x", "stype": 0, "arraychunk_ids": []}).encode(),
    ])  # fmt: skip
    length = rng.choice([str(len(body)).encode(), b"-1", b"9" * 5000, b"", b"x"])
    if rng.random() < 0.7:
        length = str(len(body)).encode()
    return edited(reply, name, b" ".join([*head[:2], length]) + b"\0" + body, is_named_anew=rng.random() < 0.9)


def _children(rng: random.Random, reply: Sent) -> Sent:
    name = rng.choice(list(reply.objects))
    head, _, body = reply.objects[name].partition(b"\0")
    kind, _, length = [*head.split(b" "), b"", b""][:3]
    names = [rng.choice([*reply.objects, "f" * 64, "zz"]) for _ in range(rng.choice([0, 1, 2, 300]))]
    content = b" ".join([kind, ",".join(names).encode(), length]) + b"\0" + body
    return edited(reply, name, content, is_named_anew=rng.random() < 0.5)


def _repeated(rng: random.Random, reply: Sent) -> Sent:
    arrays = [name for name, content in reply.objects.items() if content.startswith(b"Array ")]
    return repeated(reply, rng.choice([2, 10, 1000, 100_000])) if arrays else _bytes(rng, reply)


def repeated(reply: Sent, times: int) -> Sent:
    """The reply, whose array names its first chunk so many times."""
    [name] = [name for name, content in reply.objects.items() if content.startswith(b"Array ")]
    head, _, body = reply.objects[name].partition(b"\0")
    said = {**json.loads(body), "arraychunk_ids": [0] * times}
    text = json.dumps(said).encode()
    kind, children, _ = head.split(b" ")
    content = b" ".join([kind, children, str(len(text)).encode()]) + b"\0" + text
    return edited(reply, name, content, is_named_anew=True)


def _tree(rng: random.Random, reply: Sent) -> Sent:
    strange = [
        ObjectTree(),
        ObjectTree(object_id=reply.root),
        WIDE,
        DEEP,
        ObjectTree(object_id="x", children=[reply.tree]),
    ]
    return replace(reply, tree=rng.choice(strange))


def _deep(levels: int) -> ObjectTree:
    tree = ObjectTree(object_id="f" * 64)
    for _ in range(levels):
        tree = ObjectTree(object_id="e" * 64, children=[tree])
    return tree


WIDE, DEEP = flat("0" * 64, [f"{i:064x}" for i in range(20_000)]), _deep(90)

CHANGES: list[Callable[[random.Random, Sent], Sent]] = [
    _bytes, _bytes, _kind, _dropped, _swapped, _body, _children, _repeated, _tree,
]  # fmt: skip

Carrier = Callable[[random.Random, Sent], Sent]
"""What a superlink makes of a reply that its site has signed and packed."""


def _of_other_parts(change: Callable[[random.Random, list[bytes]], list[bytes]]) -> Carrier:
    """The reply with other objects in its parcel."""

    def carrier(rng: random.Random, carried: Sent) -> Sent:
        [(name, parcel)] = [(n, content) for n, content in carried.objects.items() if n != carried.root]
        parts = change(rng, separated(get_object_body(parcel, ArrayChunk)))
        written = ArrayChunk(memoryview(joined(parts))).deflate()
        objects = {object_name(written) if n == name else n: c for n, c in {**carried.objects, name: written}.items()}
        return replace(carried, objects=objects, tree=flat(carried.root, objects))

    return carrier


def _without(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    return rng.sample(parts, len(parts) - 1)


def _without_signature(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    return [part for part in parts if not is_signature(part)]


def _with_anothers_signature(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    return [*_without_signature(rng, parts), sign_reply("0" * 64, site_key(rng.choice([11, 12, 99])))]


def _with_more(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    kind = rng.choice([b"", b"ArrayChunk ", b"Message "])
    return [*parts, *(kind + rng.randbytes(9) for _ in range(rng.choice([1, 3, 5000])))]


CARRIERS: list[Carrier] = [
    *map(_of_other_parts, (_without, _without_signature, _with_anothers_signature, _with_more)),
    _bytes, _kind, _dropped, _swapped, _body, _children, _tree,
]  # fmt: skip
