"""An evaluation of a finished model from its first question to its figures, which are kept and never asked for again.

evaluation.json  the figures (permmoe_server.studies.evaluation_file)
judged/          the model
models.jsonl     the signed chain, of this one model
rounds.jsonl, receipts.jsonl, sums.jsonl  as of a study that trains
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

from permmoe.calibration.calibration import CARD_KEY, Calibration
from permmoe.errors import DataError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.observed_coverage import observed_coverage
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.runtime.files import PUBLIC_MODE, append_line
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.round_records import (
    EvaluationOutcome,
    FederationState,
    RoundRecord,
    SecureFigures,
    TrainingRecord,
)
from permmoe_server.protocol.rounds import round_kind
from permmoe_server.protocol.rules import reply_reason
from permmoe_server.protocol.tries import Try, ask_until_enough
from permmoe_server.studies.evaluation_file import EVALUATION_FILE, EvaluationNumbers, judged, write_evaluation_file
from permmoe_server.studies.judged_model import judged_calibration, load_judged
from permmoe_server.studies.receipt_file import load_receipts, save_receipts
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.study_run import ROUNDS_FILE, as_left

JUDGED_FOLDER = "judged"


def run_evaluation(federation: Federation, plan: RoundPlan, out: Path) -> None:
    """Run an evaluation to its end; one that has its figures asks nobody.

    Raises NoQuorum after `max_failed_rounds` tries with too few sites, StudyLost where sites have given their input to
    a secure sum that failed: they give it once. Raises DataError where the model in `out` is another one.
    """
    if (out / EVALUATION_FILE).exists():
        return
    layout = ModuleLayout.of(PerMMoE(plan.model)).for_members(plan.members)
    first, card = _judged_state(plan, out, layout)
    # Before anybody is asked: a calibration that cannot be used is an error.
    is_asked = plan.federation.calibrate
    calibration = judged_calibration(card, plan.model, "the judged model's card") if is_asked else None
    federation = as_left(federation, out)
    kind = round_kind(federation, plan, layout)

    def ask() -> Try:
        started = federation.clock.now()
        outcome = kind.evaluate(replace(first, receipts=load_receipts(out)), "test")
        seconds = federation.clock.now() - started
        save_receipts(out, outcome.receipts)
        has_enough = len(outcome.record.sites) >= plan.federation.least_sites and not outcome.is_used_up
        if has_enough:
            # Before the record, which says that the evaluation is over.
            numbers = _numbers(plan, outcome, seconds, calibration)
            write_evaluation_file(out, numbers.model_copy(update={"has_calibration": CARD_KEY in card}))
        record = _record(plan, outcome, seconds, is_done=has_enough)
        federation.observer.on_round(replace(first, receipts=outcome.receipts), record)
        append_line(out / ROUNDS_FILE, record_json(record).encode(), mode=PUBLIC_MODE)
        return Try(outcome.sites, has_enough, outcome.is_used_up)

    ask_until_enough(federation, plan, "evaluation", ask)


def _judged_state(plan: RoundPlan, out: Path, layout: ModuleLayout) -> tuple[FederationState, Mapping[str, Any]]:
    """The one round of an evaluation, with the model in the study's folder, which has to be the approved one; and its
    card."""
    found = load_judged(out / JUDGED_FOLDER)
    assert plan.evaluation
    approved = plan.model, plan.members, plan.evaluation.model_sha256
    # "Hospitals approved this model": no other is sent to them.
    if (found.config, found.members, found.packed.digest()) != approved:
        raise DataError(f"the model in {out / JUDGED_FOLDER} is not the one of the plan; take it from a back-up")
    return FederationState(1, found.packed.unpacked(layout)), found.card


def _numbers(
    plan: RoundPlan, outcome: EvaluationOutcome, seconds: float, calibration: Calibration | None
) -> EvaluationNumbers:
    found = outcome.record
    coverages = observed_coverage(found.scores, calibration, plan.model.names) if found.scores and calibration else {}
    return EvaluationNumbers(
        plan=plan,
        finished=datetime.now(UTC),
        sites=found.sites,
        left_out=tuple(
            f"{site.site or f'node {site.node}'}: {reply_reason(site.rejected)}"
            for site in outcome.sites
            if site.rejected is not None
        ),
        seconds=seconds,
        combinations=judged(found.sums, found.further, coverages),
    )


def _record(plan: RoundPlan, outcome: EvaluationOutcome, seconds: float, *, is_done: bool) -> RoundRecord:
    """The record of a try, as of a round in which nothing was trained."""
    secure = SecureFigures(is_used_up=outcome.is_used_up) if plan.federation.secure else None
    # Why a site was left out stands with the site.
    test = replace(outcome.record, rejected={})
    return RoundRecord(
        1, is_done, TrainingRecord(outcome.sites, nan, 0.0, {}, secure), seconds, evaluate_seconds=seconds, test=test
    )
