"""The judgement of a prepared image by what its sidecar holds, for whoever has the image and not its folder."""

from __future__ import annotations

import json
from pathlib import Path

from permmoe.data.image_names import stem
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.rules import Judgement, judge_alone


def judgement_of(image: Path) -> Judgement | None:
    """What the limits say of an image that `permmoe data prepare` made; None where no sidecar holds its metrics."""
    try:
        said = json.loads(image.with_name(stem(image) + ".json").read_text())
        return judge_alone(ImageMetrics(**said["Metrics"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
