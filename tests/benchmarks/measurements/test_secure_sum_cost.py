"""What a secure sum costs is measured over whole rounds, with as many silent sites as were asked for."""

from __future__ import annotations

import pytest
from pytest import CaptureFixture, MonkeyPatch

from permmoe_benchmarks.measurements import secure_sum_cost
from permmoe_benchmarks.measurements.secure_sum_cost import STAGES, found_once, main, secure_round

PARTS = {*STAGES, "unmask", "rest"}


def test_the_seconds_of_the_server_are_those_of_its_stages_and_the_sites_are_those_of_theirs() -> None:
    found = secure_round(5, 1)
    assert found["server_stage_seconds"].keys() == PARTS
    assert sum(found["server_stage_seconds"].values()) == pytest.approx(found["server_seconds"])
    assert found["stage_seconds"].keys() == STAGES.keys()
    assert 0 < found["site_seconds"] <= found["site_seconds_most"]
    assert found["bytes_up"] > 2 * found["model_bytes"] and found["n_silent"] == 0


@pytest.mark.parametrize("stage", list(STAGES)[1:])
def test_sites_go_silent_at_the_stage_that_was_asked_for(stage: str, monkeypatch: MonkeyPatch) -> None:
    rounds = []
    figures = secure_sum_cost.round_figures
    monkeypatch.setattr(
        secure_sum_cost, "round_figures", lambda timed, clients: rounds.extend(timed) or figures(timed, clients)
    )
    assert secure_round(7, 1, 2 / 7, stage)["n_silent"] == 2
    [timed] = rounds
    lost = [site.lost_at for site in timed.record.sites if site.lost_at]
    assert lost == [stage] * 2


def test_a_site_that_takes_over_what_another_found_gives_the_same_sum(monkeypatch: MonkeyPatch) -> None:
    # With one watched site all others take over from it.
    monkeypatch.setattr(secure_sum_cost, "WATCHED", 1)
    found = secure_round(7, 1, 1 / 7)
    assert found["site_seconds"] == found["site_seconds_most"]


def test_what_one_site_found_is_found_again_by_a_site_that_is_watched(monkeypatch: MonkeyPatch) -> None:
    calls: list[bytes] = []
    monkeypatch.setattr(
        secure_sum_cost, "is_signature_of", lambda key, signature, text: bool(calls.append(text)) or True
    )
    known: dict[object, object] = {}
    for is_known in (True, True, False, True):
        with found_once(known, is_known=is_known):
            assert secure_sum_cost.session.is_signature_of(None, b"signature", b"text")  # type: ignore[arg-type,attr-defined]
    assert len(calls) == 2


def test_the_command_prints_a_line_for_each_size_and_share(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["secure_sum.py", "--sites", "5", "7", "--silent", "0", "0.2"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.split()[0].isdigit()] == [
        ["5", "0"], ["5", "1"], ["7", "0"], ["7", "1"],
    ]  # fmt: skip
