"""The settings, each with its unit, its default and its meaning; an unknown key fails and names the nearest."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from permmoe.encoder_kinds import ENCODERS, EncoderKind, encoder_kind
from permmoe.errors import ConfigurationError, refuse_unknown_keys
from permmoe.modality import ADNI_MODALITIES, Modality
from permmoe.plain_text import refuse_unprintable

AGE = "age_years"
"""The column of a manifest that every visit carries as far as it is known."""
CDRSB_CHANGE = (-18.0, 18.0)
"""The range of a change in CDR-SB, a score from 0 to 18 points."""


class Configuration(BaseModel):
    """Frozen and closed: a typing mistake is an error that names the nearest valid key.

    A text with a character that a terminal obeys is refused: settings are shown to people who decide by them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        refuse_unprintable(values)
        refuse_unknown_keys(values, cls.model_fields)
        return values

    def canonical_json(self) -> str:
        """One text for one meaning: sorted keys, no white space, defaults written out unless excluded."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the canonical text, in hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


class VolumeGrid(Configuration):
    """The voxel grid on which every volume enters a model."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (48, 56, 48), description="voxels left-right, back-front, down-up (RAS)"
    )
    spacing_mm: float = Field(4.0, gt=0, description="edge of a cubic voxel, mm")


class EncoderWeights(Configuration):
    """A file of encoders that is brought along (permmoe.encoder_weights), named so that no other passes for it."""

    file: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="its name, without a folder: each machine has its own"
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the whole file")
    licence: str = Field(min_length=1, max_length=100, description="as the file's header states it, such as CC-BY-4.0")
    source: str = Field("", max_length=300, description="who trained them on what, for the model's card")


class EncoderConfig(Configuration):
    """How an observed volume becomes tokens. Tabular modalities take a two-layer perceptron, or slices of columns."""

    kind: str = Field("pooled", description="; ".join(f"{name}: {kind.description}" for name, kind in ENCODERS.items()))
    cells: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (12, 14, 12), description="the coarse grid on which location is kept"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the encoder's features dropped while training")
    tabular_width: int = Field(32, ge=1, description="hidden units of a tabular encoder")
    # Absent from `model_dump` at their defaults, so that digests and approvals of older studies stay valid.
    dropout_of: Literal["features", "channels"] = Field(
        "features", exclude_if=lambda value: value == "features",
        description="what is dropped behind the last stage; channels: whole ones, as Flex-MoE's CNN does",
    )  # fmt: skip
    token_map: Literal["features", "slices"] = Field(
        "features", exclude_if=lambda value: value == "features",
        description="features: every token is a linear map of all features; slices: as in Flex-MoE's code, a volume's "
        "features become d numbers, which (or a table's columns) are cut into T slices, each mapped to a token by one "
        "map for all of them",
    )  # fmt: skip

    weights: EncoderWeights | None = Field(
        None, exclude_if=lambda weights: weights is None,
        description="a file that the encoders of volumes start from, the means of their inputs included; none: random",
    )  # fmt: skip

    @field_validator("kind")
    @classmethod
    def _is_declared(cls, name: str) -> str:
        encoder_kind(name)
        return name

    @model_validator(mode="after")
    def _has_what_it_drops(self) -> EncoderConfig:
        if self.dropout_of == "channels" and not self.declaration.has_channels:
            able = ", ".join(name for name, kind in ENCODERS.items() if kind.has_channels)
            raise ValueError(f"dropout_of = channels needs an encoder that can drop them ({able}), not {self.kind!r}")
        return self

    @property
    def declaration(self) -> EncoderKind:
        """What the encoder of volumes is and needs."""
        return encoder_kind(self.kind)


