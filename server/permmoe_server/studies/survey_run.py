"""A survey from its first question to its numbers, which are kept in its folder and never asked for again.

survey.json     the numbers (permmoe_server.studies.survey_file)
rounds.jsonl    a record for each try, as of a study's rounds
receipts.jsonl  the newest receipt for each site's ledger
sums.jsonl      the sites of the secure sum
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import PUBLIC_MODE, append_line
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.readiness import NoQuorum, StudyLost
from permmoe_server.protocol.rounds import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS
from permmoe_server.protocol.survey_round import ask_survey
from permmoe_server.protocol.waiting_room import WaitingRoom
from permmoe_server.studies.receipt_file import load_receipts, save_receipts
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.round_log import RoundLog
from permmoe_server.studies.study_run import quarantine_of
from permmoe_server.studies.sum_log import read_sums
from permmoe_server.studies.survey_file import SURVEY_FILE, SurveyNumbers, write_survey_file


def run_survey(federation: Federation, plan: RoundPlan, out: Path) -> None:
    """Run a survey to its end; one that has its numbers asks nobody.

    Raises NoQuorum after `max_failed_rounds` tries with too few sites, StudyLost where sites have given their input to
    a secure sum that failed: they give it once.
    """
    if (out / SURVEY_FILE).exists():
        return
    rounds = out / "rounds.jsonl"
    federation = replace(federation, sums=read_sums(out), quarantine=quarantine_of(RoundLog(rounds).read()))
    receipts, room = load_receipts(out), WaitingRoom(federation, plan)
    failed = 0
    while True:
        federation.observer.on_round_start(1)
        room.wait(1)
        if federation.is_to_stop():
            return
        outcome = ask_survey(federation, plan, receipts)
        receipts = dict(outcome.receipts)
        room.learn(outcome.record.sites)
        save_receipts(out, receipts)
        if outcome.told is not None:
            # Before the record, which says that the survey is over.
            write_survey_file(out, SurveyNumbers.of(plan, outcome.told, datetime.now(UTC)))
        append_line(rounds, record_json(outcome.record).encode(), mode=PUBLIC_MODE)
        if outcome.told is not None:
            return
        failed += 1
        if outcome.record.is_used_up:
            raise StudyLost(
                "the survey failed after hospitals had given their input, and they give it once; start it under "
                "another name"
            )
        if failed >= plan.federation.max_failed_rounds:
            raise NoQuorum(
                f"the survey was tried {failed} times and had usable replies of fewer than "
                f"{plan.federation.least_sites} hospitals; rounds.jsonl says why the others were left out"
            )
        federation.clock.pause(min(FIRST_RETRY_SECONDS * 2.0 ** (failed - 1), LAST_RETRY_SECONDS))
