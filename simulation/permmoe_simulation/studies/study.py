"""A study as its YAML file declares it, and the grid of cells (method × regime × seed) that it unfolds into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from permmoe.calibration.at_hospital import LEAST_PATIENTS
from permmoe.config import (
    MOST_MEMBERS,
    Configuration,
    ModelConfig,
    SplitConfig,
    TrainConfig,
    parse_config,
    require_pretrainable,
)
from permmoe.data.cohort import CohortConfig
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.public_tables import TABLES
from permmoe.errors import ConfigurationError, nearest
from permmoe.evaluation.baselines import BASELINES
from permmoe.evaluation.combinations import STRATA
from permmoe.evaluation.intervals import FEWEST_SEEDS
from permmoe.federated.federation_config import FederationConfig
from permmoe.modality import Modality, all_combinations, combination_name
from permmoe_simulation.engines.engine import Engine
from permmoe_simulation.studies.forgotten import Forgets
from permmoe_simulation.studies.ladder import RUNGS, Ladder, with_rungs
from permmoe_simulation.studies.method_kinds import METHOD_KINDS
from permmoe_simulation.studies.partition import PartitionConfig
from permmoe_simulation.studies.planted import PlantedConfig


class DataSource(Configuration):
    """A synthetic cohort, made on demand; planted patients; a manifest of real visits; or a real, public table."""

    synthetic: CohortConfig | None = None
    manifest: Path | None = Field(None, description="a table as `permmoe data adni` writes it")
    outcome: OutcomeColumns = Field(
        USUAL_COLUMNS,
        exclude_if=lambda columns: columns == USUAL_COLUMNS,
        description="manifest: which of its columns hold the outcome",
    )
    table: str | None = Field(None, description="which of permmoe.data.public_tables")
    # Absent from `model_dump` at its default, so that digests of older studies stay valid.
    planted: PlantedConfig | None = Field(
        None, exclude_if=lambda planted: planted is None, description="invented numbers of which the truth is known"
    )
    horizon_months: float = Field(24.0, gt=0, description="synthetic: from the index visit to the outcome")
    # As above.
    further_horizons_months: tuple[float, ...] = Field(
        (), exclude_if=lambda months: not months,
        description="synthetic: further ones, for methods whose model is told the horizon",
    )  # fmt: skip

    @model_validator(mode="after")
    def _is_one_of_them(self) -> DataSource:
        if sum(source is not None for source in (self.synthetic, self.planted, self.manifest, self.table)) != 1:
            raise ValueError("name exactly one of 'synthetic', 'planted', 'manifest' and 'table'")
        if self.table is not None and self.table not in TABLES:
            raise ValueError(f"unknown table {self.table!r}; {nearest(self.table, TABLES)}")
        return self

    @property
    def is_invented(self) -> bool:
        """Whether its patients do not exist."""
        return self.synthetic is not None or self.planted is not None


class Regime(PartitionConfig):
    """One column of the comparison: how visits are dealt out, and what of the study's data differs."""

    description: str = ""
    data: dict[str, Any] = Field(default_factory=dict, description="laid over the study's data")
    value: float | None = Field(None, description="where the regime lies on the study's axis")

    def partition(self) -> PartitionConfig:
        """Without what is not about the partition."""
        return PartitionConfig(**{name: getattr(self, name) for name in PartitionConfig.model_fields})


