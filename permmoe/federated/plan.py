"""What every participant of a federated study works by; it travels with every instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from permmoe.config import Configuration, ModelConfig, TrainConfig, require_pretrainable
from permmoe.errors import ConfigurationError
from permmoe.federated.aggregation_rules import MODALITY_FEDAVG
from permmoe.federated.evaluation_config import EvaluationConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.forgetting_config import ForgettingConfig
from permmoe.federated.survey_config import MOST_NUMBERS, SurveyConfig

StudyKind = Literal["training", "survey", "evaluation"]


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
    survey: SurveyConfig | None = Field(
        None,
        description="a survey: hospitals count patients, and nothing is trained or evaluated",
        exclude_if=lambda survey: survey is None,
    )
    evaluation: EvaluationConfig | None = Field(
        None,
        description="an evaluation: hospitals judge a finished model, and nothing is trained",
        exclude_if=lambda evaluation: evaluation is None,
    )
    forgets: ForgettingConfig | None = Field(
        None,
        description="whom it is trained without that an earlier study was trained with; permmoe-server study forget "
        "writes it",
        exclude_if=lambda forgets: forgets is None,
    )

    @model_validator(mode="before")
    @classmethod
    def _a_survey_and_an_evaluation_have_one_round(cls, values: Any) -> Any:
        # One that is given is held against it below.
        if isinstance(values, dict):
            every = 0 if values.get("survey") is not None else 1 if values.get("evaluation") is not None else None
            given = values.get("federation", {})
            if every is not None and isinstance(given, dict):
                values = {**values, "federation": {"rounds": 1, "evaluate_every": every, **given}}
        return values

    @property
    def kind(self) -> StudyKind:
        """What hospitals are asked to do."""
        return "survey" if self.survey else "evaluation" if self.evaluation else "training"

    @property
    def pretrains(self) -> bool:
        """Whether sites' scans of patients without an outcome are learned from."""
        return self.kind == "training" and self.federation.pretraining_rounds > 0

    @property
    def members(self) -> int:
        """How many models the judged one is made of; a study trains a single one."""
        return self.evaluation.members if self.evaluation else 1

    @field_validator("name", "purpose", "outcome")
    @classmethod
    def _on_one_line(cls, text: str) -> str:
        # Among the settings that a hospital reads, a line of its own could pass for another setting.
        return " ".join(text.split())

    @model_validator(mode="after")
    def _sets_and_trains_all_of_the_model(self) -> RoundPlan:
        if self.model.ridge and not self.federation.centring_round:
            raise ValueError("model.ridge is set in the centring round; set federation.centring_round or leave it out")
        is_told = self.federation.harmonising_round
        if self.kind == "training" and (self.model.harmonisation is not None) != is_told:
            raise ValueError(
                "model.harmonisation is told in the harmonising round; set federation.harmonising_round to true with "
                "it, or leave out both"
            )
        if self.model.harmonisation and self.federation.privacy:
            raise ValueError("sums of a harmonisation have no noise; leave it out under differential privacy")
        if self.model.harmonisation and self.members > 1:
            raise ValueError("an ensemble has no harmonisation of its own; judge its members one by one")
        privacy, ridge = self.federation.privacy, self.model.ridge
        if privacy and privacy.moments and (ridge is None or ridge.share != 1):
            raise ValueError(
                "privacy.moments sets the ridge's moments and trains nothing else; set model.ridge.share to 1"
            )
        require_pretrainable(self.model, self.train)
        has_rounds = self.federation.pretraining_rounds > 0
        if self.kind == "training" and has_rounds != (self.train.pretraining is not None):
            raise ValueError(
                "train.pretraining says how encoders learn from scans, and federation.pretraining_rounds for how many "
                "rounds; set both, or neither"
            )
        if self.model.horizons_months:
            raise ValueError("hospitals' tables have outcomes of one horizon; leave model.horizons_months out")
        if self.train.frozen_encoders and self.federation.privacy:
            raise ValueError("frozen_encoders are not kept still under differential privacy; leave it out")
        if self.model.bank == "clusters" and privacy and not privacy.moments:
            raise ValueError(
                "bank = clusters completes visits from centres, which have no noise; take another bank under "
                "differential privacy"
            )
        if self.model.bank == "clusters" and (
            self.federation.aggregation_rule != MODALITY_FEDAVG or self.federation.drift_correction
        ):
            raise ValueError(
                "bank = clusters: centres are means over the sites' visits, which modality_fedavg without "
                "drift_correction averages; set aggregation and drift_correction so"
            )
        if self.model.unimodal_heads and self.federation.privacy:
            raise ValueError("unimodal_heads are not trained under differential privacy; leave them out")
        if privacy and "bank" in privacy.trains and not self.model.has_learned_bank:
            raise ValueError(f"bank = {self.model.bank} has no tokens to train; leave bank out of privacy.trains")
        if self.model.spread != "none" and self.federation.privacy:
            raise ValueError("the spread is not trained under differential privacy; leave model.spread out")
        return self

    @model_validator(mode="after")
    def _forgets_by_training(self) -> RoundPlan:
        if self.forgets and self.kind != "training":
            raise ValueError("only a study that trains forgets somebody; leave forgets out")
        if self.forgets and self.forgets.first_round > self.federation.rounds:
            raise ValueError("forgets.first_round is one of the study's rounds; mend it, or federation.rounds")
        return self

    @model_validator(mode="after")
    def _judges_in_an_evaluation_once(self) -> RoundPlan:
        if self.evaluation is None:
            return self
        if self.survey is not None:
            raise ValueError("a study is a survey or an evaluation; leave one of them out")
        if (self.federation.rounds, self.federation.evaluate_every) != (1, 1):
            raise ValueError("an evaluation judges once: leave out federation.rounds and federation.evaluate_every")
        if self.federation.privacy:
            raise ValueError("sums that judge a finished model have no noise; leave federation.privacy out")
        if self.federation.private_modules:
            raise ValueError("an evaluation judges one model for all; leave federation.private_modules out")
        return self

    @model_validator(mode="after")
    def _asks_in_a_survey_for_counts_alone(self) -> RoundPlan:
        if self.survey is None:
            return self
        if (self.federation.rounds, self.federation.evaluate_every) != (1, 0):
            raise ValueError("a survey counts once: leave out federation.rounds and federation.evaluate_every")
        if self.federation.privacy:
            raise ValueError("a survey's counts have no noise; leave out federation.privacy")
        if (n := self.survey.n_numbers(len(self.model.names))) > MOST_NUMBERS:
            raise ValueError(
                f"a survey tells {MOST_NUMBERS:,} numbers at most, and this one {n:,}: name fewer modalities, or fewer "
                "bounds of severity"
            )
        if outside := [bound for bound in self.survey.severity if not self.model.score.holds(bound)]:
            raise ValueError(f"{self.model.score.name} is never {outside[0]:g}; bounds of severity lie on its scale")
        return self


def read_plan(path: Path) -> RoundPlan:
    """The plan of a study. Raises ConfigurationError."""
    try:
        return RoundPlan.model_validate_json(path.read_text())
    except OSError:
        raise ConfigurationError(f"no plan can be read at {path}; name an existing JSON file") from None
    except ValidationError as error:
        raise ConfigurationError(f"{path} is not a plan that can be used: {error}") from None
