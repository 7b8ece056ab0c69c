"""An honest hospital as a coordinator meets it: the client's own code, on synthetic visits, with a ledger of its own.

Beside it stands what a hospital would answer that looks at each sum by itself, as clients did before 2026-11-28: the
figures before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.data.batch import observed_masks
from permmoe.data.dataset import VisitData
from permmoe.data.visits import VisitTable
from permmoe.evaluation.combinations import ErrorSums, combination_sums
from permmoe.federated.instructions import Instruction, write_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.modality import all_combinations, combination_mask, combination_name
from permmoe.model import PerMMoE
from permmoe_client.participation.local_round import evaluate_round
from permmoe_client.participation.running_site import RunningSite, Workshop
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.outbox import send_evaluation
from permmoe_client.site import ReleasePolicy, SiteConfig

Sums = Mapping[str, ErrorSums]


@dataclass(frozen=True)
class Hospital:
    """A hospital whose validation visits are asked about."""

    plan: RoundPlan
    folder: Path
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, plan: RoundPlan, folder: Path) -> Hospital:
        """A hospital with an empty ledger in an empty folder."""
        return cls(plan, folder, ec.generate_private_key(ec.SECP384R1()))

    def answer(self, data: VisitData, number: int, model: PerMMoE) -> Sums:
        """The sums that leave when the model is to be evaluated in a round. Raises what the client refuses with."""
        layout = ModuleLayout.of(model)
        packed = PackedModel.of(layout.flatten_all(model.state_dict()))
        asked, site = Instruction(self.plan, number, packed.digest()), self._site(data)
        reply = evaluate_round(asked, write_instruction(asked, packed), site)
        send_evaluation(reply, asked, site.settings.release, site.ledger)
        return reply.sums

    def counted(self, data: VisitData) -> VisitData:
        """What of these visits counts in such sums."""
        question = f"validation of {self.plan.digest()}"
        return self._site(data).in_groups(question, data, self.plan.federation.min_cell_count)

    def _site(self, data: VisitData) -> RunningSite:
        """The hospital after a restart, with these visits."""
        settings = SiteConfig(
            name="hospital",
            manifest=self.folder / "none.csv",
            cache=self.folder,
            release=ReleasePolicy(min_cell_count=self.plan.federation.min_cell_count),
        )
        ledger = Ledger(self.folder / "ledger", settings.name, self.key)
        return RunningSite(settings, ledger, Workshop(lambda *_: data))


def sums_looked_at_singly(data: VisitData, model: PerMMoE, least: int) -> Sums:
    """What leaves where the only rule is that each sum is over `least` patients."""
    return {name: s for name, s in combination_sums(model, data).items() if s.n >= least}


def validated(data: VisitData) -> VisitData:
    """The same visits, all of them in the validation part."""
    return replace(data, visits=VisitTable(tuple(replace(visit, split="validation") for visit in data.visits)))


def patients_behind(data: VisitData, released: Sums, containing: str | None = None) -> dict[str, frozenset[str]]:
    """The patients behind each combination's sum, where these visits are summed as they are.

    `containing`: only combinations with this modality.
    """
    masks = observed_masks(data.observed).tolist()
    found: dict[str, frozenset[str]] = {}
    for combination in all_combinations(data.names):
        name, wanted = combination_name(combination), combination_mask(combination, data.names)
        if name in released and (containing is None or containing in combination):
            found[name] = frozenset(
                visit.subject_id for visit, mask in zip(data.visits, masks, strict=True) if mask & wanted == wanted
            )
    return found
