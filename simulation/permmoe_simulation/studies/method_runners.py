"""How each kind of method runs a cell (permmoe_simulation.studies.method_kinds names these functions).

A runner trains and tests the cell's method on its sites. It is given a folder for files of its own, and the device on
which models are trained and tested, a federation's sites' too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from permmoe.calibration.calibrate import predicted
from permmoe.config import ModelConfig, Score
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData, fit_scaling
from permmoe.data.kinds import kind_of
from permmoe.data.splits import Split
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError
from permmoe.evaluation.activation import Activation, expert_activation
from permmoe.evaluation.baselines import BASELINES
from permmoe.evaluation.combinations import ErrorSums, mean_squared_error
from permmoe.evaluation.harmonised import harmonised
from permmoe.federated.modules import ModuleLayout
from permmoe.layers.encoders import fixed_stem
from permmoe.model import PerMMoE
from permmoe.training.fit import EpochReport, fit
from permmoe.training.seeds import make_model
from permmoe.training.stacked_fit import Fit
from permmoe_simulation.engines.federated_training import TrainedFederation, train_federation
from permmoe_simulation.studies.cell_files import FEDERATION, CellOutcome, Predicted, Rows
from permmoe_simulation.studies.partition import Sites
from permmoe_simulation.studies.prepared_cell import PreparedCell, PreparedFit
from permmoe_simulation.studies.study import Cell
from permmoe_simulation.studies.without_modalities import from_the_rest, mean_change, without


def run_reference(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """A baseline of permmoe.evaluation.baselines, on all visits in one place."""
    data = loaded(joined(sites), cell.model, cache)
    train, test = without(data.part("train"), cell.method.withheld), data.part("test")
    predictions = BASELINES[cell.method.baseline](train, test)
    if cell.method.withheld:
        predictions = from_the_rest(predictions, train, test, otherwise=mean_change(train))
    return CellOutcome(test.visits, predictions)


def prepare_centralised(cell: Cell, sites: Sites, cache: VolumeCache, device: str) -> PreparedCell:
    """One model, all visits in one place."""
    data = loaded(joined(sites), cell.model, cache)
    withheld = cell.method.withheld
    train, judged_while_training = (without(data.part(part), withheld) for part in ("train", "validation"))
    model = make_model(fit_scaling(train, cell.model), cell.train.seed).to(device)
    curve: dict[int, Mapping[str, ErrorSums]] = {}

    def predicted_in(part: VisitData) -> Predicted:
        return _from_trained_modalities(model, train, part) if withheld else predicted_of(model, part)

    def keep(report: EpochReport) -> None:
        curve[report.epoch + 1] = report.validation

    def outcome() -> CellOutcome:
        test, validation = data.part("test"), data.part("validation")
        tested = predicted_in(test)
        return CellOutcome(
            test.visits,
            tested.predictions,
            _learning_rows(curve, "epoch"),
            activation=_activation(model, without(test, withheld)),
            calibration=predicted_in(validation),
            spread=tested.spread,
        )

    fitted = Fit(model, train, judged_while_training, cell.train.seed, keep, without(data.scans(), withheld))
    only = PreparedFit(fitted)
    return PreparedCell(iter([only]), outcome)


def prepare_local(cell: Cell, sites: Sites, cache: VolumeCache, device: str) -> PreparedCell:
    """Every site by itself: its test visits are evaluated by the model that only its own visits trained."""
    curve: dict[int, dict[str, ErrorSums]] = {}

    def keep(report: EpochReport) -> None:
        at = curve.setdefault(report.epoch + 1, {})
        for name, sums in report.validation.items():
            at[name] = at[name] + sums if name in at else sums

    found: dict[Split, list[Predicted]] = {"test": [], "validation": []}

    def at_site(table: VisitTable) -> PreparedFit:
        data = loaded(table, cell.model, cache)
        train = data.part("train")
        model = make_model(fit_scaling(train, cell.model), cell.train.seed).to(device)

        def judge() -> None:
            for part, of_sites in found.items():
                of_sites.append(_from_trained_modalities(model, train, data.part(part)))

        return PreparedFit(Fit(model, train, data.part("validation"), cell.train.seed, keep, data.scans()), judge)

    def outcome() -> CellOutcome:
        test = _of_all_sites(found["test"])
        return CellOutcome(
            test.visits,
            test.predictions,
            _learning_rows(curve, "epoch"),
            calibration=_of_all_sites(found["validation"]),
            spread=test.spread,
        )

    return PreparedCell((at_site(table) for table in sites.values()), outcome)


def run_centralised(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """`prepare_centralised`, fitted."""
    return _run_alone(cell, prepare_centralised(cell, sites, cache, device))


def run_local(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """`prepare_local`, fitted site by site."""
    return _run_alone(cell, prepare_local(cell, sites, cache, device))


def _run_alone(cell: Cell, prepared: PreparedCell) -> CellOutcome:
    for one in prepared.fits:
        own = one.fit
        fit(own.model, own.train, own.validation, cell.train, scans=own.scans, on_epoch=own.on_epoch)
        one.judge()
    return prepared.outcome()


def run_local_reference(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """A baseline at every site by itself: its test visits are predicted from its own training visits alone."""
    baseline = BASELINES[cell.method.baseline]
    found: list[Predicted] = []
    for table in sites.values():
        data = loaded(table, cell.model, cache)
        test = data.part("test")
        found.append(Predicted(test.visits, baseline(data.part("train"), test)))
    every = _of_all_sites(found)
    return CellOutcome(every.visits, every.predictions)


def run_federated(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """A federation of the sites; a model that is personal to its site is tested on that site's visits."""
    require_federable(cell.model, sites)
    federation = train_federation(cell, sites, cache.folder, folder / FEDERATION, device)
    model = PerMMoE(cell.model)
    model.load_state_dict(dict(federation.weights))
    model.to(device)
    data = loaded(joined(sites), cell.model, cache)
    test, validation = data.part("test"), data.part("validation")
    if cell.method.personal_epochs or federation.private or cell.model.harmonisation:
        tested, calibration = _predictions_at_sites(cell, sites, cache, federation, device)
    else:
        tested, calibration = (predicted_of(model, part) for part in (test, validation))
    return CellOutcome(
        tested.visits,
        tested.predictions,
        _learning_rows(federation.evaluations, "round"),
        federation.rounds,
        federation.privacy,
        _activation(model, test),
        calibration,
        tested.spread,
    )


