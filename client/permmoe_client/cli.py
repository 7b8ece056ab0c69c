"""`permmoe-client`: take part in a federation, and see before and after what that means."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated

import typer

from permmoe.command_line import run
from permmoe_client.site import SiteConfig, read_site

app = typer.Typer(pretty_exceptions_enable=False, help=__doc__)

LOG_BYTES, LOG_FILES = 10_000_000, 5


def main() -> None:
    """The installed command."""
    run(app)


@app.callback(invoke_without_command=True)
def take_part(
    context: typer.Context,
    site: Annotated[Path | None, typer.Option(help="The site's YAML file.")] = None,
) -> None:
    """Take part until the process is told to end, or run one of the commands below."""
    if context.invoked_subcommand:
        return
    if site is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    config = read_site(site)
    _log_to(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Flower and PyTorch take seconds to import; a wrong path should not wait for them.
    from permmoe_client.node import Presence, run_node

    presence = Presence()
    if config.health_socket:
        from permmoe.federated.probe import serve_health

        serve_health(f"unix:{config.health_socket.resolve()}", lambda: presence.is_connected)
    run_node(site.resolve(), stop, presence)


def _log_to(config: SiteConfig) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if config.logs:
        config.logs.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(config.logs / "permmoe-client.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])
    # Each request of a poll is a line of theirs.
    for name in ("httpx", "httpcore", "flwr"):
        logging.getLogger(name).setLevel(logging.WARNING)