class Score(Configuration):
    """A clinical score whose change from the visit to the horizon is predicted."""

    name: str = Field("CDR-SB", min_length=1, max_length=60, description="as hospitals' tables have to name it, too")
    unit: str = Field("points", min_length=1, max_length=40, description="what the model's numbers are in")
    lowest: float | None = Field(0.0, description="the least that it can be; none: no bound")
    highest: float | None = Field(18.0, description="the most that it can be; none: no bound")

    @field_validator("name", "unit")
    @classmethod
    def _on_one_line(cls, text: str) -> str:
        # Among the settings that a hospital reads, a line of its own could pass for another setting.
        return " ".join(text.split())

    @property
    def in_words(self) -> str:
        """The score and its unit, as behind a number: `CDR-SB points`."""
        return f"{self.name} {self.unit}"

    def holds(self, number: float, margin: float = 0.0) -> bool:
        """Whether a number lies on the scale, give or take a margin; NaN and infinities do not."""
        low, high = self.bounds
        return math.isfinite(number) and low - margin <= number <= high + margin

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and most, infinite where there is no bound."""
        low = -math.inf if self.lowest is None else self.lowest
        return low, math.inf if self.highest is None else self.highest


CDR_SB = Score()
"""The sum of boxes of the Clinical Dementia Rating."""


class RidgeConfig(Configuration):
    """The closed-form linear partner of the mixture of experts (permmoe.layers.ridge)."""

    cells: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (5, 6, 5), description="the coarse grid whose voxels it is linear in"
    )
    penalty: float = Field(0.1, gt=0, description="on the scaled directions, whose variances sum to about one")
    share: float = Field(
        0.5, ge=0, le=1,
        description="the ridge's part of the prediction; the experts have the rest; 0: its moments translate alone",
    )  # fmt: skip
    # Absent from `model_dump` at its default, so that digests and approvals of older studies stay valid.
    directions: Literal["principal", "declared"] = Field(
        "principal", exclude_if=lambda directions: directions == "principal",
        description="what it shrinks; principal: features' principal directions, scaled by their own spread, and next "
        "to nothing of the score's slope; declared: features and score as they are scaled by the configuration, for "
        "moments whose noise would be scaled up with the rest",
    )  # fmt: skip


class Covariate(Configuration):
    """A column of the table of visits that images are adjusted for; its scale is declared, so that nobody fits it."""

    column: str
    mean: float = Field(description="about what patients have, in the column's unit")
    deviation: float = Field(gt=0, description="by about what they differ, in the column's unit")


class HarmonisationConfig(Configuration):
    """How sites of a federation take out of their images what their scanners add (permmoe.layers.harmonisation)."""

    covariates: tuple[Covariate, ...] = Field(
        (Covariate(column=AGE, mean=73.0, deviation=7.0),), max_length=5,
        description="what images are adjusted for, besides the score at the visit",
    )  # fmt: skip
    is_scaled: bool = Field(True, description="false: sites differ by a shift alone, and not in spread")
    least_visits: int = Field(
        20, ge=10, description="a site with fewer visits of a modality leaves that modality as it is"
    )

    @field_validator("covariates")
    @classmethod
    def _are_named_once(cls, covariates: tuple[Covariate, ...]) -> tuple[Covariate, ...]:
        names = [covariate.column for covariate in covariates]
        if len(set(names)) != len(names):
            raise ValueError(f"covariates are named twice: {', '.join(names)}")
        return covariates

    @property
    def columns(self) -> tuple[str, ...]:
        """The covariates' columns of the table of visits."""
        return tuple(covariate.column for covariate in self.covariates)

    @property
    def columns_beside_age(self) -> tuple[str, ...]:
        """The covariates that visits carry only where somebody asks for them."""
        return tuple(column for column in self.columns if column != AGE)


class ClusterConfig(Configuration):
    """The clusters whose centres stand in for missing modalities (permmoe.layers.clusters)."""

    per_modality: int = Field(8, ge=2, description="clusters of each modality's tokens, K")
    temperature: float = Field(0.5, gt=0, description="of the contrastive loss that draws tokens to their centre")
    most_move: float = Field(
        0.2,
        gt=0,
        description="root mean square by which a training moves a centre at most; a site refuses a model of which a "
        "module moves by more than its release.max_model_change in a round, by default 0.5",
    )


class HospitalLine(Configuration):
    """What a hospital that did not train a model makes of its predictions (permmoe.calibration.at_hospital)."""

    intercept: float = Field(description="points of the outcome")
    slope: float = Field(ge=0, description="1: as the model has it; below zero patients would change their order")


