"""Missing modalities translated from observed ones: against a slow reference, over sites, and inside the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from permmoe.config import ModelConfig, RidgeConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.federated.update import ModuleUpdate
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.layers.ridge import CombinationRidge
from permmoe.layers.translation import Translator
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes
from tests.support.model_batches import small_config
from tests.support.scaled_components import scaled_components
from tests.support.small_visits import small_visits

RIDGE = RidgeConfig(cells=(1, 3, 2), penalty=0.3, share=0.0)
CONFIG = small_config(n_volumes=2, n_tables=1, bank="translated", ridge=RIDGE)
VOLUME0_AND_TABLE = 0b101


def complete(n: int, seed: int = 0) -> VisitData:
    return small_visits(CONFIG, n, seed, observed=torch.ones(n, 3, dtype=torch.bool))


def measured(data: VisitData) -> PerMMoE:
    model = make_model(CONFIG, 0)
    set_means(model, data)
    return model.eval()


def parts_of(model: PerMMoE) -> tuple[CombinationRidge, Translator]:
    assert model.ridge is not None and model.translator is not None
    return model.ridge, model.translator


def features_of(data: VisitData, ridge: CombinationRidge) -> dict[str, Tensor]:
    batch = data.batch(torch.arange(len(data)))
    return {name: ridge.features(name, rows) for name, rows in batch.inputs.items() if len(rows)}


def textbook(train: VisitData, test: VisitData, ridge: CombinationRidge, missing: str) -> np.ndarray:
    """Every training visit complete: plain ridge on scaled principal components, by the normal equations."""
    fitted, asked = features_of(train, ridge), features_of(test, ridge)
    scaled = [scaled_components(fitted[name].numpy(), asked[name].numpy()) for name in train.names if name != missing]
    scaled_train, scaled_test = zip(*scaled, strict=True)
    x, y = np.column_stack(scaled_train), fitted[missing].numpy()
    slope = np.linalg.solve(x.T @ x / len(x) + RIDGE.penalty * np.eye(x.shape[1]), x.T @ (y - y.mean(0)) / len(x))
    return np.asarray(np.column_stack(scaled_test) @ slope + y.mean(0))


def withheld(data: VisitData, column: int) -> VisitData:
    observed = data.observed.clone()
    observed[:, column] = False
    stored = torch.where(observed, data.stored_rows, -1)
    return VisitData(data.visits, data.names, observed, data.baseline, data.target, stored, data.inputs)


@pytest.mark.parametrize("missing", CONFIG.names)
def test_on_complete_visits_it_is_textbook_ridge_from_all_other_modalities(missing: str) -> None:
    train, test = complete(53), complete(17, seed=1)
    ridge, translator = parts_of(measured(train))
    column = CONFIG.names.index(missing)
    own = translator.translation(ridge, 0b111 & ~(1 << column), missing)
    features = features_of(test, ridge)
    found = own.intercept + sum(features[name] @ weights for name, weights in own.weights.items())
    np.testing.assert_allclose(found.numpy(), textbook(train, test, ridge, missing), atol=2e-4)


def test_predicted_features_come_back_as_inputs_of_the_encoder() -> None:
    """Where the coarse grid is the encoder's, cell by cell; a table's columns always, in their own units."""
    train = complete(53)
    same = CONFIG.model_copy(update={"ridge": RidgeConfig(cells=(2, 3, 5), share=0.0)})
    model = make_model(same, 0)
    ridge, translator = parts_of(model)
    for name, rows in train.batch(torch.arange(53)).inputs.items():
        torch.testing.assert_close(translator.inputs_of[name](ridge.features(name, rows)), rows)


def test_interpolated_inputs_have_the_shape_that_the_encoder_reads() -> None:
    _, translator = parts_of(make_model(CONFIG, 0))
    for modality in CONFIG.modalities:
        n = INPUT_KINDS[modality.kind].ridge_features(modality, RIDGE.cells)[1]
        shape = translator.inputs_of[modality.name](torch.zeros(3, n, dtype=torch.float64)).shape
        assert shape == (3, *INPUT_KINDS[modality.kind].shape(modality, CONFIG))


def test_a_visit_is_translated_with_its_own_combination_whatever_the_batch() -> None:
    model = measured(complete(53))
    ridge, translator = parts_of(model)
    mixed = small_visits(CONFIG, 19, seed=2)
    batch = mixed.batch(torch.arange(19))
    together = translator(ridge, features_of(mixed, ridge), batch.observed)
    alone: dict[str, list[Tensor]] = {}
    for row in range(19):
        one = mixed.batch(torch.tensor([row]))
        features = {name: ridge.features(name, x) for name, x in one.inputs.items() if len(x)}
        for name, x in translator(ridge, features, one.observed).items():
            alone.setdefault(name, []).append(x)
    assert set(together) == set(alone)
    for name, rows in together.items():
        torch.testing.assert_close(rows, torch.cat(alone[name]))


def test_a_visit_without_modalities_is_predicted_as_one_that_measured_what_was_translated() -> None:
    model = measured(complete(53))
    ridge, translator = parts_of(model)
    mixed = small_visits(CONFIG, 19, seed=2)
    batch = mixed.batch(torch.arange(19))
    inputs = {}
    for column, (name, rows) in enumerate(translator(ridge, features_of(mixed, ridge), batch.observed).items()):
        inputs[name] = rows.new_zeros(19, *rows.shape[1:])
        inputs[name][batch.observed[:, column]] = batch.inputs[name]
        inputs[name][~batch.observed[:, column]] = rows
    filled = Batch(inputs, torch.ones(19, 3, dtype=torch.bool), batch.baseline, batch.target)
    assert (~batch.observed).sum(1).max() == 2
    torch.testing.assert_close(model(batch).prediction, model(filled).prediction)


def test_withholding_while_asked_is_the_same_as_never_measured() -> None:
    model = measured(complete(53))
    whole, lacking = complete(7, seed=6), withheld(complete(7, seed=6), 1)
    encoded = model.encode(whole.batch(torch.arange(7)))
    kept = model.fuse(encoded.keeping(torch.arange(7), lacking.observed))
    torch.testing.assert_close(kept.prediction, model(lacking.batch(torch.arange(7))).prediction)


def test_an_encoder_learns_from_measured_inputs_alone() -> None:
    model = measured(complete(53)).train()
    lacking = withheld(complete(7, seed=6), 1)
    model(lacking.batch(torch.arange(7))).prediction.square().sum().backward()
    assert all(parameter.grad is None for parameter in model.encoders["volume1"].parameters())
    assert any(parameter.grad is not None for parameter in model.encoders["volume0"].parameters())


def test_a_modality_that_nobody_trained_on_is_translated_to_its_mean_and_says_nothing() -> None:
    ridge, translator = parts_of(measured(withheld(complete(37), 1)))
    to_it = translator.translation(ridge, VOLUME0_AND_TABLE, "volume1")
    assert not to_it.intercept.any() and not any(weights.any() for weights in to_it.weights.values())
    assert set(translator.translation(ridge, 0b110, "volume0").weights) == {"table0"}
    assert translator.translation(ridge, 0b010, "volume0").weights == {}


def test_translations_of_sites_averaged_by_their_visits_are_those_of_all_visits_in_one_place() -> None:
    """The sites lack different modalities, and one has none of the one that is translated."""
    sites = [withheld(complete(23, seed=1), 1), withheld(complete(41, seed=2), 0), complete(31, seed=3)]
    layout = ModuleLayout.of(make_model(CONFIG, 0))
    before, running = layout.flatten_all(make_model(CONFIG, 0).state_dict()), RunningSum()
    for site in sites:
        model = make_model(CONFIG, 0)
        support = module_support(CONFIG, set_means(model, site).exposure)
        after = layout.flatten_all(model.state_dict())
        updates = {m: ModuleUpdate.of(before[m], after[m], support[m]) for m in layout.modules if support[m] > 0}
        running = fold(running, updates, float(len(site)))
    federated = PerMMoE(CONFIG)
    federated.load_state_dict(
        layout.unflatten(before | {m: before[m] + change for m, change in mean_changes(running, before)})
    )
    ridge, translator = parts_of(federated)
    pooled = _pooled([(features_of(site, ridge), site) for site in sites])
    for missing, mask in (("volume1", VOLUME0_AND_TABLE), ("table0", 0b011), ("volume0", 0b110)):
        own = translator.translation(ridge, mask, missing)
        other = translator.translation(pooled, mask, missing)
        torch.testing.assert_close(own.intercept, other.intercept, atol=1e-4, rtol=1e-4)
        for name, weights in own.weights.items():
            torch.testing.assert_close(weights, other.weights[name], atol=1e-4, rtol=1e-4)


def _pooled(sites: list[tuple[dict[str, Tensor], VisitData]]) -> CombinationRidge:
    """A ridge whose moments are set from the rows of all sites together."""
    ridge = CombinationRidge(CONFIG)
    starts = np.cumsum([0, *(len(site) for _, site in sites)]).tolist()
    features = {name: torch.cat([own[name] for own, _ in sites if name in own]) for name in CONFIG.names}
    rows = {
        name: torch.cat(
            [start + site.observed[:, j].nonzero().squeeze(1) for (_, site), start in zip(sites, starts, strict=False)]
        )
        for j, name in enumerate(CONFIG.names)
    }
    baseline, target = (torch.cat([getattr(site, name) for _, site in sites]) for name in ("baseline", "target"))
    ridge.set_moments(features, rows, baseline, target)
    return ridge


def test_a_site_is_sent_what_it_needs_to_translate_to_modalities_that_it_lacks() -> None:
    assert reachable_modules(CONFIG, ("volume0",)) == frozenset(ModuleLayout.of(PerMMoE(CONFIG)).modules)


def test_training_runs_and_moves_no_moment() -> None:
    data = small_visits(CONFIG, 31)
    model = make_model(CONFIG, 0)
    set_means(model, data)
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("ridge.")}
    record = train_epochs(model, data, TrainConfig(batch_size=8), first_epoch=0, epochs=2, seed=0)
    assert np.isfinite(record.loss_sum)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"bank": "translated"}, "takes the moments of the ridge"), ({"ridge": RIDGE}, "share = 0 predicts nothing")],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(settings)
