"""What every participant of a federated study works by; it travels with every instruction."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, field_validator, model_validator

from permmoe.config import Configuration, ModelConfig, TrainConfig
from permmoe.errors import ConfigurationError
from permmoe.federated.federation_config import FederationConfig


class RoundPlan(Configuration):
    """A federated study. `train.seed` is the study's seed: initial weights and every site's randomness follow from it.

    `train.epochs` and `train.patience_epochs` play no role: a site trains `federation.local_epochs` a round.
    """

    name: str = Field("study", max_length=100, description="what the study is called")
    purpose: str = Field("", max_length=2000, description="what it is for, in words that a hospital can approve")
    is_synthetic: bool = Field(False, description="on invented patients; whatever shows its results then says so")
    # Absent from `model_dump` where they say nothing, so that digests and approvals of older studies stay valid.
    outcome: str = Field(
        "",
        max_length=200,
        description="what the study predicts, in words for hospitals; the numbers are those of the sites' own tables",
        exclude_if=lambda outcome: not outcome,
    )
    horizon_months: float | None = Field(
        None,
        gt=0,
        description="from the visit to the outcome; a site with outcomes of another horizon is refused; none: that of "
        "each site's own table",
        exclude_if=lambda months: months is None,
    )
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()

    @field_validator("name", "purpose", "outcome")
    @classmethod
    def _on_one_line(cls, text: str) -> str:
        # Among the settings that a hospital reads, a line of its own could pass for another setting.
        return " ".join(text.split())

    @model_validator(mode="after")
    def _sets_and_trains_all_of_the_model(self) -> RoundPlan:
        if self.model.ridge and not self.federation.centring_round:
            raise ValueError("model.ridge is set in the centring round; set federation.centring_round or leave it out")
        if self.model.unimodal_heads and self.federation.privacy:
            raise ValueError("unimodal_heads are not trained under differential privacy; leave them out")
        return self


def read_plan(path: Path) -> RoundPlan:
    """The plan of a study. Raises ConfigurationError."""
    try:
        return RoundPlan.model_validate_json(path.read_text())
    except OSError:
        raise ConfigurationError(f"no plan can be read at {path}; name an existing JSON file") from None
    except ValidationError as error:
        raise ConfigurationError(f"{path} is not a plan that can be used: {error}") from None
