"""Planted identifiers and paths: they must be in nothing that leaves a site, and in nothing that is logged or shown."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
import yaml
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from permmoe_client.app import app as client_app
from permmoe_client.site import read_site
from permmoe_server.settings import read_server
from permmoe_simulation.engines.local_deployment import ended
from tests.support.federation_processes import deploy_tiny, start_client, start_server
from tests.support.patience import PATIENCE_SECONDS
from tests.support.secure_federation import found
from tests.support.survey_files import tiny_survey
from tests.support.tiny_federation import tiny_plan

PLANTED = "Planted-Patient-941"
FOLDER = "planted-folder-of-images"
NAMES = ("north", "south", "west", "east")
# So large a target is judged by Rényi's bound alone: composing numerically takes 10 s a site.
PRIVACY = {"target_epsilon": 60.0, "patients_per_step": 8, "count_noise": 1.0}
STUDIES = {
    "plain": tiny_plan(rounds=2),
    "secure": tiny_plan(rounds=2, secure=True, min_sites=3),
    "private": tiny_plan(rounds=2, secure=True, min_sites=3, evaluate_every=0, privacy=PRIVACY),
    "survey": tiny_survey(min_sites=3, min_cell_count=1),
    "secure survey": tiny_survey(min_sites=3, min_cell_count=1, secure=True),
    "broken": tiny_plan(rounds=1, max_failed_rounds=1),
}


def plant(manifest: Path) -> None:
    """A subject whose identifier must not travel."""
    manifest.write_text(manifest.read_text().replace(f"{manifest.stem}-3,", f"{PLANTED},"))


@pytest.mark.parametrize("study", list(STUDIES))
def test_no_message_log_ledger_or_record_holds_a_planted_identifier_or_path(
    study: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plan = STUDIES[study]
    federation = found(tmp_path / FOLDER, plan, NAMES)
    sent: list[bytes] = []
    for name in NAMES:
        plant(tmp_path / FOLDER / f"{name}.csv")
        if study == "broken":
            path = tmp_path / FOLDER / f"{name}.csv"
            path.write_text(path.read_text().replace(f"{PLANTED},{name},bl,", f"{PLANTED},{name},bl,not-a-number"))
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if reply.has_content():
            sent.extend(part.deflate() for part in get_all_nested_objects(reply.content).values())
        else:
            sent.append((reply.error.reason or "").encode())
        return reply

    app.train()(answer)
    app.evaluate()(answer)
    app.query("survey")(answer)
    for stage in ("share", "mask", "count", "open"):
        app.query(f"secure_{stage}")(answer)
    try:
        federation.run(app)
    except Exception as error:
        assert study == "broken" and PLANTED not in str(error) and FOLDER not in str(error)
    manifest = (tmp_path / FOLDER / "north.csv").read_text()
    assert PLANTED in manifest and sent, "the identifier was there to be found"
    told = [*sent, caplog.text.encode()]
    told += [path.read_bytes() for path in federation.out.rglob("*") if path.is_file()]
    for name in NAMES:
        ledger = read_site(federation.deployment.sites[name]).ledger
        assert ledger
        told += [path.read_bytes() for path in ledger.rglob("*") if path.is_file()]
    for word in (PLANTED, FOLDER):
        assert not any(word.encode() in text for text in told), word


@pytest.mark.xdist_group("deployment")
def test_a_coordinators_pages_metrics_and_files_hold_no_planted_identifier(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1, min_sites=3, secure=True)
    deployment = deploy_tiny(tmp_path / FOLDER, plan)
    for name in deployment.sites:
        manifest = Path(yaml.safe_load(deployment.sites[name].read_text())["manifest"])
        plant(manifest)
        assert PLANTED in manifest.read_text()
    processes = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / FOLDER / "study.yaml"), "--stay"))
        processes += [start_client(deployment, name) for name in deployment.sites]
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
        settings = read_server(deployment.folder.settings)
        where = f"http://{settings.admin_host}:{settings.admin_port}"
        shown = [httpx.get(f"{where}{path}", trust_env=False).text for path in ("/", "/metrics", "/status.json")]
    assert status.phase == "finished"
    told = [text.encode() for text in shown]
    told += [path.read_bytes() for path in deployment.logs.iterdir()]
    told += [path.read_bytes() for path in deployment.folder.studies.rglob("*") if path.is_file()]
    told += [path.read_bytes() for path in deployment.folder.state.rglob("*.db*") if path.is_file()]
    assert not any(PLANTED.encode() in text for text in told)