class Method(Configuration):
    """One line of the comparison. The overrides are laid over the study's own settings."""

    kind: str = Field(description="which of permmoe_simulation.studies.method_kinds")
    label: str
    description: str = ""
    baseline: str = Field("", description="kinds reference and local_reference: which of permmoe.evaluation.baselines")
    model: dict[str, Any] = Field(default_factory=dict)
    personal_epochs: int = Field(
        0,
        ge=0,
        description="kind federated: passes over its own visits with which each site then makes the model its own",
    )
    # Absent from `model_dump` at its default, so that digests of older studies stay what they were.
    members: int = Field(
        1, ge=1, le=MOST_MEMBERS, exclude_if=lambda members: members == 1,
        description="trainings with seeds of their own, whose predictions are averaged; kinds that are trained",
    )  # fmt: skip
    # As above.
    forgets: Forgets | None = Field(
        None, exclude_if=lambda forgets: forgets is None, description="kind forgetting: who withdraws, and what is done"
    )
    # As above.
    withheld: tuple[str, ...] = Field(
        (), exclude_if=lambda names: not names,
        description="modalities that the method does without, in training and in what it predicts: a combination with "
        "them is predicted from the rest of it, for the same patients as by methods that have them",
    )  # fmt: skip
    train: dict[str, Any] = Field(default_factory=dict)
    federation: dict[str, Any] = Field(default_factory=dict)

    @field_validator("kind")
    @classmethod
    def _is_registered(cls, kind: str) -> str:
        if kind not in METHOD_KINDS:
            raise ValueError(f"unknown kind {kind!r}; {nearest(kind, METHOD_KINDS)}")
        return kind

    @model_validator(mode="after")
    def _names_its_baseline(self) -> Method:
        if METHOD_KINDS[self.kind].has_baseline and self.baseline not in BASELINES:
            raise ValueError(f"unknown baseline {self.baseline!r}; {nearest(self.baseline, BASELINES)}")
        return self

    @model_validator(mode="after")
    def _can_do_without(self) -> Method:
        if self.withheld and not METHOD_KINDS[self.kind].may_withhold:
            able = " or ".join(name for name, kind in METHOD_KINDS.items() if kind.may_withhold)
            raise ValueError(f"withheld goes with kind: {able}; leave it out, or leave the modality out of the model")
        return self

    @model_validator(mode="after")
    def _says_whom_it_forgets(self) -> Method:
        if METHOD_KINDS[self.kind].forgets != (self.forgets is not None):
            raise ValueError("`forgets` goes with kind: forgetting, and only with it")
        if self.forgets and (self.members > 1 or self.personal_epochs):
            raise ValueError("one model forgets: leave out members and personal_epochs")
        return self

    @model_validator(mode="after")
    def _has_members_that_differ(self) -> Method:
        if self.members > 1 and not METHOD_KINDS[self.kind].is_trained:
            raise ValueError(
                f"members = {self.members}: no seed changes what kind {self.kind} predicts, so that all members would "
                "be the same; leave members out there"
            )
        return self


MEAN = "mean"
AGAIN = "again"
"""What follows the name of a method that is trained a second time, behind a plus sign."""


class Claim(Configuration):
    """A difference whose interval the study is held against: the method's RMSE below the reference's."""

    method: str
    reference: str
    combination: str = Field(MEAN, description="a combination such as t1+tau, or mean: averaged over all")


class Gap(Configuration):
    """The two methods between which every other one is placed: 0 is as bad as the lower, 1 as good as the upper."""

    lower: str = Field(description="method, such as each hospital by itself")
    upper: str = Field(description="method, such as all visits in one place")


class Outcome(Configuration):
    """What is predicted, as the report calls it."""

    name: str = "change in CDR-SB"
    unit: str = Field("CDR-SB points", description="as it stands behind a number of several: `2.1 CDR-SB points`")

    @property
    def strata(self) -> tuple[str, ...]:
        """The groups of subjects that are judged by themselves: the paper's, which are told in CDR-SB, or all."""
        return tuple(STRATA) if "CDR-SB" in self.name else ("all",)


class Published(Configuration):
    """What a publication says of a pair of methods, to stand beside this study's own figures.

    Percentages are changes of the method's RMSE against the reference's; below zero the method is better.
    """

    source: str = Field(description="publication, data, subjects and seeds")
    method: str
    reference: str
    wins: str = Field("", pattern=r"^(\d+ of \d+)?$", description="combinations in which the method is better")
    percent: dict[str, float] = Field(default_factory=dict, description="by combination")
    percent_by_stratum: dict[str, float] = Field(default_factory=dict, description="averaged over combinations")
    reference_better: tuple[str, ...] = Field((), description="combinations for which it says this, without a figure")


