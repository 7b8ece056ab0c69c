"""No word of another party commands a terminal, begins a line of its own, or is shown in another order."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe.federated.plan import RoundPlan
from permmoe.plain_text import plain, plain_lines
from permmoe.runtime.logs import JsonLines, PlainLines

FORGERIES = {
    "a terminal escape": "study\x1b[2K\rsafe",
    "a single-byte control sequence": "study\x9b31m",
    "a bidirectional override": "study\u202eefas",
    "a bidirectional isolate": "study\u2066safe\u2069",
    "an invisible character": "stu\u200bdy",
    "a line separator": "study\u2028safe",
    "a next line": "study\x85safe",
    "a bell": "study\a",
    "a tab": "study\tsafe",
    "half of a surrogate pair": "study\ud800",
}
PLAN = RoundPlan().model_dump(mode="json")


@pytest.mark.parametrize("text", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("field", ["name", "purpose", "outcome"])
def test_a_study_whose_words_could_forge_what_a_hospital_reads_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValueError, match="not printable"):
        RoundPlan.model_validate({**PLAN, field: text})


@pytest.mark.parametrize("text", FORGERIES.values(), ids=FORGERIES)
def test_a_study_is_refused_wherever_in_it_such_a_word_stands(text: str) -> None:
    tabular = {"name": "blood", "kind": "tabular", "columns": [text]}
    for part in ({"model": {"modalities": [tabular]}}, {"train": {text: 1}}, {"federation": {"aggregation": text}}):
        with pytest.raises(ValueError, match="not printable") as refusal:
            RoundPlan.model_validate(part)
        assert plain_lines(str(refusal.value)) == str(refusal.value)


def test_no_setting_of_a_study_takes_a_line_of_its_own_beside_the_others() -> None:
    plan = RoundPlan(name="a\nfederation: secure", purpose="Words\n  in lines.\n", outcome="b\nc")
    assert (plan.name, plan.purpose, plan.outcome) == ("a federation: secure", "Words in lines.", "b c")


@given(st.text())
def test_plain_text_is_printable_and_leaves_printable_text_alone(text: str) -> None:
    assert plain(text).isprintable() and len(plain(text)) == len(text)
    assert plain(plain(text)) == plain(text)
    if text.isprintable():
        assert plain(text) == text


@given(st.text())
def test_a_message_of_any_words_is_one_line_of_either_log(text: str) -> None:
    record = logging.LogRecord("permmoe.client", logging.INFO, "", 0, "round %s: %s", (text, "train"), None)
    line = PlainLines().format(record)
    assert line.isprintable() and line.endswith(": train")
    in_json = JsonLines().format(record)
    assert (
        in_json.isascii() and in_json.isprintable() and json.loads(in_json)["message"] == plain(f"round {text}: train")
    )


def test_the_time_of_a_line_says_its_offset_from_utc() -> None:
    record = logging.LogRecord("permmoe", logging.WARNING, "", 0, "words", None, None)
    moment = datetime.fromisoformat(PlainLines().format(record).split(" ")[0])
    assert moment.utcoffset() is not None and abs(moment.timestamp() - record.created) < 0.001
