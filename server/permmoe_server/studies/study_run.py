"""A study from its first round, or from where a killed run left it, to its last; everything is kept in one folder.

last/           weights and server moments after the newest round (permmoe_server.studies.study_state)
joined/         the same before each round with a site that had not taken part (permmoe_server.studies.seen_sites)
rounds.jsonl    a record for each try at a round (permmoe_server.studies.round_line)
models.jsonl    every model that sites were sent, where the server has a key (permmoe_server.studies.model_register)
receipts.jsonl  the newest receipt for each site's ledger (permmoe_server.studies.receipt_file)
weights/        the file that the plan's encoders are brought along in, where it names one
sums.jsonl      the sites of each secure sum (permmoe_server.studies.sum_log)
model/          for `permmoe predict`: the weights of the round with the least validation error, or of the newest round
                where nothing is evaluated
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

from permmoe.calibration.calibration import CARD_KEY
from permmoe.encoder_weights import brought_encoders
from permmoe.evaluation.combinations import mean_squared_error
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.summed_scores import calibration_from
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.files import PUBLIC_MODE, append_line, write_file
from permmoe.training.seeds import make_model
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.quarantine import Quarantine
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.rounds import run_rounds
from permmoe_server.studies.receipt_file import load_receipts, save_receipts
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.round_log import RoundLog, RoundSummary
from permmoe_server.studies.seen_sites import first_rounds, keep_before_newcomers
from permmoe_server.studies.study_state import load_state, save_state, study_card
from permmoe_server.studies.sum_log import read_sums

ROUNDS_FILE = "rounds.jsonl"
WEIGHTS_FOLDER = "weights"


def run_study(federation: Federation, plan: RoundPlan, out: Path) -> None:
    """Run a study to its end; started again on the same folder it goes on.

    Raises ConfigurationError for a folder of another plan, NoQuorum where too few sites answer.
    """
    layout = ModuleLayout.of(PerMMoE(plan.model))
    rounds = out / ROUNDS_FILE
    federation = as_left(federation, out)
    state = load_state(out, plan, layout) or first_state(plan, out)
    state = replace(state, receipts=load_receipts(out))
    _forget_later_rounds(rounds, state.round)
    best_mse = _best_so_far(out, state.round)
    seen = {*first_rounds(RoundLog(rounds).read())}
    for state, record in run_rounds(federation, plan, layout, state):  # noqa: B020
        save_receipts(out, state.receipts)
        # The record before the checkpoint: a round whose checkpoint was not written is forgotten and run again.
        append_line(rounds, record_json(record).encode(), mode=PUBLIC_MODE)
        if not record.is_aggregated:
            if record.is_used_up:
                # A study that goes on from here must not ask sites for this number again.
                save_state(out, plan, layout, state)
            continue
        took_part = {site.site for site in record.sites if site.rejected is None}
        keep_before_newcomers(out, record.round, took_part, seen)
        seen |= took_part
        mse = mean_squared_error(record.validation.sums) if record.validation else nan
        # NaN, where nothing was evaluated, compares as not worse: the newest round is kept.
        if plan.train.keep == "last" or not mse >= best_mse:
            best_mse = mse
            card = {
                **study_card(plan, state),
                "validation_mse": None if isnan(mse) else mse,
                **_calibration(plan, record),
            }
            save_checkpoint(out / "model", layout.unflatten(state.evaluated_weights), card)
        # Last of all: a round counts as done when everything of it is on disk.
        save_state(out, plan, layout, state)


def first_state(plan: RoundPlan, out: Path) -> FederationState:
    """The state that a study in this folder begins with. Raises ConfigurationError for a weights file that the plan
    names and the folder does not hold, or holds otherwise."""
    model = make_model(plan.model, plan.train.seed, brought_encoders(plan.model, out / WEIGHTS_FOLDER))
    return FederationState(0, ModuleLayout.of(model).flatten_all(model.state_dict()))


def _calibration(plan: RoundPlan, record: RoundRecord) -> dict[str, Any]:
    """What the card says of the model's intervals; nothing where its round had no scores, or too few."""
    scores = record.validation.scores if record.validation else None
    found = calibration_from(scores, plan) if scores else None
    return {CARD_KEY: found.model_dump(mode="json")} if found else {}


def as_left(federation: Federation, out: Path) -> Federation:
    """The federation with what a study's folder remembers: its secure sums, and who sent malformed replies."""
    quarantine = quarantine_of(RoundLog(out / ROUNDS_FILE).read())
    return replace(federation, sums=read_sums(out), quarantine=quarantine)


def quarantine_of(records: Iterable[RoundSummary]) -> Quarantine:
    """The malformed replies of a study so far, as its record of rounds has them."""
    quarantine = Quarantine()
    for record in records:
        for rejection in record.rejections:
            quarantine.note(rejection.sender, rejection.rule)
    return quarantine


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the study's folder: the process of a run that was given up may still be at its last round."""
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _best_so_far(out: Path, done: int) -> float:
    """Return the validation error of the kept model; infinite where none is kept or its round is forgotten."""
    if not has_checkpoint(out / "model"):
        return inf
    _, card = load_checkpoint(out / "model")
    return inf if card["round"] > done or card["validation_mse"] is None else float(card["validation_mse"])


def _forget_later_rounds(rounds: Path, done: int) -> None:
    """Drop records of rounds whose checkpoint was not written, and a line that a kill cut short."""
    lines = rounds.read_bytes().splitlines(keepends=True) if rounds.exists() else []
    kept = [line for line in lines if line.endswith(b"\n") and _happened(json.loads(line), done)]
    if kept != lines:
        write_file(rounds, b"".join(kept), mode=PUBLIC_MODE)


def _happened(record: Mapping[str, Any], done: int) -> bool:
    """Return whether a round is done; a try that changed nothing stays in the record whatever followed it."""
    return record["round"] <= done or not record["is_aggregated"]
