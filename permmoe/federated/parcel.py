"""A message's objects in parcels: as few objects, and so as few requests, as its size allows.

Flower carries a message as a tree of objects, each named by the SHA-256 of its bytes: the message itself, its content,
every record, every array and every chunk of an array. Each is a request on both ways and a row in the superlink's
database. Here all objects of a content follow one another in parcels of some megabytes. A superlink stores a parcel as
it stores any object, and one that many messages share once. Who receives them names each object anew by its bytes, so
that the message's own name, the SHA-256 that leads to all others, still stands for every bit.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_type_from_object_content,
)

PARCEL_BYTES = 4 << 20
"""A parcel is closed once it holds so much; an object of Flower has 5 MiB at most."""
LENGTH_BYTES = 8
"""What stands before each part: its length, big-endian."""
MOST_PARTS = 100_000
"""Of a body, unless its reader knows better."""


def joined(parts: Iterable[bytes]) -> bytes:
    """Return the parts one after another, each behind its length."""
    return b"".join(piece for part in parts for piece in (len(part).to_bytes(LENGTH_BYTES, "big"), part))


class TooManyParts(ValueError):
    """A body has more parts than an honest one."""


def separated(data: bytes | memoryview, most: int = MOST_PARTS) -> list[bytes]:
    """Return the parts that `joined` was given. Raises ValueError where the lengths do not add up, and TooManyParts for
    more than `most`."""
    view, parts, start = memoryview(data), list[bytes](), 0
    while start < len(view):
        if len(parts) == most:
            raise TooManyParts("a body has too many parts")
        length = int.from_bytes(view[start : start + LENGTH_BYTES], "big")
        start, end = start + LENGTH_BYTES, start + LENGTH_BYTES + length
        if end > len(view):
            raise ValueError("a part is shorter than it says")
        parts.append(bytes(view[start:end]))
        start = end
    return parts


Parcels = Mapping[str, bytes]
"""By name; each is one of Flower's array chunks, which nobody parses."""


def pack(content: RecordDict, shared: Mapping[int, Parcels] | None = None, beside: Iterable[bytes] = ()) -> Parcels:
    """Return the parcels of a content. `shared`: those of records that have parcels of their own, by `id(record)`;
    `beside`: what travels in its parcels without being a part of it."""
    shared = shared or {}
    own = [record for record in content.values() if id(record) not in shared]
    others = [shared[id(record)] for record in content.values() if id(record) in shared]
    objects = {name: thing for record in own for name, thing in get_all_nested_objects(record).items()}
    parcels = in_parcels([*(thing.deflate() for thing in objects.values()), content.deflate(), *beside])
    return {name: parcel for found in (*others, parcels) for name, parcel in found.items()}


def shared_parcels(contents: Iterable[RecordDict]) -> dict[int, Parcels]:
    """Return the parcels of each record that is in several contents, by `id(record)`: they are written, and stored,
    once."""
    records = [record for content in contents for record in content.values()]
    counts = Counter(map(id, records))
    return {
        id(record): in_parcels(thing.deflate() for thing in get_all_nested_objects(record).values())
        for record in {id(record): record for record in records if counts[id(record)] > 1}.values()
    }


def in_parcels(objects: Iterable[bytes]) -> Parcels:
    """Return the parcels of objects, which lie in them one after another."""
    parcels = (ArrayChunk(memoryview(joined(parts))).deflate() for parts in in_bodies(objects))
    return {object_name(parcel): parcel for parcel in parcels}


def unpack(parcels: Iterable[bytes], most: int) -> dict[str, bytes]:
    """Return the objects that lie in parcels, by name. Raises ValueError for what is no parcel, and TooManyParts for
    more than `most` objects."""
    found: dict[str, bytes] = {}
    for parcel in parcels:
        parts = separated(_body(parcel), most - len(found))
        found |= {object_name(thing): thing for thing in parts}
    return found


def _body(parcel: bytes) -> memoryview:
    """What a parcel holds, without a copy of it. Raises ValueError for another kind of object."""
    if get_object_type_from_object_content(parcel) != ArrayChunk.__name__:
        raise ValueError("an object that should be a parcel is none")
    return memoryview(parcel)[parcel.index(HEAD_BODY_DIVIDER) + len(HEAD_BODY_DIVIDER) :]


def in_bodies(parts: Iterable[bytes], most: int = PARCEL_BYTES) -> Iterator[list[bytes]]:
    """Yield the parts in groups, each closed once it has `most` bytes."""
    group, size = list[bytes](), 0
    for part in parts:
        group.append(part)
        size += len(part)
        if size >= most:
            yield group
            group, size = [], 0
    if group:
        yield group


def object_name(content: bytes) -> str:
    """Return what Flower calls an object of these bytes."""
    return hashlib.sha256(content).hexdigest()
