"""What the checks against a lying coordinator cost a hospital, beside the training of a round.

`python benchmarks/measure.py release_checks:checks_of_a_round '{"patients": 10000, "rounds": 1000}'`
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.config import ModelConfig, TrainConfig
from permmoe.data.batch import observed_masks
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.instructions import Instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.plausibility import check_model
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits
from permmoe_benchmarks.library.timing import Figures, median_seconds
from permmoe_client.participation.query_order import check_query
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.patient_account import PatientAccount

LEAST = 5
TRAINED_SHARE = 0.6
"""Of a hospital's patients; the others validate and test."""
MOST_TRAINED = 2_000
"""The training of more visits is extrapolated."""


def checks_of_a_round(patients: int, rounds: int) -> Figures:
    """Return the seconds that each check takes in the last of so many rounds, and the bytes of the account.

    A round trains the default model for two epochs on the hospital's training visits. `share` is that of all checks in
    the training alone, so its share of a whole round is smaller.
    """
    plan = RoundPlan(model=ModelConfig(), train=TrainConfig(), federation=FederationConfig(rounds=rounds))
    model = make_model(plan.model, 0)
    layout = ModuleLayout.of(model)
    weights = layout.flatten_all(model.state_dict())
    trained = int(TRAINED_SHARE * patients)
    data = half_missing_visits(plan.model, min(trained, MOST_TRAINED))
    masks = observed_masks(data.observed).tolist()
    judged = {f"subject-{i}": masks[i % len(masks)] for i in range((patients - trained) // 2)}
    with TemporaryDirectory() as name:
        folder = Path(name)
        ledger = Ledger(folder, "hospital", ec.generate_private_key(ec.SECP384R1()))
        # Before the rounds, so that it has to be looked for behind them all.
        PatientAccount(ledger).groups("validation", judged, LEAST)
        facts = {
            "study": plan.digest(),
            "model_sha256": 64 * "a",
            "modules": {module: {"bytes": 4 * layout.size(module), "support": "20-49"} for module in layout.modules},
        }
        for number in range(1, rounds):
            ledger.append("training", {**facts, "round": number, "purpose": "training"})
            ledger.append("evaluation", {**facts, "round": number, "purpose": "validation"})
        instruction = Instruction(plan, rounds, 64 * "b")
        seconds = {
            "account_seconds": median_seconds(lambda: PatientAccount(ledger).groups("validation", judged, LEAST)),
            "question_seconds": median_seconds(
                lambda: check_query(instruction, "training", ledger.of_study(plan.digest()))
            ),
            "model_seconds": median_seconds(lambda: check_model(weights, weights, rounds=1, most=0.5, means={})),
        }
        account_bytes = sum(path.stat().st_size for path in folder.glob("patients-*.json"))
        ledger_bytes = ledger.path.stat().st_size
    torch.set_num_threads(1)
    started = time.perf_counter()
    train_epochs(model, data, plan.train, first_epoch=0, epochs=2, seed=0)
    training = (time.perf_counter() - started) * trained / len(data)
    # A round asks for a training and an evaluation: questions and models are checked twice, groups once.
    total = seconds["account_seconds"] + 2 * (seconds["question_seconds"] + seconds["model_seconds"])
    return {
        **seconds,
        "training_seconds": training,
        "share": total / training,
        "account_bytes": account_bytes,
        "ledger_bytes": ledger_bytes,
    }
