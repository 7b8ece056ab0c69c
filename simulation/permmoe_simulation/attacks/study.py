"""What an attack study sets. There is no way to name real patients: the cohort is synthetic or there is none."""

from __future__ import annotations

from pydantic import Field

from permmoe.config import Configuration, ModelConfig, TrainConfig
from permmoe.data.cohort import CohortConfig


class AttackStudy(Configuration):
    """Games of an attacker against one round of a federation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    cohort: CohortConfig
    model: ModelConfig
    train: TrainConfig
    sites: int = Field(4, ge=3, description="in the round; the secure sum is over all of them")
    local_epochs: int = Field(2, ge=1)
    epsilons: tuple[float, ...] = Field((8.0, 1.0), description="of the one round, under differential privacy")
    delta: float = Field(1e-5, gt=0, lt=1)
    membership_visits: int = Field(8, ge=1, description="training visits of each site, the canary not counted")
    membership_trials: int = Field(60, ge=10)
    canary_points: float = Field(12.0, description="the canary's outcome, CDR-SB points: easy to find if anybody is")
    inversion_visits: tuple[int, ...] = Field((1, 4, 16), description="training visits of each site")
    inversion_trials: int = Field(12, ge=2)
    modality: str = Field("t1", description="whose images are reconstructed")
    least_patients: int = Field(5, ge=2, description="min_cell_count of the hospitals that differencing is tried on")
    hospital_visits: int = Field(40, ge=10, description="validation visits of such a hospital")
    differencing_trials: int = Field(40, ge=1)
    query_plans: int = Field(1000, ge=1, description="random sequences of questions, of patients and of sites")
    federation_sites: int = Field(8, ge=4, description="that a lying server chooses the participants of sums from")
    crafted_cells: int = Field(8, ge=1, description="voxels of a patient that crafted models ask for")
    crafted_trials: int = Field(6, ge=1)
    resamples: int = Field(500, ge=100)
    seed: int = 0
