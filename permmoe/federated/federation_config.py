"""How sites' training becomes one model: the settings of a federation, with units, defaults and meaning."""

from __future__ import annotations

from math import ceil
from typing import Literal

from pydantic import Field, field_validator, model_validator

from permmoe.config import Configuration, PrivacyConfig
from permmoe.errors import nearest
from permmoe.federated.aggregation_rules import MODALITY_FEDAVG, RULES, AggregationRule

Wire = Literal["fp32", "fp16", "int8"]
"""How numbers travel (permmoe.federated.wire)."""
CLUSTERS = "cluster/"
"""What the modules of clusters' centres begin with (permmoe.federated.modules)."""


class FederationConfig(Configuration):
    """How sites' training becomes one model."""

    rounds: int = Field(24, ge=1)
    local_epochs: int = Field(2, ge=1, description="passes over a site's visits each round")
    aggregation: str = Field(
        MODALITY_FEDAVG.name,
        description="how sites are weighted, module by module (permmoe.federated.aggregation_rules)",
        json_schema_extra={"enum": list(RULES)},
    )
    server_optimiser: Literal["fedavg", "fedavgm", "fedadam"] = "fedavg"
    server_learning_rate: float = Field(1.0, gt=0, description="η, the server's step")
    server_momentum: float = Field(0.9, ge=0, lt=1, description="of FedAvgM; β1 of FedAdam")
    averaging_decay: float = Field(
        0.0, ge=0, lt=1, description="of the running mean over rounds that is evaluated and kept; 0: the newest round"
    )
    proximal_weight: float = Field(0.0, ge=0, description="μ of FedProx: ½μ‖θ − θ_round‖² added to the local loss")
    centring_round: bool = Field(
        True, description="round 1 trains nothing: it sets the encoders' mean inputs and the ridge's moments"
    )
    # Absent from `model_dump` at its default, so that digests of older studies, and their approvals, stay valid.
    harmonising_round: bool = Field(
        False,
        description="round 1 trains nothing: it sums how sites' images differ, for model.harmonisation; the centring "
        "round is then the second",
        exclude_if=lambda is_on: not is_on,
    )
    # As above.
    pretraining_rounds: int = Field(
        0,
        ge=0,
        description="rounds behind the centring round in which sites train encoders on all of their scans, also of "
        "patients without an outcome (train.pretraining); no other module is sent or averaged in them",
        exclude_if=lambda rounds: rounds == 0,
    )
    private_modules: tuple[str, ...] = Field(
        (), description="patterns such as head or encoder/*: each site keeps its own (BLOSSOM's private blocks)"
    )
    drift_correction: bool = Field(False, description="SCAFFOLD: sites steer against their own drift of the last round")
    imputed_router_support: float = Field(0.0, ge=0, description="κ: a router's support from a visit it is imputed for")
    min_sites: int = Field(1, ge=1, description="replies without which a round is not aggregated")
    max_failed_rounds: int = Field(5, ge=1, description="tries at a round without enough replies that end a study")
    round_deadline_seconds: float = Field(3600.0, gt=0)
    # As above.
    close_after: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the connected sites whose usable replies close a round, min_sites at least; 1: all",
        exclude_if=lambda share: share == 1.0,
    )
    # As above.
    max_staleness: int = Field(
        0,
        ge=0,
        description="rounds by which an update may come too late and still count, by (1 + rounds)^-1/2; 0: none does",
        exclude_if=lambda rounds: rounds == 0,
    )
    evaluate_every: int = Field(1, ge=0, description="rounds between federated evaluations; 0: never")
    # As above.
    calibrate: bool = Field(
        False,
        description="how many validation visits have errors of which size leaves too, so that the model has intervals",
        exclude_if=lambda calibrate: not calibrate,
    )
    # As above.
    calibrate_severity: bool = Field(
        False,
        description="the same by severity at the visit, so that intervals are those of patients who are as ill",
        exclude_if=lambda calibrate: not calibrate,
    )
    # As above.
    wire: Wire = Field(
        "fp32",
        description="changes travel exactly, in half precision or in eight bits; in the last two, models in half",
        exclude_if=lambda wire: wire == "fp32",
    )
    min_cell_count: int = Field(5, ge=1, description="no metric over fewer subjects leaves a site")
    # As above.
    support_step: int = Field(
        0,
        ge=0,
        description="supports and numbers of visits leave as multiples of this many visits; 0: as they are",
        exclude_if=lambda step: step == 0,
    )
    max_update_norm: float = Field(1e3, gt=0, description="largest L2 norm of a module's mean change that is accepted")
    max_support: float = Field(1e6, gt=0, description="largest support of a module that is accepted, visits")
    secure: bool = Field(False, description="secure sum: nobody sees a site's update, counts or modalities")
    secure_threshold: float = Field(
        2 / 3,
        ge=0.5,
        lt=1,
        description="secure: a round survives while more than this share of sites, and of each one's keepers, answers",
    )
    stage_deadline_seconds: float = Field(120.0, gt=0, description="secure: for each stage after the training")
    min_holders: int = Field(3, ge=2, description="secure: a module that fewer sites trained is not released")
    # Absent at its default, as `wire` is.
    min_cohort_difference: int = Field(
        2,
        ge=1,
        description="secure: sums may differ by this many sites, or by none; 1: the coordinator can subtract",
        exclude_if=lambda least: least == 2,
    )
    privacy: PrivacyConfig | None = Field(None, description="patient-level differential privacy; none by default")

    @field_validator("aggregation")
    @classmethod
    def _is_a_known_rule(cls, name: str) -> str:
        if name not in RULES:
            raise ValueError(f"unknown rule {name!r}; {nearest(name, RULES)}")
        return name

    @model_validator(mode="after")
    def _promises_what_it_can_keep(self) -> FederationConfig:
        if self.secure and self.aggregation_rule != MODALITY_FEDAVG:
            raise ValueError(f"aggregation = {self.aggregation} cannot be summed securely; use modality_fedavg")
        if self.drift_correction and (self.server_optimiser != "fedavg" or self.server_learning_rate != 1):
            raise ValueError("drift_correction reads the mean change off the model; use fedavg at rate 1 at the server")
        if self.secure and (self.close_after < 1 or self.max_staleness):
            raise ValueError(
                "close_after and max_staleness are for plain rounds: the masks of a secure sum cancel only among the "
                "sites that began it, each of whose stages has its own deadline; leave them out"
            )
        if self.max_staleness and self.privacy:
            raise ValueError(
                "late updates are not accounted for under differential privacy: a site's account is by the round that "
                "it trained in; leave max_staleness out"
            )
        if self.close_after < 1 and self.privacy:
            raise ValueError(
                "close_after leaves out sites that have trained, and a private training is spent whether or not it "
                "counts; leave it out, and let round_deadline_seconds be long enough for the slowest site"
            )
        if self.max_staleness and self.drift_correction:
            raise ValueError(
                "drift_correction reads the mean change of one round off the model, and a late update is of another; "
                "leave max_staleness out"
            )
        if self.wire != "fp32" and (self.secure or self.privacy):
            raise ValueError(f"wire = {self.wire} is neither masked nor accounted for; use fp32 with secure or privacy")
        if self.privacy and (self.drift_correction or self.private_modules):
            raise ValueError("drift_correction and private_modules are not accounted for under differential privacy")
        if self.pretraining_rounds and self.privacy:
            raise ValueError(
                "pretraining has no differential privacy, and patients without an outcome have an account too; set "
                "pretraining_rounds to 0"
            )
        if self.pretraining_rounds and self.max_staleness:
            raise ValueError(
                "an update that pretrained would come late into a round that learns the outcome; leave max_staleness "
                "out, or pretraining_rounds"
            )
        if self.pretraining_rounds and self.rounds <= self.first_supervised - 1:
            raise ValueError(
                f"rounds = {self.rounds} and {self.first_supervised - 1} of them learn no outcome; raise rounds, or "
                "lower pretraining_rounds"
            )
        if self.privacy and self.evaluate_every and self.privacy.evaluation is None:
            raise ValueError(
                "without privacy.evaluation no evaluation is differentially private; set evaluate_every to 0, or "
                "privacy.evaluation: {}"
            )
        if self.privacy and self.privacy.evaluation and not self.evaluate_every:
            raise ValueError("privacy.evaluation is noise for evaluations; set evaluate_every to 1 or more")
        if self.privacy and self.calibrate_severity:
            raise ValueError(
                "errors by severity are not counted under differential privacy; leave calibrate_severity out"
            )
        if self.calibrate and not self.evaluate_every:
            raise ValueError(
                "calibrate goes with evaluations of the validation visits; set evaluate_every to 1 or more"
            )
        if self.calibrate_severity and not self.calibrate:
            raise ValueError("calibrate_severity says how errors are counted; set calibrate to true, too")
        if self.privacy and self.privacy.moments is None and self.centring_round:
            raise ValueError("means of inputs are not differentially private; set centring_round to false")
        return self

    @model_validator(mode="after")
    def _draws_noise_on_moments_once(self) -> FederationConfig:
        moments = self.privacy.moments if self.privacy else None
        if moments is None:
            return self
        if not self.centring_round or self.rounds != 1:
            raise ValueError(
                "privacy.moments has noise drawn once, in the round that sets the ridge's moments; set rounds to 1 and "
                "centring_round to true"
            )
        if moments.is_shared and not self.secure:
            raise ValueError(
                "privacy.moments.is_shared: a share of the noise protects nobody whose own sums can be seen; set secure"
                " to true, or is_shared to false"
            )
        if moments.is_shared and moments.colluding >= self.least_sites:
            raise ValueError(
                f"privacy.moments.colluding = {moments.colluding}: a sum may be over {self.least_sites} sites, of which"
                " one at least has to be honest; raise min_sites"
            )
        return self

    @property
    def aggregation_rule(self) -> AggregationRule:
        """The rule that `aggregation` names."""
        return RULES[self.aggregation]

    @property
    def least_sites(self) -> int:
        """Sites without which a round cannot succeed: in a smaller secure sum no module could have `min_holders`."""
        return max(self.min_sites, self.min_holders) if self.secure else self.min_sites

    def replies_that_close(self, n_connected: int) -> int:
        """Usable replies after which a round waits for no more, of so many connected sites."""
        return max(self.min_sites, ceil(self.close_after * n_connected))

    @property
    def answer_seconds(self) -> float:
        """How long a site may take to answer a round: as long as its update could still count."""
        return self.round_deadline_seconds * (1 + self.max_staleness)

    def is_harmonising(self, number: int) -> bool:
        """Whether a round sums how sites' images differ and trains nothing; rounds count from 1."""
        return self.harmonising_round and number == 1

    def is_centring(self, number: int) -> bool:
        """Whether a round sets the encoders' mean inputs and trains nothing."""
        return self.centring_round and number == 1 + self.harmonising_round

    def sets_means(self, number: int) -> bool:
        """Whether a round sets means over visits and trains nothing."""
        return self.is_harmonising(number) or self.is_centring(number)

    @property
    def first_supervised(self) -> int:
        """The first round that learns the outcome."""
        return 1 + int(self.harmonising_round) + int(self.centring_round) + self.pretraining_rounds

    def is_pretraining(self, number: int) -> bool:
        """Whether a round trains encoders on scans alone."""
        return number < self.first_supervised and not self.sets_means(number)

    def is_validated(self, number: int) -> bool:
        """Whether sites evaluate the model of a round on their validation visits: none that learned no outcome yet,
        but that of a centring round, whose ridge predicts already."""
        learned_nothing = self.is_pretraining(number) or self.is_harmonising(number)
        return self.evaluate_every > 0 and number % self.evaluate_every == 0 and not learned_nothing

    @property
    def has_private_evaluations(self) -> bool:
        """Whether errors are counted with noise."""
        return self.privacy is not None and self.privacy.evaluation is not None

    @property
    def n_evaluations(self) -> int:
        """Evaluations that a study may ask of a site: those of validation visits, and the test after the last round."""
        return sum(map(self.is_validated, range(1, self.rounds + 1))) + 1 if self.evaluate_every else 0

    def of_round(self, number: int) -> FederationConfig:
        """The settings of a round. A mean over all sites' visits has one right weighting and no step size, and lacks
        nobody, since no later round corrects it: so a round that sets means is plain modality-aware averaging over the
        sites that answer until the deadline, whatever the study compares. In pretraining the server's optimiser has no
        momentum, which would go on in rounds that learn something else."""
        if self.is_pretraining(number):
            return self.model_copy(update={"server_optimiser": "fedavg", "server_learning_rate": 1.0})
        if not self.sets_means(number):
            return self
        plain = {
            "aggregation": MODALITY_FEDAVG.name,
            "server_optimiser": "fedavg",
            "server_learning_rate": 1.0,
            "close_after": 1.0,
            "max_staleness": 0,
        }
        return self.model_copy(update=plain)

    def of_module(self, module: str) -> FederationConfig:
        """The settings of a module's step at the server. Centres of clusters are means over the sites' visits, as in
        the centring round: they are put where they are, and have no momentum."""
        if not module.startswith(CLUSTERS):
            return self
        return self.model_copy(update={"server_optimiser": "fedavg", "server_learning_rate": 1.0})

    def first_epoch(self, number: int) -> int:
        """Number of the first local epoch of a round, 0 in the first round that pretrains, and in the first that learns
        the outcome."""
        first = self.first_supervised - (self.pretraining_rounds if self.is_pretraining(number) else 0)
        return (number - first) * self.local_epochs