class ModelConfig(Configuration):
    """PerM-MoE, or Flex-MoE where `routers` is `shared`; at the defaults our small variant of it.

    `configs/models/permmoe-published.yaml` has the published sizes, `docs/models.md` what differs.
    """

    modalities: tuple[Modality, ...] = Field(ADNI_MODALITIES, description="in the order of M", min_length=1)
    grid: VolumeGrid = Field(VolumeGrid(), description="for every modality of kind volume")
    encoder: EncoderConfig = EncoderConfig()
    routers: Literal["per_modality", "shared"] = "per_modality"
    tokens: int = Field(1, ge=1, description="tokens a modality, T")
    width: int = Field(32, ge=1, description="width of a token, d")
    heads: int = Field(4, ge=1, description="attention heads")
    experts: int = Field(16, ge=1, description="experts, E")
    bank: Literal["learned", "unconditioned", "zeros", "random", "none", "translated", "clusters"] = Field(
        "learned",
        description="what stands in for m: B[P, m]; one B[m] whatever P is; zeros; fixed random tokens; none: nothing, "
        "m is masked out of attention, experts and head; translated: what a ridge makes of the observed ones, encoded; "
        "clusters: what visits have of m whose observed tokens are in the same clusters",
    )
    attention: bool = Field(True, description="false: modalities meet in the head alone")
    top_k: int = Field(4, ge=1, description="experts a token is sent to, k")
    expert_hidden: int = Field(128, ge=1, description="hidden units of an expert, h")
    head_hidden: int = Field(64, ge=1, description="hidden units of the prediction head")
    dropout: float = Field(0.1, ge=0, lt=1, description="in attention, experts and head, while training")
    router_noise: bool = Field(True, description="learned Gaussian noise on router logits while training")
    unimodal_heads: bool = Field(False, description="while training, each encoder also predicts by itself")
    ridge: RidgeConfig | None = Field(None, description="predict together with a ridge of every combination")
    baseline_centre_points: float = Field(
        1.5, description="mean of the score at the visit; by default the published one of CDR-SB in MCI, points"
    )
    baseline_scale_points: float = Field(
        1.0, gt=0, description="SD of the score at the visit; by default the published one of CDR-SB in MCI, points"
    )
    # Absent from `model_dump` at their defaults, so that digests and approvals of older studies stay valid.
    score: Score = Field(
        CDR_SB, exclude_if=lambda score: score == CDR_SB,
        description="the score whose change is predicted, with its unit and its scale; tables of another are refused",
    )  # fmt: skip
    outcome_range: tuple[float, float] | None = Field(
        CDRSB_CHANGE, exclude_if=lambda bounds: bounds == CDRSB_CHANGE,
        description="the range of the outcome, points of change; predictions are bounded to it; none: unbounded",
    )  # fmt: skip
    bank_deviation: float = Field(
        0.02, gt=0, exclude_if=lambda value: value == 0.02, description="SD of the bank's learned tokens at the start"
    )
    fusion: Literal["pre_norm", "flex_moe"] = Field(
        "pre_norm", exclude_if=lambda value: value == "pre_norm",
        description="the attention layer; flex_moe: as in Flex-MoE's code, its output is added to itself, not to its "
        "input, dropout is also on the attention's weights and on that sum, queries, keys and values have no bias, and "
        "every token of every modality has a position of its own that starts at zero",
    )  # fmt: skip
    head: Literal["perceptron", "linear"] = Field(
        "perceptron", exclude_if=lambda value: value == "perceptron",
        description="perceptron: norm, one hidden layer of GELU, dropout; linear: one linear map and nothing else",
    )  # fmt: skip
    initialisation: Literal["scaled", "flex_moe"] = Field(
        "scaled", exclude_if=lambda value: value == "scaled",
        description="weights of linear maps at the start; scaled: unit variance is kept and routers start without "
        "learned noise; flex_moe: PyTorch's and FastMoE's, which Flex-MoE's code starts from",
    )  # fmt: skip

    clusters: ClusterConfig = Field(
        ClusterConfig(), exclude_if=lambda clusters: clusters == ClusterConfig(),
        description="of bank = clusters; without it they say nothing",
    )  # fmt: skip
    gate: Literal["linear", "laplace"] = Field(
        "linear", exclude_if=lambda value: value == "linear",
        description="a router's logits; linear: h·W; laplace: minus the distance of h from each column of W, as in "
        "FuseMoE, so that an expert has a place among the tokens and no direction",
    )  # fmt: skip
    spread: Literal["none", "laplace", "gaussian"] = Field(
        "none", exclude_if=lambda value: value == "none",
        description="laplace, gaussian: a head of its own learns by this likelihood how far off each prediction may "
        "be, for intervals; the prediction is the same bit by bit",
    )  # fmt: skip
    harmonisation: HarmonisationConfig | None = Field(
        None, exclude_if=lambda found: found is None,
        description="a federation's sites take the location and the scale of their own scanners out of their images",
    )  # fmt: skip
    horizons_months: tuple[PositiveFloat, ...] = Field(
        (), exclude_if=lambda months: not months,
        description="the model is told the horizon, and trained on the change at each of these that a patient has; "
        "none: it knows of one horizon alone, that of the table",
    )  # fmt: skip
    at_hospital: HospitalLine | None = Field(
        None, exclude_if=lambda line: line is None,
        description="the line that a hospital's own patients put behind the finished model; training knows none",
    )  # fmt: skip

    @model_validator(mode="after")
    def _is_consistent(self) -> ModelConfig:
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError(f"modalities are named twice: {', '.join(names)}")
        if self.top_k > self.experts:
            raise ValueError(f"top_k = {self.top_k} exceeds experts = {self.experts}")
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        if empty := [m.name for m in self.modalities if m.has_columns and not m.columns]:
            raise ValueError(f"tabular modalities without columns: {', '.join(empty)}")
        if self.outcome_range and not -math.inf < self.outcome_range[0] < self.outcome_range[1] < math.inf:
            raise ValueError(f"outcome_range = {list(self.outcome_range)} is no range; give the lower bound first")
        if self.bank == "translated" and self.ridge is None:
            raise ValueError("bank = translated takes the moments of the ridge; give ridge: {share: 0} for them alone")
        if self.ridge and not self.ridge.share and self.bank != "translated":
            raise ValueError("a ridge with share = 0 predicts nothing; leave ridge out, or set bank = translated")
        if self.harmonisation and self.encoder.declaration.reads == "voxels":
            raise ValueError(
                f"harmonisation is of the cells of a coarse grid; encoder.kind = {self.encoder.kind} reads voxels: "
                "take pooled, or leave harmonisation out"
            )
        if self.horizons_months:
            self._require_told_heads()
        if self.score != CDR_SB and self.outcome_range == CDRSB_CHANGE:
            raise ValueError(
                f"outcome_range is that of a change in CDR-SB; give that of a change in {self.score.name}, or null"
            )
        return self

    def _require_told_heads(self) -> None:
        """Whatever predicts has to be told the horizon."""
        if list(self.horizons_months) != sorted(set(self.horizons_months)) or len(self.horizons_months) < 2:
            raise ValueError("horizons_months: name two horizons or more, each once, the nearest first")
        if self.head != "perceptron":
            raise ValueError("horizons_months: a linear head cannot bend with the horizon; set head = perceptron")
        for name, is_set in (("ridge", self.ridge is not None), ("unimodal_heads", self.unimodal_heads)):
            if is_set:
                raise ValueError(f"horizons_months: {name} predicts without a horizon; leave one of them out")

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities' names in order."""
        return tuple(m.name for m in self.modalities)

    @property
    def has_learned_bank(self) -> bool:
        """Whether what stands in for a missing modality follows a gradient."""
        return self.bank in ("learned", "unconditioned")

    @property
    def harmonised_by(self) -> tuple[str, ...]:
        """The columns of a table of visits, besides the age, that its harmonisation adjusts for."""
        return self.harmonisation.columns_beside_age if self.harmonisation else ()

    @property
    def unit_points(self) -> float:
        """What errors are measured in multiples of: 1 point of CDR-SB.

        Of another outcome a thirty-sixth of its range, as of CDR-SB's; without a range the SD of the score at the
        visit. Sites know it from the settings, so that they count errors on one grid.
        """
        if self.outcome_range is None:
            return self.baseline_scale_points
        low, high = self.outcome_range
        return (high - low) / (CDRSB_CHANGE[1] - CDRSB_CHANGE[0])


