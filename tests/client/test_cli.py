"""`permmoe-client` as its users call it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from typer.testing import CliRunner

from permmoe.runtime.command_line import installed_version
from permmoe_client.cli import app
from permmoe_client.release.ledger import LEDGER_FILE
from tests.support.announcing_coordinator import AnnouncingCoordinator


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return AnnouncingCoordinator.of(tmp_path).site


def approval_of(site: Path, folder: Path, *arguments: str) -> str:
    study = folder / "study.yaml"
    study.write_text("name: a study\n")
    result = CliRunner().invoke(app, [*arguments, "--study", str(study), "--yes"])
    assert result.exit_code == 0, result.output
    return (site.parent / "ledger" / LEDGER_FILE).read_text()


def test_approve_obeys_a_site_that_is_named_before_it(site: Path, tmp_path: Path) -> None:
    assert '"kind":"approval"' in approval_of(site, tmp_path, "--site", str(site), "approve")


def test_approve_obeys_a_site_that_is_named_after_it(site: Path, tmp_path: Path) -> None:
    assert '"kind":"approval"' in approval_of(site, tmp_path, "approve", "--site", str(site))


def test_a_study_of_a_score_that_the_sites_table_lacks_cannot_be_approved(site: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("model: {score: {name: MMSE, highest: 30}, outcome_range: null}\n")
    result = CliRunner().invoke(app, ["approve", "--site", str(site), "--study", str(study), "--yes"])
    assert result.exit_code != 0 and "the table holds CDR-SB" in str(result.exception)
    assert "The model predicts the change in MMSE" in result.output, "the study is shown before it is refused"
    ledger = site.parent / "ledger" / LEDGER_FILE
    assert not ledger.exists() or '"kind":"approval"' not in ledger.read_text()


def test_a_study_of_another_horizon_than_the_settings_ask_for_cannot_be_approved(site: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(site.read_text())
    del settings["manifest"]
    site.write_text(yaml.safe_dump(settings | {"folders": {"tables": "tables", "target": {"horizon_months": 18}}}))
    study = tmp_path / "study.yaml"
    study.write_text("horizon_months: 24\n")
    result = CliRunner().invoke(app, ["approve", "--site", str(site), "--study", str(study), "--yes"])
    assert result.exit_code != 0 and "over 24 months, and outcomes here are 18" in str(result.exception)
    study.write_text("horizon_months: 18\n")
    result = CliRunner().invoke(app, ["approve", "--site", str(site), "--study", str(study), "--yes"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", [["approve"], ["revoke", "0123456789"], ["ledger", "show"], ["ledger", "verify"]])
def test_two_different_sites_of_one_command_are_an_error(command: list[str], site: Path) -> None:
    result = CliRunner().invoke(app, ["--site", "other.yaml", *command, "--site", str(site)])
    assert result.exit_code != 0 and "two sites are named" in str(result.exception)


@pytest.mark.parametrize(
    "program", ["permmoe.cli", "permmoe_client.cli", "permmoe_server.cli"], ids=["permmoe", "client", "server"]
)
def test_every_command_says_its_version(program: str) -> None:
    module = __import__(program, fromlist=["app"])
    result = CliRunner().invoke(module.app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, f"permmoe {installed_version()}")


@contextmanager
def running_client(site: Path) -> Iterator[subprocess.Popen[str]]:
    """The program itself; its coordinator does not answer."""
    command = [sys.executable, "-c", "from permmoe_client.cli import main; main()", "--site", str(site)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process: subprocess.Popen[str], words: str) -> list[str]:
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"the client ended without {words!r}: {lines}")


def away(site: Path, **settings: object) -> None:
    """The site's coordinator is at a port where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        values = yaml.safe_load(site.read_text()) | settings
        values["coordinator"] |= {"host": "127.0.0.1", "port": unused.getsockname()[1]}
        site.write_text(yaml.safe_dump(values))


def test_the_health_service_answers_for_as_long_as_the_client_runs_and_hangup_ends_it_cleanly(site: Path) -> None:
    away(site, health_socket="health.sock")
    with running_client(site) as process:
        lines_until(process, "cannot be reached")
        with grpc.insecure_channel(f"unix:{site.parent}/health.sock") as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )
            # By the second attempt a service that nobody holds has been collected.
            lines_until(process, "cannot be reached")
            assert check(HealthCheckRequest(), wait_for_ready=True).status == HealthCheckResponse.NOT_SERVING
        process.send_signal(signal.SIGHUP)
        assert lines_until(process, "stopped") and process.wait() == 0


def test_the_log_is_json_on_request(site: Path) -> None:
    away(site, log_format="json")
    with running_client(site) as process:
        *_, line = lines_until(process, "cannot be reached")
        assert json.loads(line)["level"] == "WARNING"