class Profile(Configuration):
    """One size of a study: which of its methods, regimes and seeds are run, and which settings differ."""

    seeds: tuple[NonNegativeInt, ...] = Field((), description="empty: the study's own")
    methods: tuple[str, ...] = Field((), description="empty: all")
    regimes: tuple[str, ...] = Field((), description="empty: all")
    settings: dict[str, Any] = Field(default_factory=dict, description="laid over the study")


class StudyConfig(Configuration):
    """A whole study."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    data: DataSource
    split: SplitConfig = Field(SplitConfig(), description="its seed is added to the study's seeds")
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()
    regimes: dict[str, Regime] = Field({"site": Regime()}, min_length=1)
    methods: dict[str, Method] = Field(min_length=1)
    # Absent from `model_dump` where there is none, so that digests of studies without it stay what they were.
    ladder: Ladder | None = Field(
        None, exclude_if=lambda ladder: ladder is None,
        description="the clinical references, which then are methods of the study, in every profile",
    )  # fmt: skip
    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1)
    comparisons: tuple[tuple[str, str], ...] = Field((), description="pairs: method, reference")
    claims: tuple[Claim, ...] = ()
    gap: Gap | None = None
    published: tuple[Published, ...] = Field((), description="what others found for the same pairs on other data")
    axis: str = Field("", description="what the regimes' values count, such as `sites`; every regime then has one")
    # As for the ladder.
    regimes_are_cohorts: bool = Field(
        False, exclude_if=lambda are: not are,
        description="each regime has patients of its own, so that differences are also stated as a mean over them",
    )  # fmt: skip
    outcome: Outcome = Outcome()
    # As for the ladder.
    newcomers: tuple[Annotated[int, Field(ge=LEAST_PATIENTS)], ...] = Field(
        (), exclude_if=lambda numbers: not numbers,
        description="of so many of its own patients each unseen site calibrates a model, one number after the other; "
        "its patients beyond the largest number are judged",
    )  # fmt: skip
    profiles: dict[str, Profile] = Field(default_factory=dict, description="quick: minutes on two cores; full: all")

    @model_validator(mode="before")
    @classmethod
    def _has_the_rungs_of_its_ladder(cls, values: Any) -> Any:
        is_declared = isinstance(values, Mapping) and values.get("ladder") is not None
        if not is_declared or not isinstance(values.get("methods"), Mapping):
            return values
        return {**values, "methods": with_rungs(values["methods"])}

    @model_validator(mode="after")
    def _has_columns_for_its_ladder(self) -> StudyConfig:
        if self.ladder is not None and self.data.table is not None:
            raise ValueError("ladder: the columns of a public table are its modalities; use kernel_ridge there")
        return self

    @model_validator(mode="after")
    def _compares_methods_that_it_has(self) -> StudyConfig:
        pairs = [*self.comparisons, *((c.method, c.reference) for c in self.claims)]
        if self.gap:
            pairs.append((self.gap.lower, self.gap.upper))
        pairs += [(p.method, p.reference) for p in self.published]
        for name in (name for pair in pairs for name in pair):
            if name not in self.methods:
                raise ValueError(f"no method {name!r}; {nearest(name, self.methods)}")
        known = (MEAN, *(combination_name(c) for c in all_combinations(self.model.names)))
        named = [claim.combination for claim in self.claims]
        named += [name for p in self.published for name in (*p.percent, *p.reference_better)]
        for name in named:
            if name not in known:
                raise ValueError(f"no combination {name!r}; {nearest(name, known)}")
        for name in (name for p in self.published for name in p.percent_by_stratum):
            if name not in self.outcome.strata:
                raise ValueError(f"no stratum {name!r}; {nearest(name, self.outcome.strata)}")
        return self

    @model_validator(mode="after")
    def _withholds_modalities_that_it_has(self) -> StudyConfig:
        for name, modality in ((name, m) for name, method in self.methods.items() for m in method.withheld):
            if modality not in self.model.names:
                raise ValueError(f"method {name!r} withholds {modality!r}; {nearest(modality, self.model.names)}")
            if set(self.methods[name].withheld) >= set(self.model.names):
                raise ValueError(f"method {name!r} withholds all modalities; leave it one at least")
        return self

    @model_validator(mode="after")
    def _has_values_along_its_axis(self) -> StudyConfig:
        for name, regime in self.regimes.items():
            if (regime.value is None) == bool(self.axis):
                missing = "a value" if self.axis else "an axis that says what the value counts"
                raise ValueError(f"regime {name!r} lacks {missing}; `axis` and `value` go together, in every regime")
        return self

    @model_validator(mode="after")
    def _has_hospitals_that_are_new(self) -> StudyConfig:
        if list(self.newcomers) != sorted(set(self.newcomers)):
            raise ValueError("newcomers: name each number of patients once, the smallest first")
        if self.newcomers and not any(regime.unseen for regime in self.regimes.values()):
            raise ValueError("newcomers: every site trains; let some be unseen in a regime, such as `unseen: 2`")
        return self

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The model's, and those of methods: a visit may have one name as image and as numbers."""
        return tuple(dict.fromkeys(modality for model in self._models for modality in model.modalities))

    @property
    def _models(self) -> tuple[ModelConfig, ...]:
        """The study's, and those of its methods."""
        own = (
            parse_config(_overlay(self.model, method.model), ModelConfig, f"methods.{name} of study {self.name}")
            for name, method in self.methods.items()
        )
        return (self.model, *own)

    @property
    def labels(self) -> dict[str, str]:
        """What each method is called, by its name."""
        return {name: method.label for name, method in self.methods.items()}

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns that visits carry for the ladder and for harmonisations."""
        of_ladder = () if self.ladder is None else self.ladder.columns
        of_models = (column for model in self._models for column in model.harmonised_by)
        return tuple(dict.fromkeys((*of_ladder, *of_models)))

    @property
    def ladder_pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (method, rung) of the ladder: a method beats the ladder where it is better in all pairs of its own.

        Every method but the rungs is held against them, kernel ridge on voxels too. Empty without a ladder.
        """
        clinical = {rung["baseline"] for rung in RUNGS.values()}
        models = [name for name, method in self.methods.items() if method.baseline not in clinical]
        return () if self.ladder is None else tuple((name, rung) for name in models for rung in RUNGS)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (method, reference) that is compared, each once: declared, claimed and published ones."""
        claimed = [(c.method, c.reference) for c in self.claims]
        published = [(p.method, p.reference) for p in self.published]
        return tuple(dict.fromkeys([*self.comparisons, *claimed, *published]))

    @property
    def trained_again(self) -> str | None:
        """The method that a study which judges anything trains twice, to see how often its own rule errs (A/A).

        It is the first that is compared and whose training depends on its seed; None with too few seeds for verdicts.
        """
        if len(self.seeds) < FEWEST_SEEDS:
            return None
        compared = dict.fromkeys(name for pair in self.pairs for name in pair)
        return next((name for name in compared if METHOD_KINDS[self.methods[name].kind].is_trained), None)

    @property
    def name_trained_again(self) -> str:
        """What the second training of `trained_again` is called; empty where there is none."""
        return f"{self.trained_again}+{AGAIN}" if self.trained_again else ""

    @model_validator(mode="after")
    def _can_be_judged(self) -> StudyConfig:
        if self.split.test == 0 and self.data.is_invented:
            raise ValueError("split.test is 0; a study is judged on test visits, so give it a share such as 0.25")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {', '.join(map(str, self.seeds))}: one is named twice")
        return self


def at_profile(study: StudyConfig, name: str) -> StudyConfig:
    """The study as a profile runs it; a study without profiles has one size only.

    Comparisons, claims, published figures and the gap stay as far as their methods do. Any profile but `quick` is in
    the study's name, and so in that of its folder. Raises ConfigurationError.
    """
    if not study.profiles:
        return study
    if name not in study.profiles:
        raise ConfigurationError(f"study {study.name} has no profile {name!r}; {nearest(name, study.profiles)}")
    profile = study.profiles[name]
    values = laid_over(study.model_dump(exclude={"profiles"}), profile.settings)
    for kind in ("methods", "regimes"):
        if chosen := getattr(profile, kind):
            for wanted in chosen:
                if wanted not in values[kind]:
                    known = nearest(wanted, values[kind])
                    raise ConfigurationError(
                        f"profile {name} of study {study.name}: no {kind[:-1]} {wanted!r}; {known}"
                    )
            values[kind] = {key: value for key, value in values[kind].items() if key in chosen}
    values["seeds"] = profile.seeds or values["seeds"]
    if name != "quick":
        values["name"] = f"{study.name}-{name}"
    methods = values["methods"]
    values["comparisons"] = [pair for pair in values["comparisons"] if set(pair) <= set(methods)]
    for kind in ("claims", "published"):
        values[kind] = [c for c in values[kind] if c["method"] in methods and c["reference"] in methods]
    if values["gap"] and not set(values["gap"].values()) <= set(methods):
        values["gap"] = None
    return parse_config(values, StudyConfig, f"profile {name} of study {study.name}")


def data_source(study: StudyConfig, regime: str) -> DataSource:
    """A regime's data: the study's, with what the regime lays over it."""
    values = laid_over(study.data.model_dump(), study.regimes[regime].data)
    return parse_config(values, DataSource, f"regimes.{regime}.data of study {study.name}")


class Cell(Configuration):
    """One method on one regime with one seed, all settings resolved: the unit of work, and of what is kept on disk.

    Its digest names its folder, so a changed setting is a new cell and an unchanged one is never run twice.
    """

    method: Method
    regime: str
    seed: int
    data_digest: str
    modalities: tuple[str, ...]
    """The study's, by which visits are dealt out: a method that uses fewer is judged at the same sites."""
    split: SplitConfig
    partition: PartitionConfig
    model: ModelConfig
    train: TrainConfig
    federation: FederationConfig
    engine: Engine = "inprocess"

    def digest(self) -> str:
        """SHA-256 of what the results depend on: names and texts do not count, and overrides only as they come out."""
        own = self.method.model_dump(include={"kind", "baseline", "personal_epochs", "members", "forgets", "withheld"})
        method = Method(label="", **own)
        return super(Cell, self.model_copy(update={"method": method, "regime": ""})).digest()


