"""Whether a hospital's images are read as those were that calibrated its model: harmonised, or as they were scanned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from permmoe.calibration.calibration import OwnPatients
from permmoe.errors import ConfigurationError


def require_read_alike(own: OwnPatients, present: Iterable[str], as_scanned: Mapping[str, str]) -> None:
    """Check that what a hospital's own patients changed in predictions and intervals is for these images, too.

    `present` are the modalities that there are, `as_scanned` those that are not harmonised, and why. Raises
    ConfigurationError for one that is read otherwise than at the calibration.
    """
    for name in present:
        if name in as_scanned and name not in own.as_scanned:
            raise ConfigurationError(
                f"the model was calibrated on {name} without what the hospital's scanners add, and here {name} would "
                f"be read as it was scanned: {as_scanned[name]}. Give a manifest that has the patients who calibrated "
                "the model as well, or take the model that it was made from"
            )
        if name not in as_scanned and name in own.as_scanned:
            raise ConfigurationError(
                f"the model was calibrated on {name} as it was scanned, for too few patients had it to tell what the "
                f"hospital's scanners add, and here enough have it: calibrate the model that it was made from again, "
                "with these patients"
            )
