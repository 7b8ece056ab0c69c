"""A synthetic federation in one process whose hospitals, or their patients, withdraw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permmoe.federated.audit import Entry
from permmoe.federated.plan import RoundPlan
from permmoe_client.app import SITES
from permmoe_client.app import app as client_app
from permmoe_client.connection.identity import open_ledger
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.withdrawals import WithdrawalList
from permmoe_client.site import read_site
from permmoe_server.app import app as server_app
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.study_folder import Study, keep_study, study_of
from permmoe_simulation.engines.grid import FIRST_NODE, run_in_process
from tests.support.secure_federation import found
from tests.support.tiny_federation import approve, write_site


@dataclass
class ForgettingFederation:
    """Its studies lie where a coordinator keeps them."""

    folder: Path
    sites: Mapping[str, Path]
    deployment: FederationFolder
    joins: Mapping[str, int] = field(default_factory=dict)
    """Site -> the first round that it is there in."""

    @classmethod
    def of(cls, folder: Path, names: tuple[str, ...], plan: RoundPlan, visits: int = 41) -> ForgettingFederation:
        """Hospitals of these names that approved the study."""
        federation = found(folder, plan, names)
        for name in names:
            write_site(folder, name, visits=visits)
        made = cls(folder, federation.deployment.sites, federation.deployment.folder)
        keep_study(made.deployment, study_of(made.deployment, plan))
        return made

    def study(self, plan: RoundPlan) -> Study:
        return study_of(self.deployment, plan)

    def ledger(self, site: str) -> Ledger:
        ledger = open_ledger(read_site(self.sites[site]))
        assert ledger
        return ledger

    def entries(self, site: str, kind: str) -> list[Entry]:
        return [entry for entry in self.ledger(site).entries() if entry.kind == kind]

    def withdraw(self, site: str, *subjects: str) -> str:
        """Patients withdraw, or without any the hospital; the digest of the entry."""
        head = WithdrawalList(self.ledger(site)).add(subjects, is_whole_site=not subjects).head
        assert head
        return head.digest

    def run(self, plan: RoundPlan, *, is_approved: bool = True) -> list[dict[str, Any]]:
        """Run a study; the records of its rounds."""
        if is_approved:
            for path in self.sites.values():
                approve(path, plan)
        SITES.forget()
        study, federation = self.study(plan), self.deployment
        nodes = {name: FIRST_NODE + i for i, name in enumerate(self.sites)}
        (self.folder / "sites.json").write_text(json.dumps({str(node): name for name, node in nodes.items()}))
        keep_study(federation, study)
        run_in_process(
            server_app,
            client_app,
            [{"site-config": str(path)} for path in self.sites.values()],
            {
                "plan": str(study.plan_file),
                "out": str(study.folder),
                "sites": str(self.folder / "sites.json"),
                "roster": str(federation.roster),
                "authority": str(federation.authority),
                "server-key": str(federation.server_key),
                "server-certificate": str(federation.server),
            },
            attendance={nodes[name]: (first, 10**6) for name, first in self.joins.items()},
        )
        return [json.loads(line) for line in study.rounds.read_text().splitlines()]


def without_rows(federation: ForgettingFederation, site: str, subjects: set[str], parts: Mapping[str, str]) -> None:
    """A hospital's manifest as if it had never had these patients, the others in the parts that they had."""
    manifest = read_site(federation.sites[site]).manifest
    assert manifest
    header, *rows = manifest.read_text().splitlines()
    kept = [f"{row},{parts[row.split(',')[0]]}" for row in rows if row.split(",")[0] not in subjects]
    manifest.write_text("\n".join([f"{header},split", *kept]) + "\n")
