"""The bytes of a round's messages, as they are written for the wire."""

from __future__ import annotations

import torch

from permmoe.config import ModelConfig
from permmoe.data.dataset import ABSENT, VisitData
from permmoe.federated.federation_config import FederationConfig, Wire
from permmoe.federated.instructions import Instruction, write_instruction
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.replies import TrainReply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures

VISITS = 32


def site_bytes(scale: Scale, wire: Wire) -> Figures:
    """Return what a site with T1 and FLAIR receives and sends in a round of the default model, and the whole model.

    The site holds nothing of the new model; after an evaluation of the same weights nothing would come down. The scale
    changes nothing.
    """
    config = ModelConfig()
    data, model = _t1_and_flair(config), make_model(config, 0)
    layout = ModuleLayout.of(model)
    before = layout.flatten_all(model.state_dict())
    plan = RoundPlan(model=config, federation=FederationConfig(wire=wire))
    packed = PackedModel.of(before, wire)
    instruction = Instruction(plan, 2, packed.digest())
    down = write_instruction(instruction, packed, travelling=reachable_modules(config, config.names[:2]))
    record = train_epochs(model, data, plan.train, first_epoch=0, epochs=2, seed=0)
    support = module_support(config, record.exposure)
    updates = {
        module: ModuleUpdate.of(before[module], layout.flatten(model.state_dict(), module), support[module])
        for module in layout.modules
        if support[module] > 0
    }
    figures = TrainingFigures(visits=32.0, loss_sum=1.0, train_seconds=1.0)
    reply = TrainReply("site", 2, instruction.model_digest, updates, figures, config.names[:2])
    up = write_train_reply(reply, instruction.up_wire)
    full = 4 * sum(len(values) for values in before.values())
    return {"down": content_bytes(down), "up": content_bytes(up), "full": full}


def _t1_and_flair(config: ModelConfig) -> VisitData:
    """Visits of which all have T1 and three in four have FLAIR."""
    data = half_missing_visits(config, VISITS)
    observed = torch.zeros(VISITS, 4, dtype=torch.bool)
    observed[:, 0] = observed[: VISITS * 3 // 4, 1] = True
    rows = torch.where(observed, torch.arange(VISITS)[:, None] % 16, ABSENT)
    return VisitData(data.visits, data.names, observed, data.baseline, data.target, rows, data.inputs)


SIDES = {f"bytes_{wire}": Measurement(site_bytes, {"wire": wire}) for wire in ("fp32", "fp16", "int8")}
