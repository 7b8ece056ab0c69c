"""A coordinator that asks sites for whatever sums it likes: the coordinator's own code, without its memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from permmoe.federated.instructions import Part
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.roster import read_roster, site_keys
from permmoe.training.seeds import make_model
from permmoe_client.app import app
from permmoe_server.protocol.federation import Federation, SignedRoster
from permmoe_server.protocol.round_records import Evaluation, FederationState, TrainingOutcome
from permmoe_server.protocol.secure_round import SecureRound
from permmoe_server.provisioning.authority import load_certificate, read_identity
from permmoe_server.studies.model_register import ModelRegister
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.secure_federation import SecureFederation


@dataclass(frozen=True)
class LyingCoordinator:
    """It reaches every site, and remembers nothing of earlier sums."""

    federation: SecureFederation
    grid: InProcessGrid

    @classmethod
    def of(cls, federation: SecureFederation) -> LyingCoordinator:
        """The coordinator of a federation."""
        nodes = [{"site-config": str(path)} for path in federation.deployment.sites.values()]
        return cls(federation, InProcessGrid(app, nodes))

    def train(self, sites: Collection[str], number: int = 1, nudge: float = 0.0) -> TrainingOutcome:
        """Let these sites alone train, from the study's initial weights moved by a little."""
        return self._round(sites).train(FederationState(number - 1, self.weights(nudge)), number)

    def evaluate(
        self, sites: Collection[str], number: int = 1, nudge: float = 0.0, part: Part = "validation"
    ) -> Evaluation:
        """Let these sites alone evaluate the study's initial weights moved by a little."""
        return self._round(sites).evaluate(FederationState(number, self.weights(nudge)), part).record

    def weights(self, nudge: float) -> Mapping[str, Tensor]:
        """Another nudge makes another model, that predicts much the same."""
        model = make_model(self.federation.plan.model, self.federation.plan.train.seed)
        flat = ModuleLayout.of(model).flatten_all(model.state_dict())
        return {module: values + nudge for module, values in flat.items()}

    def _round(self, sites: Collection[str]) -> SecureRound:
        names = {FIRST_NODE + i: name for i, name in enumerate(self.federation.names) if name in sites}
        folder = self.federation.deployment.folder
        signed, authority = folder.roster.read_bytes(), load_certificate(folder.authority)
        roster = SignedRoster(signed, site_keys(read_roster(signed, authority)))
        layout = ModuleLayout.of(make_model(self.federation.plan.model, 0))
        # What it announces is one chain of models: it lies about who takes part, and about that alone.
        plan, server = self.federation.plan, read_identity(folder.server, folder.server_key)
        register = ModelRegister(self.federation.folder / "models.jsonl", plan.digest(), server)
        federation = Federation(self.grid, directory=lambda: names, roster=lambda: roster, announcer=register.announce)
        return SecureRound(federation, plan, layout, lambda: roster)
