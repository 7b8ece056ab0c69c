"""Messages as they arrive at the other side of the wire, and the tiny model that travels in them."""

from __future__ import annotations

from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from tests.support.tiny_federation import MODEL

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
WEIGHTS = LAYOUT.flatten_all(make_model(MODEL, seed=5).state_dict())
PACKED_MODEL = PackedModel.of(WEIGHTS)


def on_the_wire(content: RecordDict) -> RecordDict:
    """Return the content after Flower has taken it apart and put it together again."""
    objects = {key: thing.deflate() for key, thing in get_all_nested_objects(content).items()}
    inflated = inflate_object_from_contents(content.object_id, objects)
    assert isinstance(inflated, RecordDict)
    return inflated
