"""A survey rehearsed: the very numbers that would leave, on disk for anybody at the hospital to look at."""

from __future__ import annotations

import json
from pathlib import Path

from permmoe.federated.instructions import Instruction
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.survey_facts import Facts
from permmoe.federated.survey_messages import (
    NO_MODEL,
    SurveyReply,
    survey_blocks,
    survey_numbers,
    write_survey_reply,
)
from permmoe.runtime.files import write_file
from permmoe_client.connection.fleet import message_bytes
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.rehearsed_sum import rehearse_sum
from permmoe_client.participation.survey import count_patients, rehearsal_facts
from permmoe_client.site import SiteConfig

MESSAGE, NUMBERS, README = "survey.bin", "survey.json", "README.txt"


def rehearse_survey(settings: SiteConfig, plan: RoundPlan, folder: Path) -> str:
    """Write what would leave into a folder that exists and is empty, and return what to say about it.

    `survey.bin` is the message, `survey.json` the numbers: by what is told, and, of those who are not told apart, how
    many they are, which would not leave. What left before is taken into account, and the account is not touched. Errors
    as of `count_patients`.
    """
    facts = Facts.of(plan)
    counted = count_patients(plan, settings, open_ledger(settings), is_rehearsal=True)
    shown = {"study": plan.digest(), "site": settings.name, **rehearsal_facts(counted, facts)}
    n = len(counted.counts)
    if plan.federation.secure:
        blocks, numbers = survey_blocks(facts), survey_numbers(facts, counted.counts)
        rehearsed = rehearse_sum(settings, Instruction(plan, 1, NO_MODEL), "survey", blocks, numbers)
        message, is_masked = rehearsed.message, True
    else:
        message = write_survey_reply(SurveyReply(settings.name, plan.digest(), counted.counts))
        is_masked = False
    write_file(folder / MESSAGE, message_bytes(message))
    write_file(folder / NUMBERS, json.dumps(shown, indent=1))
    write_file(folder / README, _readme(plan, is_masked=is_masked))
    numbers_leave = f"{n} numbers of patients{', masked' if is_masked else ''}, {content_bytes(message):,} bytes"
    return (
        f"survey {plan.name} counted {sum(counted.counts.values())} of {counted.patients} patients here; nothing was "
        f"sent. Would have left: {numbers_leave}. All of it is in {folder}, and {README} there says what each file is"
    )


def _readme(plan: RoundPlan, *, is_masked: bool) -> str:
    lines = [
        f"A rehearsal of survey {plan.name}, {plan.digest()}.",
        "Nothing of it was sent, and nothing of it is in the ledger or in the account of what left.",
        "",
        f"{MESSAGE}: the bytes of the message, which would have left.",
    ]
    if is_masked:
        lines += [
            "This survey has the secure sum: the message holds masked numbers, and nobody can tell them from chance.",
            f"{NUMBERS}: what is under the mask. It would NOT have left.",
        ]
    else:
        lines += [
            f"{NUMBERS}: 'told' is what the message says. The rest of the file would NOT have left.",
        ]
    lines += [
        "",
        "'told' reads MODALITIES/SEVERITY/OUTCOME: t1+flair/1/known are patients with T1 and FLAIR or more, in the",
        "group of severity that has the number 1 in the file, whose outcome is known. 'any': it is not told.",
    ]
    return "\n".join(lines) + "\n"
