"""What federating costs: a client's round beside its training, on both engines, and averaging beside Flower's.

    python benchmarks/federation.py

Prints JSON. Data are synthetic. Trust the ratios, not the milliseconds: they depend on the machine.
"""

from __future__ import annotations

import json

from permmoe.runtime.provenance import machine, versions
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.own_process import Measurement, measure
from permmoe_benchmarks.measurements.engine_overhead import CLIENTS, ROUNDS, overhead_milliseconds
from permmoe_benchmarks.measurements.reply_averaging import LARGE, average_replies, average_with_flower

REPLIES = (10, 40)


def main() -> None:
    """Run each measurement in a process of its own and print them together."""
    averaged = {
        name: {n: measure(Measurement(function, {"scale": "quick", "replies": n}, is_fresh=True)) for n in REPLIES}
        for name, function in (("ours", average_replies), ("flower_fedavg", average_with_flower))
    }
    overheads = {
        engine: measure(Measurement(overhead_milliseconds, {"engine": engine}, is_fresh=True))
        for engine in ("inprocess", "ray")
    }
    result = {
        "averaging": {
            "parameters": sum(p.numel() for p in make_model(LARGE, 0).parameters()),
            "ours_by_replies": averaged["ours"],
            "flower_fedavg_by_replies": averaged["flower_fedavg"],
        },
        "overhead_ms_per_client_round": {
            "clients": CLIENTS,
            "rounds": ROUNDS,
            **overheads,
            "ratio": {key: overheads["ray"][key] / overheads["inprocess"][key] for key in overheads["ray"]},
        },
        "versions": versions(),
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))
