"""Where a site computes a round, and what becomes of the round when its GPU fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from permmoe.errors import DeviceUnusable
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.device_errors import is_device_failure
from permmoe.runtime.devices import AUTO, on_device, training_device
from permmoe.training.within_memory import within_memory
from permmoe_client.participation.running_site import RunningSite

T = TypeVar("T")


def on_site_device(site: RunningSite, plan: RoundPlan, work: Callable[[str], T]) -> T:
    """What `work` returns on the device that the site's file names. `work` is a round from its beginning.

    At `auto` a round whose GPU fails begins anew on the CPU, and nothing of the first attempt has left. Raises
    DeviceUnusable where the file names a GPU that cannot be used: that round is refused, and the site stays.
    """
    wanted = site.settings.device
    device = training_device(wanted, gains_from_gpu=plan.model.encoder.declaration.gains_from_gpu)

    def begun(on: str) -> T:
        try:
            return work(on)
        except (RuntimeError, DeviceUnusable) as error:
            if is_device_failure(error):
                site.workshop.forget_network()
            raise

    return on_device(device, begun, falls_back=wanted == AUTO)


def within_site_memory(
    site: RunningSite, plan: RoundPlan, visits_at_once: int, train: Callable[[int], T], begin_anew: Callable[[], None]
) -> T:
    """A round's training, with fewer visits computed at a time where the GPU's memory is too small (`within_memory`).

    What fits is remembered, so that the study's later rounds begin with it.
    """
    known, study = site.workshop.visits_at_once, plan.digest()
    fitted = within_memory(min(known.get(study, visits_at_once), visits_at_once), train, begin_anew)
    if fitted.visits_at_once < visits_at_once:
        known[study] = fitted.visits_at_once
    return fitted.found
