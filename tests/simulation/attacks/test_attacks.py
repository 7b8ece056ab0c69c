"""The attacks themselves: they find what is there to be found, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from permmoe.config import read_config
from permmoe.data.dataset import VisitData
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.update import ModuleUpdate
from permmoe.training.losses import total_loss
from permmoe.training.seeds import make_model
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from permmoe_simulation.attacks.detection import allowed_auc, auc, detection, roc
from permmoe_simulation.attacks.games import observations, protections
from permmoe_simulation.attacks.inversion import likeness, reconstruction
from permmoe_simulation.attacks.membership import canary_of, joined, membership_scores
from permmoe_simulation.attacks.observation import Observation, secure_sum
from permmoe_simulation.attacks.study import AttackStudy
from tests.support.pretended_gpu import pretend_gpus
from tests.support.tiny_federation import MODEL, write_site

SETTINGS = Path(__file__).parents[3] / "configs" / "attacks" / "one-round.yaml"


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> VisitData:
    folder: Path = tmp_path_factory.mktemp("site")
    return site_visits(read_site(write_site(folder, "north", visits=23)), MODEL)


def one_step(data: VisitData, rate: float = 0.1) -> Observation:
    """What a coordinator sees of one plain gradient step on some visits."""
    model = make_model(MODEL, 3).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = read_config(SETTINGS, AttackStudy).train
    batch = data.batch(torch.arange(len(data)))
    total_loss(model(batch), batch, settings).backward()
    layout = ModuleLayout.of(model)
    change = layout.flatten_all(
        {n: torch.zeros_like(p) if p.grad is None else -rate * p.grad for n, p in model.named_parameters()}
    )
    return Observation(
        MODEL, before, {name: ModuleUpdate(len(data) * c, float(len(data))) for name, c in change.items()}
    )


def test_the_features_of_a_single_patient_are_recovered_exactly_from_one_step(visits: VisitData) -> None:
    patient = visits.subset(torch.tensor([4]))
    seen = one_step(patient)
    found = reconstruction(seen, "clinical")
    features = seen.model_before().encoders["clinical"].features(patient.batch(torch.arange(1)).inputs["clinical"])
    assert float(likeness(found, features.detach().flatten(1))) == pytest.approx(1.0, abs=1e-4)


def test_a_module_that_is_not_released_gives_no_reconstruction(visits: VisitData) -> None:
    seen = one_step(visits.subset(torch.tensor([4])))
    hidden = Observation(MODEL, seen.before, secure_sum([seen.updates], min_holders=3))
    assert reconstruction(hidden, "clinical") is None and likeness(None, torch.ones(5, 7)).tolist() == [0.0] * 5


def test_a_member_scores_above_the_same_patient_as_a_stranger(visits: VisitData) -> None:
    rest, canary = visits.subset(torch.arange(1, 9)), canary_of(visits, 0, 12.0)
    member, stranger = (membership_scores(one_step(d), canary) for d in (joined(rest, canary), rest))
    assert member.alignment > stranger.alignment and member.loss_drop > stranger.loss_drop


def test_scores_hang_on_nothing_but_what_the_attacker_holds(visits: VisitData) -> None:
    seen, canary = one_step(visits.subset(torch.arange(1, 9))), canary_of(visits, 0, 12.0)
    torch.manual_seed(1)
    first = membership_scores(seen, canary)
    torch.manual_seed(2)
    assert membership_scores(seen, canary) == first


def test_the_area_is_one_for_a_perfect_score_and_a_half_for_a_constant_one() -> None:
    even = np.ones(11)
    low, high = np.arange(11.0), np.arange(11.0) + 100
    assert auc(high, low, even) == 1.0 and auc(low, high, even) == 0.0 and auc(even, even, even) == 0.5
    false_rate, true_rate = roc(high, low)
    assert float(np.trapezoid(true_rate, false_rate)) == 1.0


def test_the_area_is_that_of_all_pairs_compared_one_by_one() -> None:
    rng = np.random.default_rng(5)
    member, other = rng.integers(0, 7, 31).astype(float), rng.integers(0, 7, 31).astype(float)
    pairs = np.mean([(m > o) + 0.5 * (m == o) for m in member for o in other])
    assert auc(member, other, np.ones(31)) == pytest.approx(pairs)


def test_a_score_of_noise_has_an_interval_that_holds_a_half() -> None:
    rng = np.random.default_rng(6)
    found = detection(rng.normal(size=101), rng.normal(size=101), resamples=200, seed=0)
    assert found.auc.lower < 0.5 < found.auc.upper


def test_the_bound_of_differential_privacy_is_a_half_at_zero_and_grows_to_one() -> None:
    bounds = [allowed_auc(epsilon, 0.0) for epsilon in (0.0, 1.0, 3.0, 20.0)]
    assert bounds[0] == pytest.approx(0.5) and bounds[-1] == pytest.approx(1.0) and bounds == sorted(bounds)
    assert bounds[1] == pytest.approx(np.e / (1 + np.e))


def test_an_attack_study_has_no_way_to_name_real_patients() -> None:
    assert {"manifest", "folders", "data"}.isdisjoint(AttackStudy.model_fields)
    assert len(protections(read_config(SETTINGS, AttackStudy))) == 5


def test_the_sites_of_a_round_train_on_the_device_that_was_asked_for(
    visits: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"model": MODEL, "local_epochs": 1, "epsilons": (8.0,)}
    study = read_config(SETTINGS, AttackStudy).model_copy(update=small)
    groups = [visits.subset(part) for part in torch.arange(6).split(3)]
    monkeypatch.setattr("permmoe_simulation.attacks.games._noise", lambda *_: 1.0)
    gpus = pretend_gpus(monkeypatch)
    seen = dict(observations(study, make_model(MODEL, 3), groups[0], groups[1:], 0, "cuda:0"))
    assert gpus.sent == ["cuda:0"] * 4 and seen.keys() == set(protections(study))
