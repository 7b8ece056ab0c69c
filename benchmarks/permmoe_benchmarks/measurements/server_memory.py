"""The memory of a process that serves many sites, which send updates of full size."""

from __future__ import annotations

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.config import read_config
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.instructions import read_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.runtime.process_memory import peak_memory_mb
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.round_records import FederationState
from permmoe_server.protocol.rounds import run_rounds
from permmoe_simulation.engines.grid import InProcessGrid
from permmoe_simulation.federation_demo import STUDY


def server_memory(scale: Scale, sites: int) -> Figures:
    """Return the peak memory, MB, of this process in two rounds with as many sites, which change every module by 0.

    The nodes' own state, which the server does not hold in the field, is included. The scale changes nothing.
    """
    demo = read_config(STUDY, RoundPlan)
    plan = demo.model_copy(update={"federation": FederationConfig(rounds=2, evaluate_every=0, centring_round=False)})
    layout = ModuleLayout.of(PerMMoE(plan.model))
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        instruction = read_instruction(message.content)
        updates = {name: ModuleUpdate(torch.zeros(layout.size(name)), 1.0) for name in layout.modules}
        figures = TrainingFigures(visits=1.0, loss_sum=1.0)
        reply = TrainReply(f"site{context.node_id}", instruction.round, instruction.model_digest, updates, figures)
        return Message(write_train_reply(reply), reply_to=message)

    state = FederationState(0, layout.flatten_all(PerMMoE(plan.model).state_dict()))
    for _, record in run_rounds(Federation(InProcessGrid(app, [{}] * sites)), plan, layout, state):
        assert len([site for site in record.sites if site.rejected is None]) == sites
    return {"mb": round(peak_memory_mb())}


SIDES = {
    "memory_20": Measurement(server_memory, {"sites": 20}, is_fresh=True),
    "memory_500": Measurement(server_memory, {"sites": 500}, is_fresh=True),
}
