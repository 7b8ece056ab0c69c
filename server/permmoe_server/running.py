"""A coordinator or a region in the foreground, until a study ends or the process is asked to."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from permmoe.runtime.logs import log_to
from permmoe.runtime.tracking.tracker import tracking_to
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.settings import read_server


def run_until_end(
    folder: FederationFolder, study: Path | None, evaluate: str | None = None, *, stay: bool = False, track: str = ""
) -> None:
    """Run the study of a YAML file, or the one that was named last; `evaluate` names a model that it judges.

    Errors as of `study_to_run`, `coordinate` and `tracking_to`.
    """
    stop = _asked_to_end(folder, quiet=("httpx", "alembic"))
    tracking = tracking_to(track, logging.getLogger("permmoe.server").warning)
    # Flower and PyTorch take seconds to import; the other commands need neither.
    from permmoe_server.coordination.coordinator import coordinate
    from permmoe_server.studies.judged_model import study_to_run

    coordinate(folder, study_to_run(folder, study, evaluate), stop, stay=stay, tracking=tracking)


def run_region_until_end(folder: FederationFolder) -> None:
    """Run a region's programs. Raises ConfigurationError for a folder or a port that cannot be used."""
    from permmoe_server.coordination.region import run_region

    run_region(folder, _asked_to_end(folder))


def _asked_to_end(folder: FederationFolder, quiet: tuple[str, ...] = ()) -> threading.Event:
    """Log as the folder's settings say; return what is set when the process is asked to end."""
    log_to(None, read_server(folder.settings).log_format, quiet=quiet)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
