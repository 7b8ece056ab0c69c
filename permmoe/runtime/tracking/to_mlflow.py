"""MLflow, through its light client `mlflow-skinny`: a server, or a SQLite database in a folder.

The client's own conveniences are left out on purpose: they note the user, the command's path and its commit.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

# Before the import, which reads them. A server that is down costs seconds, not the minutes of MLflow's defaults; and
# nothing is told to MLflow's makers.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# No file is kept there, and beside the working directory MLflow would note the path of that in every database.
os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

DATABASE = "mlflow.db"
LONGEST_SETTING = 6000
"""Characters that MLflow keeps of a parameter."""
AT_ONCE = 100
"""Parameters that MLflow takes in one request."""


def connect(target: str) -> MlflowTracker:
    """A tracker at a URI such as `http://host:5000`, or in a folder, which is made."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if "://" in target:
        return MlflowTracker(MlflowClient(target))
    folder = Path(target).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return MlflowTracker(MlflowClient(f"sqlite:///{folder / DATABASE}"))


class MlflowTracker:
    """An MLflow server or database; a group is an experiment there."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def run(self, group: str, name: str, settings: Mapping[str, str]) -> MlflowRun | None:
        """A run of MLflow's with the settings as parameters; one that ended there before is left as it is."""
        known = self._client.get_experiment_by_name(group)
        experiment = known.experiment_id if known else self._client.create_experiment(group)
        runs: list[Run] = self._client.search_runs([experiment], f"tags.`mlflow.runName` = '{name}'", max_results=1)
        if runs:
            return None if runs[0].info.status == "FINISHED" else MlflowRun(self._client, runs[0].info.run_id)
        made = MlflowRun(self._client, self._client.create_run(experiment, run_name=name).info.run_id)
        params = [Param(key, value[:LONGEST_SETTING]) for key, value in settings.items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(made.identifier, params=params[start : start + AT_ONCE])
        return made


class MlflowRun:
    """A run of MLflow's."""

    def __init__(self, client: MlflowClient, identifier: str) -> None:
        self._client, self.identifier = client, identifier

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """All figures of a step in one request."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.identifier, metrics=[Metric(k, v, now, step) for k, v in figures.items()])

    def end(self) -> None:
        """MLflow shows the run as finished."""
        self._client.set_terminated(self.identifier)
