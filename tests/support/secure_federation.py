"""A synthetic federation with keys, roster and ledgers in one process, for tests of secure studies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid, run_in_process
from permmoe_simulation.engines.local_deployment import Deployment, deploy
from tests.support.tiny_federation import write_site


@dataclass(frozen=True)
class SecureFederation:
    """Where it lies."""

    folder: Path
    plan: RoundPlan
    deployment: Deployment

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.deployment.sites)

    def run(
        self,
        app: ClientApp = client_app,
        *,
        server: ServerApp = server_app,
        make_grid: Callable[..., InProcessGrid] = InProcessGrid,
    ) -> list[dict[str, Any]]:
        """Run the study; the records of its rounds."""
        nodes = [{"site-config": str(path)} for path in self.deployment.sites.values()]
        (self.folder / "plan.json").write_text(self.plan.canonical_json())
        (self.folder / "sites.json").write_text(
            json.dumps({str(FIRST_NODE + i): name for i, name in enumerate(self.names)})
        )
        federation = self.deployment.folder
        run_in_process(
            server,
            app,
            nodes,
            {
                "plan": str(self.folder / "plan.json"),
                "out": str(self.out),
                "sites": str(self.folder / "sites.json"),
                "roster": str(federation.roster),
                "authority": str(federation.authority),
                "server-key": str(federation.server_key),
                "server-certificate": str(federation.server),
            },
            make_grid=make_grid,
        )
        return [json.loads(line) for line in (self.out / "rounds.jsonl").read_text().splitlines()]

    def weights(self) -> Mapping[str, Any]:
        """The newest, as a state dict."""
        kept, _ = load_checkpoint(self.out / "last")
        return {name.removeprefix("weights:"): t for name, t in kept.items() if name.startswith("weights:")}


def found(
    folder: Path, plan: RoundPlan, names: Sequence[str], *, visits: int = 23, **settings: Any
) -> SecureFederation:
    """Sites of these names (of tiny_federation.SITES) that approved the study; `settings` go into each site.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    own: dict[str, dict[str, Any]] = {}
    for name in names:
        written = yaml.safe_load(write_site(folder, name, visits=visits).read_text())
        written |= {"manifest": str(folder / written["manifest"]), "cache": str(folder / written["cache"])}
        own[name] = {**written, "threads": 1, "device": "cpu", "approved_studies": [plan.digest()], **settings}
    return SecureFederation(folder, plan, deploy(folder, "Tiny", own))
