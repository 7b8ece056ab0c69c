"""Lines of `rounds.jsonl` keep their keys, their order and their bytes, whatever the records look like inside."""

from __future__ import annotations

import json

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.training_figures import TrainingFigures
from permmoe_server.protocol.round_records import (
    Evaluation,
    RoundRecord,
    SecureFigures,
    SiteRecord,
    SiteTraining,
    TrainingRecord,
)
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.round_log import summarise

TRAINED = SiteTraining(TrainingFigures(10.0, 20.0, 0.25, 0.125), 0.5, ("head", "trunk"))
SITES = (SiteRecord(1001, "ant", 7, 5, "ab", training=TRAINED), SiteRecord(1002, "bee", 7, 3, rejected="not_finite"))
EVALUATION = Evaluation({"clinical": ErrorSums(7, 3.5, 2.0, 1.0, 4.0)}, ("ant",), {1002: "no_reply"})
PLAIN = RoundRecord(
    2,
    is_aggregated=True,
    training=TrainingRecord(SITES, loss=2.0, visits=10.0, stage_seconds={"write": 0.5}),
    seconds=9.0,
    step_seconds=0.25,
    evaluate_seconds=4.0,
    validation=EVALUATION,
)
SECURE = RoundRecord(
    3,
    is_aggregated=False,
    training=TrainingRecord(
        (SiteRecord(1001, "ant", 7, 5, "ab", lost_at="open"),),
        loss=float("nan"),
        visits=0.0,
        stage_seconds={"train": 1.0, "share": 0.5},
        secure=SecureFigures(("head",), ("trunk",), is_used_up=True),
    ),
    seconds=2.0,
)


def test_a_plain_round_is_this_line() -> None:
    assert record_json(PLAIN) == (
        '{"round":2,"is_aggregated":true,"sites":[{"node":1001,"site":"ant","bytes_down":7,"bytes_up":5,"visits":10.0,'
        '"train_seconds":0.25,"overhead_seconds":0.125,"server_seconds":0.5,"modules":["head","trunk"],"ledger":"ab",'
        '"rejected":null,"lost_at":""},{"node":1002,"site":"bee","bytes_down":7,"bytes_up":3,"visits":0.0,'
        '"train_seconds":0.0,"overhead_seconds":0.0,"server_seconds":0.0,"modules":[],"ledger":"",'
        '"rejected":"not_finite","lost_at":""}],"train_loss":2.0,"seconds":9.0,"validation":{"sums":{"clinical":{"n":7,'
        '"squared":3.5,"absolute":2.0,"target":1.0,"target_squared":4.0}},"sites":["ant"],'
        '"rejected":{"1002":"no_reply"}},"test":null,"is_secure":false,"released":[],"withheld":[],"visits":10.0,'
        '"stage_seconds":{"write":0.5,"step":0.25,"evaluate":4.0},"is_spent":false}'
    )


def test_a_secure_round_is_this_line() -> None:
    assert record_json(SECURE) == (
        '{"round":3,"is_aggregated":false,"sites":[{"node":1001,"site":"ant","bytes_down":7,"bytes_up":5,"visits":0.0,'
        '"train_seconds":0.0,"overhead_seconds":0.0,"server_seconds":0.0,"modules":[],"ledger":"ab","rejected":null,'
        '"lost_at":"open"}],"train_loss":NaN,"seconds":2.0,"validation":null,"test":null,"is_secure":true,'
        '"released":["head"],"withheld":["trunk"],"visits":0.0,"stage_seconds":{"train":1.0,"share":0.5},"is_spent":true}'
    )


def test_a_line_is_read_back_as_the_round_that_it_tells_of() -> None:
    plain, secure = (summarise(json.loads(record_json(record))) for record in (PLAIN, SECURE))
    assert plain.trained == {"ant": ("head", "trunk")} and plain.validation["clinical"].n == 7
    assert [(r.sender, r.rule, r.part) for r in plain.rejections] == [
        ("bee", "not_finite", "training"), ("bee", "no_reply", "validation"),
    ]  # fmt: skip
    assert secure.lost == {"ant": "open"} and secure.train_loss is None
    assert secure.released == ("head",) and secure.withheld == ("trunk",)


def test_a_secure_round_of_an_older_log_is_read_as_what_it_must_have_released() -> None:
    line = json.loads(record_json(SECURE)) | {"holders": {"head": 3, "trunk": 2, "router/t1": 0}}
    del line["released"], line["withheld"]
    old = summarise(line)
    assert old.released == ("head",) and old.withheld == ("trunk", "router/t1") and not old.holders