class RoutingLosses(Configuration):
    """How the balance and the specialisation loss are taken; at the defaults as PerM-MoE's are here.

    What stands second in each choice is what Flex-MoE's public code does (`configs/models/flex-moe-public.yaml`).
    """

    over_modalities: Literal["mean", "sum"] = Field(
        "mean", description="of specialisation over modalities, and of balance over the pools that are balanced"
    )
    # Absent from `model_dump` at its default, so that digests and approvals of older studies stay valid.
    balance: Literal["variation", "entropy"] = Field(
        "variation", exclude_if=lambda value: value == "variation",
        description="variation: the squared coefficient of variation over experts, as the choices below have it; "
        "entropy: FuseMoE's, that each modality's share of experts be narrow and that of all modalities be wide",
    )  # fmt: skip
    balance_pool: Literal["router", "modality"] = Field(
        "router",
        description="tokens that are balanced with each other: all that a router sees, or each modality's by "
        "themselves, so that a shared router and one a modality are balanced alike",
    )
    balance_visits: Literal["together", "apart"] = Field(
        "together",
        description="apart: visits with all modalities over all experts, the others over all but expert 0, added up",
    )
    variance: Literal["population", "sample"] = Field(
        "population", description="of the balance's squared coefficient of variation over experts"
    )
    specialised_logits: Literal["clean", "noisy"] = Field(
        "clean", description="the logits of the specialisation's cross-entropy; noisy: as the gates are drawn from"
    )