def cells(study: StudyConfig, data_digests: Mapping[str, str], engine: Engine) -> list[tuple[str, Cell]]:
    """(method name, cell) for every method, regime and seed, seeds outermost so that whole comparisons finish early.

    `data_digests` are by regime.
    """
    return [
        (name, _cell(study, name, method, regime, seed, data_digests[regime], engine))
        for seed in study.seeds
        for regime in study.regimes
        for name, method in study.methods.items()
    ]


OTHER_SEEDS = 100_000
"""Added to the seeds of a second training: its splits are the first one's, its weights, batches and dropout are not."""


def cells_trained_again(study: StudyConfig, data_digests: Mapping[str, str], engine: Engine) -> list[tuple[str, Cell]]:
    """(name, cell) of the second training of `study.trained_again`, for every regime and seed; none without one."""
    name = study.trained_again
    if name is None:
        return []
    method = study.methods[name]
    again = []
    for seed in study.seeds:
        for regime in study.regimes:
            cell = _cell(study, name, method, regime, seed, data_digests[regime], engine)
            train = cell.train.model_copy(update={"seed": cell.train.seed + OTHER_SEEDS})
            again.append((study.name_trained_again, cell.model_copy(update={"train": train})))
    return again


def _cell(
    study: StudyConfig,
    name: str,
    method: Method,
    regime: str,
    seed: int,
    data_digest: str,
    engine: Engine,
) -> Cell:
    source = f"methods.{name} of study {study.name}"
    split = study.split.model_copy(update={"seed": study.split.seed + seed})
    train = parse_config(_overlay(study.train, method.train), TrainConfig, source)
    federation = parse_config(_overlay(study.federation, method.federation), FederationConfig, source)
    _require_possible(source, method, federation, regime, study.regimes[regime])
    model = parse_config(_overlay(study.model, method.model), ModelConfig, source)
    _require_sites_to_harmonise(source, method, federation, model)
    _require_told(source, method, model)
    try:
        require_pretrainable(model, train)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}") from None
    return Cell(
        method=method,
        regime=regime,
        seed=seed,
        data_digest=data_digest,
        modalities=study.model.names,
        split=split,
        partition=study.regimes[regime].partition(),
        model=model,
        train=train.model_copy(update={"seed": train.seed + seed}),
        federation=federation,
        engine=engine if METHOD_KINDS[method.kind].uses_engine else "inprocess",
    )


