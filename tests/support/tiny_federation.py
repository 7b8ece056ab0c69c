"""A federation small enough for tests: three tabular modalities with 3, 5 and 7 synthetic columns, and three sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from permmoe.config import ModelConfig, TrainConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.modality import Modality

MODALITIES = tuple(
    Modality(name=name, kind="tabular", columns=tuple(f"{name}_{i}" for i in range(n)))
    for name, n in (("clinical", 3), ("fluid", 5), ("gene", 7))
)
MODEL = ModelConfig(
    modalities=MODALITIES, tokens=3, width=10, heads=2, experts=5, top_k=2, expert_hidden=7, head_hidden=11,
    encoder={"tabular_width": 13},
)  # fmt: skip
SECURE_SITES = {"east": ("clinical", "fluid", "gene"), "mid": ("clinical", "fluid")}
"""Two more, for secure sums: a module that too few sites hold is not released."""
SITES = {"north": ("clinical", "fluid", "gene"), "south": ("clinical",), "west": ("clinical", "gene")}


def tiny_plan(**federation: object) -> RoundPlan:
    """Two local epochs a round from the first, no deadline to speak of, small cells allowed."""
    settings = {
        "rounds": 3,
        "local_epochs": 2,
        "centring_round": False,
        "min_cell_count": 1,
        "round_deadline_seconds": 600.0,
        **federation,
    }
    train = TrainConfig(batch_size=8, modality_dropout=0.3, warmup_epochs=1, seed=17)
    return RoundPlan(model=MODEL, train=train, federation=FederationConfig.model_validate(settings))


def write_site(folder: Path, name: str, *, visits: int = 23, **settings: object) -> Path:
    """A synthetic site's manifest and its configuration file, whose path is returned."""
    rng = np.random.default_rng(list(name.encode()))
    columns = [column for modality in MODALITIES for column in modality.columns]
    header = ["subject_id", "site", "session", "baseline_cdrsb", "delta_cdrsb", "horizon_months", *columns]
    lines = [",".join(header)]
    for i in range(visits):
        values = [
            f"{rng.normal():.3f}"
            if modality.name in (SITES | SECURE_SITES)[name] and (modality.name == "clinical" or i % 3)
            else ""
            for modality in MODALITIES
            for _ in modality.columns
        ]
        scores = [f"{rng.uniform(0.5, 4):.2f}", f"{rng.uniform(0, 3):.2f}", "24"]
        lines.append(",".join([f"{name}-{i}", name, "bl", *scores, *values]))
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    config = {"name": name, "manifest": f"{name}.csv", "cache": f"cache-{name}", "release": {"min_cell_count": 1}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | settings))
    return path


def approve(path: Path, plan: RoundPlan) -> Path:
    """Let the site of this file train a study."""
    site = yaml.safe_load(path.read_text())
    site["approved_studies"] = sorted({*site.get("approved_studies", []), plan.digest()})
    path.write_text(yaml.safe_dump(site))
    return path


def node_configs(folder: Path) -> list[dict[str, str]]:
    """All three sites on disk, as Flower's nodes are told of them; they approved the study in `plan.json`."""
    plan = RoundPlan.model_validate_json((folder / "plan.json").read_text())
    return [{"site-config": str(approve(write_site(folder, name), plan))} for name in SITES]
