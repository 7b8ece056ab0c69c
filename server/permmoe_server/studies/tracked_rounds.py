"""A study's rounds at a tracker of experiments: figures that its record of rounds has released, and nothing besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from permmoe.federated.plan import RoundPlan
from permmoe.runtime.tracking.tracker import TrackedRun, Tracking
from permmoe_server.studies.round_log import RoundSummary, Score


class TrackedRounds:
    """Tracks each round once, from the summaries that the status page shows, too."""

    def __init__(self, tracking: Tracking, plan: RoundPlan) -> None:
        self._tracking, self._plan = tracking, plan
        self._run: TrackedRun | None = None
        self._shown = 0

    def show(self, records: Sequence[RoundSummary], *, is_finished: bool) -> None:
        """Track the rounds that came since the last call; nothing is connected before there is one."""
        if not self._tracking.is_on or (self._run is None and not records):
            return
        if self._run is None:
            digest = self._plan.digest()
            settings = {**self._plan.model_dump(mode="json"), "plan_digest": digest}
            self._run = self._tracking.run(self._plan.name, f"rounds {digest[:12]}", settings)
        for record in records[self._shown :]:
            if record.is_aggregated:
                self._run.log(round_figures(record), record.round)
        # A study that goes on from an earlier round may have cut its record.
        self._shown = len(records)
        if is_finished:
            self._run.end()
            self._tracking.stop()


def round_figures(record: RoundSummary) -> dict[str, float]:
    """A round's figures by name: over all sites together, never one site's."""
    figures = {
        "seconds": record.seconds,
        "bytes_down": float(record.bytes_down),
        "bytes_up": float(record.bytes_up),
        "sites_accepted": float(len(record.trained)),
        "replies_left_out": float(len(record.rejections)),
        "sites_at_work": float(len(record.at_work)),
        **_scores("validation", record.validation),
        **_scores("test", record.test),
    }
    return figures if record.train_loss is None else {**figures, "train_loss": record.train_loss}


def _scores(part: str, scores: Mapping[str, Score]) -> dict[str, float]:
    figures = {f"{part}_rmse/{name.replace('+', '-')}": score.rmse for name, score in scores.items()}
    return figures | {f"{part}_visits/{name.replace('+', '-')}": float(score.n) for name, score in scores.items()}