OUR_ROUTING_LOSSES = RoutingLosses()


class PretrainingConfig(Configuration):
    """Masked reconstruction of scans before the outcome is learned (permmoe.training.pretraining)."""

    epochs: int = Field(
        20, ge=1, description="passes over all scans at one place; in a federation its pretraining_rounds count"
    )
    hidden: float = Field(0.5, gt=0, lt=1, description="share of a scan's blocks that is hidden")
    block: int = Field(2, ge=1, description="edge of a hidden block, cells of the coarse grid")
    is_across: bool = Field(
        False, description="each scan also predicts the other scans of its visit, whole, from what is left of it"
    )
    batch_size: int = Field(32, ge=1, description="visits a step")
    learning_rate: float = Field(5e-4, gt=0)


class TrainConfig(Configuration):
    """How a model is fitted to visits at one place."""

    epochs: int = Field(60, ge=1, description="passes over the training visits")
    warmup_epochs: int = Field(5, ge=0, description="first epochs in which visits come in the warm-up order")
    warmup_order: Literal["most_first", "fewest_first"] = Field("most_first", description="by number of modalities")
    batch_size: int = Field(32, ge=1, description="visits a step")
    learning_rate: float = Field(3e-4, gt=0)
    # Absent from `model_dump` at its default, so that digests and approvals of older studies stay valid.
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw", exclude_if=lambda name: name == "adamw",
        description="adamw; sgd: steps in proportion to the gradient, without momentum, for large batches",
    )  # fmt: skip
    weight_decay: float = Field(1e-2, ge=0, description="decoupled from the gradient's size; at 0 AdamW is Adam")
    modality_dropout: float = Field(0.4, ge=0, lt=1, description="chance to withhold an observed modality, never all")
    auxiliary_weight: float = Field(0.01, ge=0, description="λ of balance and specialisation")
    unimodal_weight: float = Field(1.0, ge=0, description="of the unimodal heads' squared error, where there are any")
    # Absent from `model_dump` at its default, so that digests and approvals of older studies stay valid.
    alignment_weight: float = Field(
        0.1, ge=0, exclude_if=lambda weight: weight == 0.1,
        description="of the contrastive loss of a model with bank = clusters; of others it plays no role",
    )  # fmt: skip
    specialisation: bool = Field(True, description="tie each incomplete combination to its designated expert")
    balance: bool = Field(True, description="keep experts in use, as routing_losses.balance says")
    gradient_norm: float | None = Field(1.0, gt=0, description="clip the whole gradient to this L2 norm; none: never")
    averaging_decay: float = Field(
        0.0, ge=0, lt=1, description="of the running mean over epochs that is evaluated and kept; 0: the newest weights"
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="weights to keep: of the epoch or round with the least validation error, or of the last",
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last is always validated")
    patience_epochs: int = Field(0, ge=0, description="stop after this number of epochs without improvement; 0: never")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it is faster")
    threads: int = Field(1, ge=0, description="CPU threads of one training; equal counts give bitwise equal results")
    # Absent from `model_dump` at their defaults, so that digests of older configurations stay what they were.
    micro_batch: int = Field(
        0, ge=0, exclude_if=lambda size: size == 0,
        description="visits computed at a time, where a batch does not fit into memory; 0: the whole batch. Gradients "
        "add up to the whole batch's up to rounding, but for the balance loss, which compares the visits of a "
        "micro-batch with each other, and for other random numbers in dropout and router noise",
    )  # fmt: skip
    checkpoint_encoders: bool = Field(
        False, exclude_if=lambda is_on: not is_on,
        description="compute the encoders' activations again in the backward pass instead of keeping them: less "
        "memory, more time, the same gradients",
    )  # fmt: skip
    deterministic: bool = Field(
        False, exclude_if=lambda is_on: not is_on,
        description="the same bits from the same training twice on a GPU too, with slower operations where those that "
        "are taken else add up in any order; a CPU gives the same bits without it",
    )  # fmt: skip
    routing_losses: RoutingLosses = Field(
        OUR_ROUTING_LOSSES, exclude_if=lambda losses: losses == OUR_ROUTING_LOSSES,
        description="how balance and specialisation are taken",
    )  # fmt: skip
    pretraining: PretrainingConfig | None = Field(
        None, exclude_if=lambda pretraining: pretraining is None,
        description="encoders first learn from scans alone, also from those of visits without an outcome; none: never",
    )  # fmt: skip
    frozen_encoders: bool = Field(
        False, exclude_if=lambda is_on: not is_on,
        description="the outcome does not move the encoders of volumes: they stay as pretraining, or a file, has them",
    )  # fmt: skip
    seed: int = 0

    @model_validator(mode="after")
    def _stops_for_what_it_keeps(self) -> TrainConfig:
        if self.patience_epochs and self.keep == "last":
            raise ValueError("patience_epochs waits for a best epoch, and keep = last asks for none; set one of them")
        return self


def require_pretrainable(model: ModelConfig, train: TrainConfig) -> None:
    """Raise ValueError for a model whose encoders cannot be trained before the outcome, brought along or kept still as
    the settings ask for it."""
    encoder, has_scans = model.encoder, not all(modality.has_columns for modality in model.modalities)
    if encoder.weights and not has_scans:
        raise ValueError("encoder.weights are of encoders of volumes, and the model has none; leave them out")
    if train.frozen_encoders and not (train.pretraining or encoder.weights):
        raise ValueError(
            "frozen_encoders would keep random weights; set pretraining or encoder.weights, or leave it out"
        )
    if train.frozen_encoders and model.unimodal_heads:
        raise ValueError("unimodal_heads belong to the encoders, which frozen_encoders keeps still; set one of them")
    if train.pretraining is None:
        return
    if encoder.weights:
        raise ValueError("encoder.weights have learned from scans already; leave out train.pretraining, or them")
    if not encoder.declaration.reconstructs:
        able = ", ".join(name for name, kind in ENCODERS.items() if kind.reconstructs)
        raise ValueError(f"train.pretraining needs an encoder that reconstructs scans ({able}), not {encoder.kind!r}")
    if encoder.token_map != "features":
        raise ValueError("train.pretraining reads scans back off all features; set encoder.token_map to features")
    if not has_scans:
        raise ValueError("train.pretraining hides parts of scans, and the model has none; leave it out")


class SplitConfig(Configuration):
    """Which visits a model is trained, validated and tested on; ignored where a manifest has a `split` column."""

    scheme: Literal["subject", "site"] = Field("subject", description="parts share no subject, or no site")
    validation: float = Field(0.15, ge=0, lt=1, description="share of the visits")
    test: float = Field(0.25, ge=0, lt=1, description="share of the visits")
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_visits_to_train_on(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation = {self.validation} and test = {self.test} leave no visit to train on")
        return self


MOST_MEMBERS = 20
"""Of an ensemble."""


class RunConfig(Configuration):
    """A model trained at one place: `permmoe train --config`."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    split: SplitConfig = SplitConfig()
    members: int = Field(
        1, ge=1, le=MOST_MEMBERS, exclude_if=lambda n: n == 1,
        description="models trained from different seeds, whose predictions are averaged; the first has train.seed",
    )  # fmt: skip

    @model_validator(mode="after")
    def _can_be_pretrained(self) -> RunConfig:
        require_pretrainable(self.model, self.train)
        return self


DEFAULT_RUN = RunConfig(
    model=ModelConfig(spread="gaussian"),
    train=TrainConfig(epochs=48, learning_rate=5e-4, averaging_decay=0.95, keep="last"),
)
"""What `permmoe train` trains without `--config`: what the search of recipes chose (docs/recipes.md), and the spread
that makes its intervals the narrowest (docs/intervals.md), which moves no prediction.

The same as a file, to be changed: configs/models/permmoe-small.yaml. A file that sets less is laid over RunConfig's
defaults, not over these.
"""


class MomentsPrivacy(Configuration):
    """Noise once, on the moments that a ridge is solved from (permmoe.federated.private_moments).

    A patient is one row: a one, which modalities were observed, their numbers in SDs, the score and its change. What it
    is scaled and shortened by is public: from a publication, or from patients of whom nothing is promised.
    """

    row_norm: float = Field(5.0, gt=0, description="R: longer rows count for less, so that none adds more than R²")
    score_scale_points: float = Field(2.0, gt=0, description="what the score at the visit is divided by, a power of 2")
    outcome_scale_points: float = Field(2.0, gt=0, description="what its change is divided by, a power of 2")
    is_shared: bool = Field(False, description="secure: each site adds a share of the noise, and ε is the federation's")
    colluding: int = Field(
        1, ge=0, description="shared: sites of a sum that may work against the others; their shares count for nothing"
    )

    @field_validator("score_scale_points", "outcome_scale_points")
    @classmethod
    def _keeps_sums_exact(cls, scale: float) -> float:
        if math.frexp(scale)[0] != 0.5:
            raise ValueError(f"{scale:g} is no power of 2, so that sums would be rounded; take the nearest one")
        return scale


class EvaluationPrivacy(Configuration):
    """Noise on how large a model's errors are, once for each evaluation (permmoe.federated.private_errors)."""

    share: float = Field(
        0.3, gt=0, lt=1, description="of the privacy that target_epsilon stands for (as ρ of zCDP): for all evaluations"
    )
    largest_error: float = Field(
        4.0, gt=0.5, le=20, description="units (points of CDR-SB): larger errors count as this, which keeps noise small"
    )


ModuleKind = Literal["encoder", "router", "expert", "bank", "trunk", "head"]
"""What the names of modules that a gradient trains begin with (permmoe.federated.modules)."""


class ModuleBounds(Configuration):
    """How long each module's part of a patient's gradient may be, in proportion to the others'.

    The bounds are such that all of them together, as the root of their sum of squares, are `max_gradient_norm`: with
    ones each of M modules has max_gradient_norm / √M (McMahan et al. 2018, arXiv 1710.06963).
    """

    encoder: float = Field(1.0, gt=0, description="of each encoder")
    router: float = Field(1.0, gt=0, description="of each router")
    expert: float = Field(1.0, gt=0, description="of each expert")
    bank: float = Field(1.0, gt=0, description="of each token of the missing bank")
    trunk: float = Field(1.0, gt=0, description="of what all modalities share")
    head: float = Field(1.0, gt=0, description="of the prediction head")


class PrivacyConfig(Configuration):
    """Differential privacy of a patient, inside each site: DP-SGD (Abadi et al. 2016, arXiv 1607.00133), or `moments`.

    Both have a σ or a target and a δ; the settings of gradients, steps and counts are those of DP-SGD.
    """

    noise_multiplier: float | None = Field(
        None, gt=0, description="σ: SD of the noise over the most that one patient changes"
    )
    target_epsilon: float | None = Field(None, gt=0, description="in place of σ: ε that a whole study may cost a site")
    delta: float = Field(1e-5, gt=0, lt=1, description="chance that ε does not hold")
    max_gradient_norm: float = Field(1.0, gt=0, description="each patient's gradient is clipped to this L2 norm")
    patients_per_step: int = Field(32, ge=1, description="expected size of a step's Poisson sample, patients")
    count_noise: float = Field(
        4.0, gt=0, description="SD of the noise on a site's counts, drawn once a study, patients"
    )
    # Absent from `model_dump` where there are none, so that digests and approvals of older studies stay valid.
    moments: MomentsPrivacy | None = Field(
        None, exclude_if=lambda moments: moments is None,
        description="no gradients: noise once on the moments of model.ridge, which then predicts alone",
    )  # fmt: skip
    # As above.
    trains: tuple[ModuleKind, ...] = Field(
        (), exclude_if=lambda kinds: not kinds,
        description="kinds of modules that are trained; all others stay as the study begins with them, travel in no "
        "message and have no noise; empty: all are trained",
    )  # fmt: skip
    # As above.
    module_bounds: ModuleBounds | None = Field(
        None, exclude_if=lambda bounds: bounds is None,
        description="each module's part of a patient's gradient is clipped by itself; none: the whole is clipped",
    )  # fmt: skip
    # As above.
    evaluation: EvaluationPrivacy | None = Field(
        None, exclude_if=lambda evaluation: evaluation is None,
        description="errors of validation and test patients are counted with noise; none: nothing is evaluated",
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_one_noise(self) -> PrivacyConfig:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("give either 'noise_multiplier' or 'target_epsilon'")
        if self.evaluation and self.target_epsilon is None:
            raise ValueError("evaluation.share is of target_epsilon; give that in place of noise_multiplier")
        if self.moments and (self.trains or self.module_bounds):
            raise ValueError("moments have no gradient; leave out trains and module_bounds, or moments")
        if len(set(self.trains)) != len(self.trains):
            raise ValueError(f"trains names a kind twice: {', '.join(self.trains)}")
        return self


def require_unharmonised(model: ModelConfig, option: str) -> None:
    """Raise ConfigurationError where a model reads harmonised images, which one patient or one graph cannot have."""
    if model.harmonisation:
        raise ConfigurationError(
            f"the model reads images that were harmonised among a hospital's patients, and {option} has one patient at "
            f"a time; leave {option} out, or take a model without model.harmonisation"
        )


ConfigT = TypeVar("ConfigT", bound=Configuration)


def read_config(path: Path, kind: type[ConfigT]) -> ConfigT:
    """Read a YAML file into its configuration. Raises ConfigurationError that says what, where and what next."""
    return parse_config(_settings(path), kind, str(path))


def read_model(path: Path) -> ModelConfig:
    """The model of a YAML file, whose settings stand there alone, or under `model` as those of a run and of a study.

    Raises ConfigurationError as `read_config`.
    """
    values = _settings(path)
    return parse_config(values.get("model", values), ModelConfig, str(path))


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigurationError(f"no configuration file at {path}; name an existing YAML file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds no settings; expected lines such as 'name: value'")
    return values


def parse_config(values: dict[str, Any], kind: type[ConfigT], source: str) -> ConfigT:
    """Check values against their configuration; `source` names them in the error."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise ConfigurationError(f"{source} cannot be used:\n" + "\n".join(lines)) from None
