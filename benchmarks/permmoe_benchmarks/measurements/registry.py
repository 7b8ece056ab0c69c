"""All sides and all curves, collected from the modules that declare them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from permmoe_benchmarks.library.curve import Curve
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.measurements import (
    data_loading,
    engine_overhead,
    epoch_scaling,
    expert_batching,
    fusion_step,
    held_out_accuracy,
    machine_peaks,
    message_bytes,
    prediction,
    private_gradients,
    protocol_rounds,
    reply_averaging,
    secure_sum_cost,
    server_memory,
    simulated_round,
    step_scaling,
    study_throughput,
    superlink_round,
    time_profile,
    training_step,
)

SIDES: Mapping[str, Measurement] = {
    name: side
    for module in (
        machine_peaks,
        training_step,
        fusion_step,
        expert_batching,
        prediction,
        message_bytes,
        server_memory,
        reply_averaging,
        simulated_round,
        data_loading,
        held_out_accuracy,
        time_profile,
    )
    for name, side in module.SIDES.items()
}
"""What is compared, by name; each still needs its `scale`."""

CURVES: tuple[Curve, ...] = tuple(
    chain(
        step_scaling.CURVES,
        protocol_rounds.CURVES,
        secure_sum_cost.CURVES,
        superlink_round.CURVES,
        engine_overhead.CURVES,
        study_throughput.CURVES,
        private_gradients.CURVES,
        epoch_scaling.CURVES,
    )
)
