"""A study of attacks as its YAML file declares it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from permmoe.config import Configuration, ModelConfig, PrivacyConfig, TrainConfig
from permmoe.data.cohort import CohortConfig
from permmoe.errors import nearest
from permmoe_simulation.study import DataSource

LocalTraining = Literal["sgd_step", "adamw_step", "round"]
"""One step of plain gradient descent or of the study's optimiser on all visits at once, or a round as in the field."""
LOCAL_LABELS: dict[LocalTraining, str] = {
    "sgd_step": "one SGD step",
    "adamw_step": "one AdamW step",
    "round": "a whole round",
}


class Protection(Configuration):
    """What stands between a site's visits and the coordinator."""

    label: str
    secure: bool = Field(False, description="the coordinator holds only the sum over all sites")
    privacy: PrivacyConfig | None = Field(
        None, description="patient-level DP at every site; its target_epsilon is of the one round that is attacked"
    )


class Canary(Configuration):
    """The patient whose membership is asked for."""

    label: str
    target_points: float | None = Field(
        None, description="outcome put in place of the patient's own, CDR-SB points; none: the patient as he is"
    )


class MembershipConfig(Configuration):
    """Was this patient among those that a site trained with?"""

    repetitions: int = Field(150, ge=20, description="trials, each with sites, patient and seeds of its own")
    visits_per_site: PositiveInt = 24
    canaries: dict[str, Canary] = Field(min_length=1)


class InversionConfig(Configuration):
    """What did a patient's image look like?"""

    repetitions: int = Field(20, ge=1)
    modality: str = "t1"
    visits: tuple[PositiveInt, ...] = Field((1, 4, 16), min_length=1, description="of each site")
    training: tuple[LocalTraining, ...] = Field(("sgd_step", "adamw_step", "round"), min_length=1)
    components: int = Field(16, ge=1, description="most components that a mixture is taken apart into")


class AttackStudy(Configuration):
    """A whole study of attacks."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    data: DataSource
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    local_epochs: int = Field(2, ge=1, description="passes over a site's visits in the round that is attacked")
    rounds: int = Field(24, ge=1, description="of a whole study, over which ε is told beside that of one round")
    sites: int = Field(5, ge=1, description="in the secure sum")
    min_holders: int = Field(3, ge=1, description="a module that fewer sites trained is not released")
    public_visits: PositiveInt = Field(60, description="visits that the model is brought to its state before with")
    public_epochs: int = Field(10, ge=0, description="passes over them")
    protections: dict[str, Protection] = Field(min_length=1)
    membership: MembershipConfig
    inversion: InversionConfig
    seed: NonNegativeInt = 0
    bootstrap_resamples: int = Field(1000, ge=100)

    @model_validator(mode="after")
    def _attacks_no_patient(self) -> AttackStudy:
        if self.data.synthetic is None:
            raise ValueError("attacks run on synthetic cohorts only, never on patients; set data.synthetic")
        return self

    @model_validator(mode="after")
    def _can_be_played(self) -> AttackStudy:
        known = [m.name for m in self.model.modalities if m.kind == "volume"]
        if self.model.encoder.kind != "pooled":
            raise ValueError("the inversion reads the linear map of the pooled encoder; set encoder.kind to pooled")
        if self.inversion.modality not in known:
            name = self.inversion.modality
            raise ValueError(f"no volume modality {name!r}; {nearest(name, known)}")
        if self.sites < self.min_holders:
            raise ValueError(f"a sum over {self.sites} sites never reaches min_holders = {self.min_holders}")
        return self

    @property
    def cohort(self) -> CohortConfig:
        """The synthetic cohort."""
        assert self.data.synthetic is not None  # `_attacks_no_patient`
        return self.data.synthetic

    @property
    def visits_needed(self) -> int:
        """Visits, those of the public part included, without which a trial cannot be dealt out."""
        largest = 2 * self.sites * max(self.inversion.visits)
        return self.public_visits + max(self.sites * self.membership.visits_per_site + 1, largest)