def _require_possible(source: str, method: Method, federation: FederationConfig, name: str, regime: Regime) -> None:
    """Raise ConfigurationError for a method that its federation or a regime rules out."""
    is_federated = METHOD_KINDS[method.kind].uses_engine
    if method.members > 1 and is_federated and federation.privacy:
        raise ConfigurationError(
            f"{source}: {method.members} members with differential privacy would each spend a patient's budget, and a "
            "cell's account is of one training; leave out members, or federation.privacy"
        )
    if method.kind == "federated_late_fusion" and (
        federation.privacy or federation.private_modules or method.personal_epochs
    ):
        raise ConfigurationError(
            f"{source}: late fusion trains a model a modality, each of which would spend a patient's budget, and has "
            "no personal models; leave out federation.privacy, federation.private_modules and personal_epochs"
        )
    if method.forgets and (federation.privacy or federation.private_modules or federation.secure):
        raise ConfigurationError(
            f"{source}: a federation that forgets is plain in a study; leave out privacy, private_modules and secure"
        )
    is_of_a_site = METHOD_KINDS[method.kind].is_of_a_site
    is_personal = is_of_a_site or method.personal_epochs or (is_federated and federation.private_modules)
    if regime.unseen and is_personal:
        raise ConfigurationError(
            f"{source}: a site that trains nothing (regimes.{name}.unseen) has no model of its own; leave out the "
            "method, or the regime"
        )


