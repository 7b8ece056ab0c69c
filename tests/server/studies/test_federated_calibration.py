"""Hospitals' scores, plainly and behind masks: what leaves, what is refused, and what the model's card then says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.calibration.calibrate import score_counts
from permmoe.calibration.calibration import CDRSB_STAGES, Calibration, read_calibration
from permmoe.calibration.coarse_counts import coarsened, widened
from permmoe.calibration.score_counts import N_BINS
from permmoe.federated.federation_config import FederationConfig
from permmoe.modality import all_combinations, combination_name
from permmoe.runs import trained_config
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from tests.support.judged_models import judged_model
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import MODEL, tiny_plan

NAMES = ("north", "south", "west", "east", "mid")


def study(folder: Path, *, secure: bool, names: tuple[str, ...] = NAMES, **federation: Any) -> SecureFederation:
    settings = {"rounds": 1, "min_sites": 3, "calibrate": True, "max_failed_rounds": 1, **federation}
    return found(folder, tiny_plan(secure=secure, secure_threshold=0.5, **settings), names)


def calibration(federation: SecureFederation) -> Calibration:
    _, card = load_checkpoint(federation.out / "model")
    read = read_calibration(card, "the model")
    assert read
    return read


def of_all_severities(federation: SecureFederation) -> None:
    """Four times the patients at each site, a third of them in each severity group."""
    for path in federation.deployment.sites.values():
        manifest = read_site(path).manifest
        assert manifest
        header, *lines = manifest.read_text().splitlines()
        rows = [line.split(",") for line in lines for _ in range(4)]
        made = [[f"{row[0]}-{i}", *row[1:3], ("1", "3", "6")[i % 3], *row[4:]] for i, row in enumerate(rows)]
        manifest.write_text("\n".join([header, *map(",".join, made)]) + "\n")


def pooled(federation: SecureFederation) -> dict[str, tuple[np.ndarray, int]]:
    """The reference: scores of the study's very model on all validation visits together, by combination and column of
    severity, and hospitals with them."""
    model = judged_model()
    model.load_state_dict(load_checkpoint(federation.out / "model")[0])
    each = [
        score_counts(model, site_visits(read_site(path), MODEL).part("validation")).counts
        for path in federation.deployment.sites.values()
    ]
    combinations = map(combination_name, all_combinations(MODEL.names))
    return {
        name: (sum(own[j] for own in each), sum(bool(own[j].any()) for own in each))
        for j, name in enumerate(combinations)
    }


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_merged_scores_are_those_of_all_visits_together_to_the_last_visit(secure: bool, tmp_path: Path) -> None:
    federation = study(tmp_path, secure=secure)
    [record] = federation.run()
    card, reference = calibration(federation), pooled(federation)
    counts = card.counts(MODEL.names)
    assert card.chose_the_weights and trained_config(federation.out / "model").model == MODEL
    for name, (row, hospitals) in reference.items():
        if name not in card.scores:
            assert not row.any() or (secure and hospitals < 3)
            continue
        own = counts.counts[[combination_name(c) for c in all_combinations(MODEL.names)].index(name), 0]
        assert (own == row[0]).all()
        assert card.sites[name] == (3 if secure else hospitals,)
    assert "scores" not in record["validation"], "they go into the card and into no record"
    assert not card.added, "no site tells what a further scan was worth: that may be of one visit"


def watched_client() -> tuple[ClientApp, list[RecordDict]]:
    """The client, and a list that it adds every reply to an evaluation to."""
    app, seen = ClientApp(), list[RecordDict]()
    app.train()(client_app)

    @app.evaluate()
    def watched(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        seen.append(reply.content)
        return reply

    return app, seen


def test_a_plain_sites_bins_hold_five_visits_or_more_and_so_do_the_cards(tmp_path: Path) -> None:
    app, seen = watched_client()
    federation = study(tmp_path, secure=False, min_cell_count=2)
    federation.run(app)
    sent = [values for content in seen for values in content.metric_records.get("scores", {}).values()]
    assert sent and min(n for values in sent for n in values[1::2]) >= 2
    assert sum("scores" in content for content in seen) == len(NAMES), "the test part has none"
    card = calibration(federation)
    assert min(n for rows in card.scores.values() for row in rows for _, n in row) >= 2


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_scores_by_severity_are_those_of_all_visits_of_a_group_together(secure: bool, tmp_path: Path) -> None:
    federation = study(tmp_path, secure=secure, calibrate_severity=True)
    of_all_severities(federation)
    federation.run()
    card, reference = calibration(federation), pooled(federation)
    assert card.severity_ends == CDRSB_STAGES and len(card.visits) == 4
    counts = card.counts(MODEL.names).counts
    names = [combination_name(c) for c in all_combinations(MODEL.names)]
    assert {"clinical", "clinical+fluid"} <= card.scores.keys()
    for name in card.scores:
        exact = reference[name][0]
        expected = np.stack([widened(row) for row in exact]) if secure else exact
        assert (counts[names.index(name)] == expected).all()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_no_severity_group_of_few_leaves_and_none_is_found_by_subtraction(secure: bool, tmp_path: Path) -> None:
    least, (app, seen) = 4, watched_client()
    federation = study(tmp_path, secure=secure, calibrate_severity=True, min_cell_count=least)
    of_all_severities(federation)
    # What leaves for a secure sum is masked: its card shows it.
    federation.run(client_app if secure else app)
    told = 0
    for content in seen:
        everybody, groups = ({name: dense(row) for name, row in content.metric_records.get(record, {}).items()}
                             for record in ("scores", "severity"))  # fmt: skip
        told += len(groups)
        for name, row in everybody.items():
            own = [counts for group, counts in groups.items() if group.split("/")[0] == name]
            for counts in (*own, row, row - sum(own)):
                assert ((counts == 0) | (counts >= least)).all()
    assert secure or told
    for rows in calibration(federation).counts(MODEL.names).counts:
        for counts in (*rows, rows[0] - rows[1:].sum(0)):
            assert ((counts == 0) | (counts >= least)).all()


def dense(sparse: Any) -> np.ndarray:
    row = np.zeros(N_BINS, np.int64)
    row[list(sparse[::2])] = sparse[1::2]
    return row


def test_a_secure_card_has_no_bin_of_few_visits_either(tmp_path: Path) -> None:
    federation = study(tmp_path, secure=True, min_cell_count=2)
    federation.run()
    assert min(n for rows in calibration(federation).scores.values() for row in rows for _, n in row) >= 2


@pytest.mark.parametrize("severity", [False, True])
def test_attack_scores_of_two_evaluations_differ_by_no_few_patients(severity: bool, tmp_path: Path) -> None:
    """One patient is withdrawn between two studies: what both tell differs by two or more visits, or by none."""
    asked = {"min_sites": 1, "min_cell_count": 2, "calibrate_severity": severity}
    first = study(tmp_path / "a", secure=False, names=("north",), **asked)
    if severity:
        of_all_severities(first)
    seen: list[dict[str, Any]] = []
    app = ClientApp()
    app.train()(client_app)

    @app.evaluate()
    def watched(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.content["instruction"]["part"] == "validation":
            sent = [reply.content.metric_records.get(record, {}) for record in ("scores", "severity")]
            seen.append({name: sum(v[1::2]) for record in sent for name, v in record.items()})
        return reply

    first.run(app)
    site = first.deployment.sites["north"]
    config = read_site(site)
    assert config.manifest
    validation = next(iter(site_visits(config, MODEL).part("validation").visits)).subject_id
    text = config.manifest.read_text().splitlines(keepends=True)
    config.manifest.write_text("".join(line for line in text if not line.startswith(f"{validation},")))
    again = first.plan.model_copy(update={"name": "a later study"})
    settings = site.read_text().replace(first.plan.digest(), again.digest())
    site.write_text(settings)
    second = SecureFederation(tmp_path / "b", again, first.deployment)
    second.folder.mkdir()
    second.run(app)
    before, after = seen
    assert any("/" in name for name in before) == severity and before
    for name in before.keys() | after.keys():
        assert abs(before.get(name, 0) - after.get(name, 0)) != 1


LIES: dict[str, Any] = {
    "a bin below zero": [-1, 4],
    "too many bins": [561, 4],
    "a negative count": [3, -4, 5, 8],
    "bins out of order": [5, 2, 3, 2],
    "another length": [3],
    "more than it evaluated": [3, 400],
    "no whole number": [3.0, 4.0],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_counts_that_no_honest_site_sends_cost_that_site_alone(lie: Any, tmp_path: Path) -> None:
    app = ClientApp()
    app.train()(client_app)

    @app.evaluate()
    def lying(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if "scores" in reply.content and reply.content["reply"]["site"] == "west":
            reply.content["scores"]["clinical"] = lie
        return reply

    federation = study(tmp_path, secure=False)
    [record] = federation.run(app)
    assert list(record["validation"]["rejected"].values()) == ["scores"]
    assert set(record["validation"]["sites"]) == set(NAMES) - {"west"}
    assert calibration(federation).sites["all"] == (4,)


def test_a_study_that_does_not_ask_sends_none_and_has_the_digest_that_it_had() -> None:
    assert "calibrate" not in FederationConfig().model_dump()
    assert "calibrate_severity" not in FederationConfig(calibrate=True).model_dump()
    with pytest.raises(ValueError, match="calibrate goes with evaluations"):
        FederationConfig(calibrate=True, evaluate_every=0)
    with pytest.raises(ValueError, match="set calibrate to true, too"):
        FederationConfig(calibrate_severity=True)


def test_coarse_bins_of_sites_give_no_shorter_interval_than_all_visits_together() -> None:
    rng = np.random.default_rng(3)
    sites = [rng.poisson(0.1, 561).astype(np.int64) for _ in range(7)]
    merged, exact = sum(coarsened(own, 5) for own in sites), sum(sites)
    assert merged.sum() == exact.sum() and (merged.cumsum() <= exact.cumsum()).all()
