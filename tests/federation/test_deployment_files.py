"""What we ship beside the code for hospitals and coordinators: examples load, and the files name what exists."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from permmoe.config import read_config
from permmoe.errors import ConfigurationError, TryAgainLater
from permmoe_client import cli as client_cli
from permmoe_client.site import SiteConfig
from permmoe_server import cli as server_cli

ROOT = Path(__file__).parents[2]
SCRIPTS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def test_the_example_of_a_site_file_loads() -> None:
    assert read_config(ROOT / "client" / "site.example.yaml", SiteConfig).name == "north"


@pytest.mark.parametrize("side", ["client", "server"])
def test_units_and_containers_start_an_installed_command(side: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / side / "deploy" / f"permmoe-{side}.service")
    assert Path(unit["Service"]["ExecStart"].split()[0]).name == f"permmoe-{side}" in SCRIPTS
    container = (ROOT / side / "deploy" / "Containerfile").read_text()
    assert f'ENTRYPOINT ["permmoe-{side}"' in container
    for source in re.findall(r"^COPY (.+) \S+$", container, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    services = yaml.safe_load((ROOT / side / "deploy" / "compose.yaml").read_text())["services"]
    assert (ROOT / services[f"permmoe-{side}"]["build"]["dockerfile"]).exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_unit_is_hardened_to_an_exposure_of_4_or_less(side: str) -> None:
    unit = ROOT / side / "deploy" / f"permmoe-{side}.service"
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=40", str(unit)]
    analysis = subprocess.run(command, capture_output=True, text=True, check=False)
    assert analysis.returncode == 0, analysis.stdout


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_unit_bounds_capabilities_namespaces_and_system_calls(side: str) -> None:
    lines = (ROOT / side / "deploy" / f"permmoe-{side}.service").read_text().splitlines()
    for directive in ("CapabilityBoundingSet=", "RestrictNamespaces=yes", "SystemCallFilter=@system-service"):
        assert directive in lines


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_unit_starts_again_what_may_succeed_then_and_nothing_else(side: str) -> None:
    unit = (ROOT / side / "deploy" / f"permmoe-{side}.service").read_text()
    [prevented] = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    # A coordinator whose study has ended has ended well; a client takes part until it is stopped.
    assert f"Restart={'always' if side == 'client' else 'on-failure'}" in unit
    assert prevented.split() == [str(ConfigurationError.exit_status)] and TryAgainLater.exit_status == 75


@pytest.mark.parametrize("side", ["client", "server"])
def test_every_command_and_option_of_a_readme_exists(side: str) -> None:
    app = {"client": client_cli.app, "server": server_cli.app}[side]
    text = (ROOT / side / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = [line.split("#")[0].split() for line in blocks.splitlines() if line.startswith(f"permmoe-{side} ")]
    assert len(lines) > 5
    runner = CliRunner()
    for line in lines:
        words = [word for word in line[1:] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
        groups = {"ledger", "models", "study"}
        command = words[:2] if words and words[0] in groups else words[:1]
        path = [] if line[1].startswith("--") else command
        shown = runner.invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert shown.exit_code == 0, line
        for option in (word for word in line if word.startswith("--")):
            assert option in shown.output, (line, option)


@pytest.mark.parametrize("page", ["README.md", "client/README.md", "server/README.md"])
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
