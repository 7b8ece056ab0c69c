"""The status page as a browser reads it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

from rich.console import Console

from permmoe_server.protocol.rules import SITE_ERROR, reply_reason
from permmoe_server.status.coordinator_status import CoordinatorStatus, SiteStatus
from permmoe_server.status.findings import rejected_replies
from permmoe_server.status.page import page
from permmoe_server.status.terminal import status_text
from permmoe_server.studies.round_log import RoundLog
from tests.support.round_lines import round_line, secure_round_line

HOSTILE = '<script>alert("x")</script>'


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_answers_what_a_coordinator_wants_to_know(status: CoordinatorStatus, now: datetime) -> None:
    found = Parsed(page(status, now))
    text = " ".join(" ".join(found.words).split())
    for fact in (
        "Round 4 of 7 is running; 1 of 2 sites online",
        "north",
        "t1+tau",
        "not_finite",
        "handshake",
        "SYNTHETIC",
    ):
        assert fact in text, fact
    assert reply_reason("not_finite") in text and SITE_ERROR in text
    assert "script" not in found.tags and all(link.startswith("/") for link in found.links)


def test_of_a_secure_study_the_page_says_which_modules_enough_sites_trained_and_no_number(
    status: CoordinatorStatus, now: datetime, tmp_path: Path
) -> None:
    path = tmp_path / "secure.jsonl"
    path.write_text(
        secure_round_line(1, ("head", "encoder/t1", "encoder/tau"), ())
        + secure_round_line(2, ("head", "encoder/t1"), ("encoder/tau",))
    )
    text = " ".join(" ".join(Parsed(page(replace(status, records=RoundLog(path).read()), now)).words).split())
    assert "In round 2 too few sites trained module encoder/tau" in text
    assert "Which modules learn from enough sites" in text and "too few enough once" in text


def test_nothing_that_somebody_chose_becomes_markup(status: CoordinatorStatus, now: datetime) -> None:
    sites = (SiteStatus(HOSTILE, True, now, 1, HOSTILE),)
    text = page(replace(status, federation=HOSTILE, study=HOSTILE, detail=HOSTILE, sites=sites), now)
    assert "<script" not in text


def test_rounds_that_nobody_evaluated_are_told_apart_from_groups_that_are_too_small(
    status: CoordinatorStatus, now: datetime, tmp_path: Path
) -> None:
    path = tmp_path / "rounds.jsonl"
    for sites, sentence in (([], "No round has been evaluated"), (["north"], "a site enough subjects")):
        line = json.loads(round_line(1)) | {"validation": {"sums": {}, "sites": sites, "rejected": {}}}
        path.write_text(json.dumps(line) + "\n")
        found = page(replace(status, records=RoundLog(path).read()), now)
        assert sentence in found


def test_rounds_that_failed_secure_tries_used_up_are_counted_apart(
    status: CoordinatorStatus, now: datetime, tmp_path: Path
) -> None:
    path = tmp_path / "rounds.jsonl"
    lost = json.loads(round_line(2, is_aggregated=False)) | {
        "is_secure": True,
        "is_spent": True,
        "released": [],
        "withheld": [],
    }
    path.write_text(round_line(1) + json.dumps(lost) + "\n" + round_line(3))
    found = replace(status, records=RoundLog(path).read())
    assert (found.rounds_done, found.rounds_lost, found.next_round) == (2, 1, 4)
    assert "1 lost to failed tries" in page(found, now) and "2 of 7" in page(found, now)


def test_hospitals_at_work_have_a_line_of_their_own_and_are_no_rejected_replies(
    status: CoordinatorStatus, now: datetime, tmp_path: Path
) -> None:
    path = tmp_path / "rounds.jsonl"
    lines = []
    for number, rules in ((1, ("late", "at_work")), (2, ("at_work", None)), (3, ("at_work", "at_work"))):
        line = json.loads(round_line(number))
        line["sites"][1:] = [{**site, "rejected": rule} for site, rule in zip(line["sites"][1:], rules, strict=True)]
        line["validation"]["rejected"] = {"19": "at_work"}
        lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))
    slow = replace(status, records=RoundLog(path).read(), sites=())
    text = " ".join(" ".join(Parsed(page(slow, now)).words).split())
    said = "At work when round 3 closed: south (since round 2), west (since round 3)."
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(status_text(slow, now))
    assert said in text and said in console.export_text()
    assert [row.rule for row in rejected_replies(slow.records)] == ["late"] and "at_work" not in text
    assert [(len(r.trained), r.at_work, len(r.rejections)) for r in slow.records] == [
        (1, ("west",), 1), (2, ("south",), 0), (1, ("south", "west"), 0)
    ]  # fmt: skip
    assert "At work" not in page(status, now)


def test_the_page_of_a_study_that_trains_nothing_speaks_of_no_model(status: CoordinatorStatus, now: datetime) -> None:
    whole, other = (page(replace(status, trains_nothing=trains_nothing), now) for trains_nothing in (False, True))
    assert "Error by combination" in whole and "Error by combination" not in other
    assert "Rejected replies" in other
