"""A survey from its first question to its numbers, which are kept in its folder and never asked for again.

survey.json     the numbers (permmoe_server.studies.survey_file)
rounds.jsonl    a record for each try, as of a study's rounds
receipts.jsonl  the newest receipt for each site's ledger
sums.jsonl      the sites of the secure sum
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import PUBLIC_MODE, append_line
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.survey_round import ask_survey
from permmoe_server.protocol.tries import Try, ask_until_enough
from permmoe_server.studies.receipt_file import load_receipts, save_receipts
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.study_run import ROUNDS_FILE, as_left
from permmoe_server.studies.survey_file import SURVEY_FILE, SurveyNumbers, write_survey_file


def run_survey(federation: Federation, plan: RoundPlan, out: Path) -> None:
    """Run a survey to its end; one that has its numbers asks nobody.

    Raises NoQuorum after `max_failed_rounds` tries with too few sites, StudyLost where sites have given their input to
    a secure sum that failed: they give it once.
    """
    if (out / SURVEY_FILE).exists():
        return
    federation = as_left(federation, out)

    def ask() -> Try:
        outcome = ask_survey(federation, plan, load_receipts(out))
        save_receipts(out, outcome.receipts)
        if outcome.told is not None:
            # Before the record, which says that the survey is over.
            write_survey_file(out, SurveyNumbers.of(plan, outcome.told, datetime.now(UTC)))
        append_line(out / ROUNDS_FILE, record_json(outcome.record).encode(), mode=PUBLIC_MODE)
        return Try(outcome.record.sites, outcome.told is not None, outcome.record.is_used_up)

    ask_until_enough(federation, plan, "survey", ask)