def _activation(model: PerMMoE, data: VisitData) -> Activation | None:
    """None where the ridge alone predicts: nobody asks its experts, whom nothing trained."""
    ridge = model.config.ridge
    return None if ridge and ridge.share == 1 else expert_activation(model, data)


def joined(sites: Sites) -> VisitTable:
    """All sites' visits, in the order of site names."""
    return VisitTable(tuple(visit for table in sites.values() for visit in table))


def loaded(table: VisitTable, model: ModelConfig, cache: VolumeCache) -> VisitData:
    """The visits whose inputs can be read, as far as a model of this configuration needs them."""
    data, _ = VisitData.load(table, model, cache, stem=fixed_stem(model))
    return data


def predicted_of(model: PerMMoE, data: VisitData) -> Predicted:
    """What a model predicts of visits with each combination, and the spread where it predicts one."""
    predictions, scales = predicted(model, data)
    return Predicted(data.visits, predictions, scales if model.spread else None)


def _from_trained_modalities(model: PerMMoE, train: VisitData, test: VisitData) -> Predicted:
    """Predictions from those modalities of each combination that the training visits have.

    A hospital knows which modalities these are. Where a combination has none of them, the mean change of the training
    visits is predicted, with a spread of one unit, as of a model that has learned none.
    """
    found = predicted_of(model, test)
    spread = None
    if found.spread is not None:
        spread = from_the_rest(found.spread, train, test, otherwise=model.config.unit_points)
    return Predicted(test.visits, from_the_rest(found.predictions, train, test, mean_change(train)), spread)


