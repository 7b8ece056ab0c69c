"""What `permmoe-client ledger` says about announced models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner, Result

from permmoe.federated.model_chain import Link
from permmoe_client.cli import app
from permmoe_client.release.announced_models import announced_facts
from permmoe_client.release.ledger import LEDGER_FILE
from tests.client.release.test_ledger import ledger_of
from tests.support.announcing_coordinator import CRAFTED, NEWER, AnnouncingCoordinator


def said(coordinator: AnnouncingCoordinator, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["ledger", *arguments, "--site", str(coordinator.site)])


def studied(folder: Path) -> AnnouncingCoordinator:
    """A hospital that trained, evaluated and trained."""
    coordinator = AnnouncingCoordinator.of(folder)
    coordinator.send(1, "training")
    coordinator.send(1, "validation", NEWER)
    coordinator.send(2, "training", NEWER)
    return coordinator


def other_ledger(coordinator: AnnouncingCoordinator, folder: Path, links: Sequence[Link]) -> Path:
    """The ledger of another hospital that was told of these models."""
    facts = announced_facts(coordinator.announcement(links))
    ledger_of(folder).append("training", {"study": coordinator.plan.digest(), **facts})
    return folder / LEDGER_FILE


def test_verify_says_how_many_models_were_announced_and_that_their_chain_is_signed(tmp_path: Path) -> None:
    coordinator = studied(tmp_path)
    result = said(coordinator, "verify")
    assert result.exit_code == 0 and "3 models announced" in result.output
    assert "signed by the coordinator" in result.output and "another model" not in result.output


def test_verify_names_models_that_were_announced_for_the_same_work(tmp_path: Path) -> None:
    coordinator = studied(tmp_path)
    coordinator.announce(1, "validation", CRAFTED)
    coordinator.send(2, "validation", CRAFTED)
    assert "1 of them for work that another model was announced for" in said(coordinator, "verify").output


def test_compare_finds_two_stories_and_says_where_they_part(tmp_path: Path) -> None:
    coordinator = studied(tmp_path / "here")
    honest = other_ledger(coordinator, tmp_path / "honest", coordinator.links[:2])
    result = said(coordinator, "compare", str(honest))
    assert result.exit_code == 0 and "one story, as far as the first 2 models" in result.output
    lied = [coordinator.links[0], replace(coordinator.links[1], model="9" * 64)]
    result = said(coordinator, "compare", str(other_ledger(coordinator, tmp_path / "lied", lied)))
    assert result.exit_code == 1 and "TWO STORIES" in result.output and "They part at model 2" in result.output


def test_compare_believes_no_story_that_the_coordinator_did_not_sign(tmp_path: Path) -> None:
    coordinator = studied(tmp_path / "here")
    other = other_ledger(AnnouncingCoordinator.of(tmp_path / "there"), tmp_path / "forged", coordinator.links[:1])
    result = said(coordinator, "compare", str(other))
    assert result.exit_code != 0 and "not of this federation's server" in str(result.exception)


def test_verify_says_that_the_account_of_patients_is_whole_or_has_to_be_restored(tmp_path: Path) -> None:
    coordinator = studied(tmp_path)
    assert "the account of what was summed is whole: " in said(coordinator, "verify").output
    [account] = list(tmp_path.rglob("patients-*.json"))
    account.unlink()
    result = said(coordinator, "verify")
    assert result.exit_code != 0 and "restore it from the back-up" in str(result.exception)