def _require_told(source: str, method: Method, model: ModelConfig) -> None:
    """Raise ConfigurationError where a model is to be told the horizon, and the method tells none."""
    kind = METHOD_KINDS[method.kind]
    if model.horizons_months and (kind.uses_engine or (kind.has_baseline and method.baseline != "horizon_ridge")):
        raise ConfigurationError(
            f"{source}: model.horizons_months is for models that are trained in one place or at each site, and for the "
            "baseline horizon_ridge; leave it out"
        )


def _require_sites_to_harmonise(source: str, method: Method, federation: FederationConfig, model: ModelConfig) -> None:
    """Raise ConfigurationError for a harmonisation without a federation, or without the round that tells it."""
    if model.harmonisation and method.kind != "federated":
        raise ConfigurationError(
            f"{source}: model.harmonisation is between the sites of a federation, and kind {method.kind} has none; "
            "leave it out there"
        )
    if (model.harmonisation is not None) != federation.harmonising_round:
        raise ConfigurationError(
            f"{source}: model.harmonisation and federation.harmonising_round go together; give both, or neither"
        )


def _overlay(base: Configuration, changes: Mapping[str, Any]) -> dict[str, Any]:
    return laid_over(base.model_dump(), changes)


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the changes in their place, mappings inside them likewise; a list is replaced as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = laid_over(merged[key], value) if both else value
    return merged
