"""The sites that a process runs: what is loaded once, what is noticed, and what they share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from permmoe.config import ModelConfig
from permmoe.data.dataset import VisitData
from permmoe.errors import ConfigurationError
from permmoe.federated.secure.site_sum import SiteSum
from permmoe_client.participation.running_site import RunningSites
from permmoe_client.participation.secure_session import SecureSession
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.release.withdrawals import Absent
from permmoe_client.site import SiteConfig
from tests.support.secure_federation import found
from tests.support.site_messages import instruction, trained
from tests.support.tiny_federation import MODEL, tiny_plan, write_site

PLAN = tiny_plan()


class CountedVisits:
    """Loads visits, and remembers the names of their sites."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(
        self, site: SiteConfig, model: ModelConfig, horizon_months: float | None, absent: Absent, with_unlabelled: bool
    ) -> VisitData:
        self.loaded.append(site.name)
        return site_visits(site, model, horizon_months, absent, with_unlabelled)


def test_visits_are_loaded_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, visits = write_site(tmp_path, "north"), CountedVisits()
    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites(visits))
    for number in (1, 2, 3):
        trained(path, instruction(number=number))
    assert visits.loaded == ["north"]


def test_a_site_file_that_changed_is_read_again_with_its_visits(tmp_path: Path) -> None:
    visits = CountedVisits()
    sites = RunningSites(visits)
    path = write_site(tmp_path, "north", threads=2)
    first = sites.at(path)
    first.visits(PLAN)
    assert sites.at(path) is first and first.settings.threads == 2
    write_site(tmp_path, "north", threads=3, modalities=["clinical"])
    second = sites.at(path)
    assert second.settings.threads == 3 and second.modalities(PLAN) == ("clinical",)
    assert visits.loaded == ["north", "north"]


def test_sites_of_one_process_stay_apart_and_share_one_model(tmp_path: Path) -> None:
    sites = RunningSites()
    north, south = (sites.at(write_site(tmp_path, name)) for name in ("north", "south"))
    assert north.modalities(PLAN) == ("clinical", "fluid", "gene") and south.modalities(PLAN) == ("clinical",)
    assert north.visits(PLAN) is north.visits(PLAN) is not south.visits(PLAN)
    assert north.network(PLAN)[0] is south.network(PLAN)[0]
    another = PLAN.model_copy(update={"model": MODEL.model_copy(update={"experts": 3})})
    assert north.network(another)[0].config.experts == 3 and north.layout(PLAN).modules != north.layout(another).modules


def test_a_secure_sum_outlives_a_changed_setting_but_not_a_changed_ledger(tmp_path: Path) -> None:
    federation = found(tmp_path, tiny_plan(secure=True, min_sites=3), ("north", "south", "west"))
    path = federation.deployment.sites["north"]
    sites = RunningSites()
    session = some_session()
    sites.at(path).session = session
    change(path, threads=3)
    assert sites.at(path).session is session
    change(path, ledger="another-ledger")
    assert sites.at(path).session is None


def test_a_key_that_others_may_read_is_noticed_at_the_next_message(tmp_path: Path) -> None:
    federation = found(tmp_path, tiny_plan(), ("north", "south", "west"))
    path = federation.deployment.sites["north"]
    sites = RunningSites()
    key = sites.at(path).settings.coordinator.key  # type: ignore[union-attr]
    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        sites.at(path)


def test_a_process_that_forgets_its_sites_has_none_of_their_sessions(tmp_path: Path) -> None:
    path, sites = write_site(tmp_path, "north"), RunningSites()
    sites.at(path).session = some_session()
    sites.forget()
    assert sites.at(path).session is None


def some_session() -> SecureSession:
    """A session that nobody takes part in."""
    fail = lambda _: pytest.fail("nothing is to leave")  # noqa: E731
    return SecureSession(SiteSum.__new__(SiteSum), {}, {}, fail, fail)


def change(path: Path, **settings: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