def require_federable(model: ModelConfig, sites: Sites) -> None:
    """Raise ConfigurationError for what hospitals could not train on, or would train on less of than others do."""
    _require_declared_scales(model)
    _require_outcomes_on_scale(model.score, sites)


def _require_declared_scales(model: ModelConfig) -> None:
    """Raise ConfigurationError where the scale of a table's columns would have to be fitted.

    Nobody in a federation sees all training visits, so the scale has to be declared.
    """
    bare = [m.name for m in model.modalities if not kind_of(m).is_scale_declared(m)]
    if bare:
        raise ConfigurationError(
            f"a federation cannot fit the scale of {', '.join(bare)}; "
            "declare `means` and `deviations` of the columns there, from a publication"
        )


def _require_outcomes_on_scale(score: Score, sites: Sites) -> None:
    """Raise ConfigurationError where hospitals would leave visits out for an outcome that their score cannot reach.

    Other methods would train on these visits, and no comparison with them would be fair.
    """
    visits = [visit for table in sites.values() for visit in table if visit.delta_cdrsb is not None]
    off = sum(not score.holds(visit.baseline_cdrsb + cast(float, visit.delta_cdrsb), margin=1e-6) for visit in visits)
    if off:
        low, high = score.bounds
        raise ConfigurationError(
            f"hospitals would leave out {off} of {len(visits)} visits, whose {score.name} at the horizon is not "
            f"between {low:g} and {high:g}; say in `model.score` what is predicted (name, unit, lowest, highest; null: "
            "no bound)"
        )


def _predictions_at_sites(
    cell: Cell, sites: Sites, cache: VolumeCache, federation: TrainedFederation, device: str
) -> tuple[Predicted, Predicted]:
    """Each site's test and validation visits, predicted by its own model: with its private modules, fine-tuned if the
    method says; of harmonised images where the model takes those."""
    found: dict[Split, list[Predicted]] = {"test": [], "validation": []}
    for site, table in sites.items():
        data = loaded(table, cell.model, cache)
        model = PerMMoE(cell.model)
        layout = ModuleLayout.of(model)
        modules = layout.flatten_all(dict(federation.weights)) | dict(federation.private.get(site, {}))
        model.load_state_dict(layout.unflatten(modules))
        if model.harmonisation:
            data = harmonised(model.harmonisation, data).data
        model.to(device)
        if cell.method.personal_epochs:
            tuning = cell.train.model_copy(update={"epochs": cell.method.personal_epochs, "warmup_epochs": 0})
            fit(model, data.part("train"), data.part("validation"), tuning, is_centred=True)
        for part, of_sites in found.items():
            own = data.part(part)
            of_sites.append(predicted_of(model, own))
    return _of_all_sites(found["test"]), _of_all_sites(found["validation"])


def _of_all_sites(found: Sequence[Predicted]) -> Predicted:
    visits = tuple(visit for one in found for visit in one.visits)
    spreads = [one.spread for one in found if one.spread is not None]
    spread = np.concatenate(spreads) if len(spreads) == len(found) else None
    return Predicted(VisitTable(visits), np.concatenate([one.predictions for one in found]), spread)


def _learning_rows(curve: Mapping[int, Mapping[str, ErrorSums]], step_kind: str) -> Rows:
    """Rows of `learning.csv` from the validation errors after each step."""
    rows: Rows = []
    for step, sums in sorted(curve.items()):
        mean = {"combination": "mean", "rmse": mean_squared_error(sums) ** 0.5}
        single = [{"combination": name, "rmse": s.rmse} for name, s in sums.items() if s.n]
        rows += [{"step": step, "step_kind": step_kind, **row} for row in [mean, *single]]
    return rows
