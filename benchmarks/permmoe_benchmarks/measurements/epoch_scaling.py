"""One pass over many patients' visits in one place."""

from __future__ import annotations

from permmoe.data.rows import MemoryRows
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb, resident_memory_mb
from permmoe.training.epochs import train_epochs
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.cohort import default_study
from permmoe_benchmarks.library.curve import Curve, at_every_scale
from permmoe_benchmarks.library.inputs import complete_visits
from permmoe_benchmarks.library.timing import Figures, median_seconds


def epoch(patients: int) -> Figures:
    """Return the seconds and memory (MB above the idle process) of an epoch over one visit of each patient.

    Model and batch are the default study's; every visit has all modalities.
    """
    study = default_study()
    before = resident_memory_mb()
    data, model = complete_visits(study.model, patients), make_model(study.model, 0)
    optimiser = make_optimiser(model, study.train)
    forget_peak_memory()

    def once() -> None:
        train_epochs(model, data, study.train, first_epoch=9, epochs=1, seed=0, optimiser=optimiser)

    rows = sum(rows.rows.nbytes for rows in data.inputs.values() if isinstance(rows, MemoryRows))
    seconds = median_seconds(once, 2, 0.5)
    return {"seconds": seconds, "memory_mb": peak_memory_mb() - before, "rows_mb": rows / 1e6}


CURVES = (
    Curve(
        "epoch-patients", "epoch", epoch, "patients",
        {"tiny": (10, 20, 40), "quick": (100, 400, 1600, 6400), "full": (100, 400, 1600, 6400, 25600)},
        at_every_scale(), {"tiny": 1, "quick": 1, "full": 3},
    ),
)  # fmt: skip
