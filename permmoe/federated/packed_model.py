"""A model as it travels: the bytes of each module, and the SHA-256 digests by which both sides know them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from permmoe.federated.federation_config import Wire
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.wire import Bytes, down_format, pack, unpack


@dataclass(frozen=True)
class PackedModel:
    """A model, or some modules of one, as it travels. Both sides have the bytes that are sent, and so their digests."""

    modules: Mapping[str, Bytes]
    digests: Mapping[str, bytes]
    """SHA-256 of every module's bytes."""

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], wire: Wire = "fp32") -> PackedModel:
        """Pack flat parameters by module, each in its format on the way down."""
        modules = {name: pack(values, down_format(name, wire)) for name, values in weights.items()}
        return cls(modules, module_digests(modules))

    def joined(self, other: PackedModel | None) -> PackedModel:
        """These modules and another model's, whose own count where both have one."""
        if other is None:
            return self
        return PackedModel({**self.modules, **other.modules}, {**self.digests, **other.digests})

    def digest(self) -> str:
        """Return one digest of all modules, in hexadecimal."""
        return digest_of(self.digests)

    def unpacked(self, layout: ModuleLayout, wire: Wire = "fp32") -> dict[str, Tensor]:
        """Return the flat parameters of every module of the layout; zeros for modules that are absent."""
        return {
            name: unpack(self.modules[name], layout.size(name), down_format(name, wire))
            if name in self.modules
            else torch.zeros(layout.size(name))
            for name in layout.modules
        }


def module_digests(modules: Mapping[str, Bytes]) -> dict[str, bytes]:
    """Return the SHA-256 of every module's bytes."""
    return {name: hashlib.sha256(packed.data).digest() for name, packed in modules.items()}


def digest_of(digests: Mapping[str, bytes]) -> str:
    """Return the SHA-256 over names and digests of modules, in hexadecimal. Their order does not matter."""
    sha = hashlib.sha256()
    for name in sorted(digests):
        sha.update(f"{name}\0".encode() + digests[name])
    return sha.hexdigest()
