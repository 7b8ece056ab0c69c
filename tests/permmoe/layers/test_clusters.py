"""Clusters of tokens: what stands in for a missing modality is what visits in the same clusters have of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from permmoe.config import ClusterConfig, ModelConfig, PrivacyConfig, TrainConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.federated.plan import RoundPlan
from permmoe.federated.update import ModuleUpdate
from permmoe.layers.clusters import Clusters
from permmoe.model import PerMMoE
from permmoe.training.clustering import set_clusters
from permmoe.training.epochs import train_epochs
from permmoe.training.losses import total_loss
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from permmoe.training.stacked_epochs import why_not_stacked
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes
from permmoe_server.protocol.optimisers import server_step
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.small_visits import small_visits

K = 5
CONFIG = small_config(n_volumes=2, n_tables=1, bank="clusters", clusters=ClusterConfig(per_modality=K, most_move=99.0))
OBSERVED = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])


def clusters_of(model: PerMMoE) -> Clusters:
    assert model.clusters is not None
    return model.clusters


def spread_out(seed: int = 0) -> Clusters:
    """Centres that lie as far from each other as tokens do."""
    torch.manual_seed(seed)
    clusters = Clusters(CONFIG)
    torch.nn.init.normal_(clusters.centres)
    return clusters


def tokens_of(n_visits: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(n_visits, 3, 5, 7)


def slow_nearest(clusters: Clusters, tokens: Tensor, visit: int, modality: int) -> int:
    """One distance after the other."""
    distances = [float((tokens[visit, modality] - clusters.table()[modality, k, modality]).norm()) for k in range(K)]
    return int(np.argmin(distances))


def slow_means(clusters: Clusters, tokens: Tensor, observed: Tensor) -> dict[tuple[int, int, int], list[Tensor]]:
    """By (n, k, m), the tokens of m of each visit that has n in cluster k, and m."""
    found: dict[tuple[int, int, int], list[Tensor]] = {}
    for visit, row in enumerate(observed.tolist()):
        for n in (n for n in range(3) if row[n]):
            k = slow_nearest(clusters, tokens, visit, n)
            for m in (m for m in range(3) if row[m]):
                found.setdefault((n, k, m), []).append(tokens[visit, m])
    return found


def test_a_missing_modality_is_the_mean_of_what_each_observed_modalitys_cluster_says_of_it() -> None:
    clusters, tokens = spread_out(), tokens_of(3)
    found, table = clusters.completed(tokens, OBSERVED), clusters.table()
    for visit, row in enumerate(OBSERVED.tolist()):
        for m in range(3):
            said = [table[n, slow_nearest(clusters, tokens, visit, n), m] for n in range(3) if row[n]]
            expected = tokens[visit, m] if row[m] else torch.stack(said).mean(0)
            torch.testing.assert_close(found[visit, m], expected)


def test_what_stood_in_the_place_of_a_missing_modality_counts_for_nothing_even_where_it_is_no_number() -> None:
    clusters, tokens = spread_out(), tokens_of(3)
    spoilt = torch.where(OBSERVED[:, :, None, None], tokens, torch.nan)
    assert torch.equal(clusters.completed(spoilt, OBSERVED), clusters.completed(tokens, OBSERVED))
    assert all(torch.equal(a, b) for a, b in zip(*(clusters.sums(x, OBSERVED) for x in (spoilt, tokens)), strict=True))


def test_centres_are_the_means_of_visits_that_have_both_and_others_stay_where_they_are() -> None:
    clusters, tokens = spread_out(), tokens_of(31)
    observed = random_pattern(31, 3)
    expected, before = slow_means(clusters, tokens, observed), clusters.table().clone()
    sums, counts = clusters.sums(tokens, observed)
    clusters.put(sums, counts)
    visits = counts.view(3, K, 3)
    for n, k, m in torch.cartesian_prod(torch.arange(3), torch.arange(K), torch.arange(3)).tolist():
        rows = expected.get((n, k, m), [])
        assert visits[n, k, m] == len(rows)
        wanted = torch.stack(rows).mean(0) if rows else before[n, k, m]
        torch.testing.assert_close(clusters.table()[n, k, m], wanted)


def test_a_centre_moves_towards_its_mean_by_no_more_than_it_may() -> None:
    clusters, tokens = spread_out(), tokens_of(31)
    clusters.most_move = 0.4
    sums, counts = clusters.sums(tokens, random_pattern(31, 3))
    before = clusters.centres.clone()
    wanted = torch.where(counts[:, None, None] > 0, sums / counts.clamp(min=1)[:, None, None], before) - before
    clusters.put(sums, counts)
    moved, far = clusters.centres - before, wanted.square().mean((1, 2)).sqrt() > 0.4
    assert far.any() and not far.all()
    torch.testing.assert_close(moved[~far], wanted[~far].float())
    torch.testing.assert_close(moved[far].square().mean((1, 2)).sqrt(), torch.full((int(far.sum()),), 0.4))
    cosines = torch.cosine_similarity(moved[far].flatten(1), wanted[far].float().flatten(1), dim=1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_setting_centres_again_and_again_brings_tokens_nearer_to_them_until_nothing_moves() -> None:
    """Each time is a step of Lloyd's algorithm, which never makes the sum of squared distances larger."""
    clusters, tokens, observed = spread_out(), tokens_of(61), torch.ones(61, 3, dtype=torch.bool)
    distances = []
    for _ in range(30):
        own = clusters.own()[torch.arange(3), clusters.nearest(tokens)]
        distances.append((tokens - own).square().sum().item())
        clusters.put(*clusters.sums(tokens, observed))
    assert all(later <= earlier + 1e-3 for earlier, later in pairwise(distances))
    assert distances[-1] < 0.9 * distances[0] and distances[-1] == pytest.approx(distances[-2])


def test_the_contrastive_loss_draws_tokens_in_the_direction_of_their_centre() -> None:
    clusters = spread_out()
    centres = clusters.own()[:, 2].unsqueeze(0)
    tokens = (centres + 0.3 * torch.randn(7, 3, 5, 7)).detach().requires_grad_()
    assert (clusters.nearest(tokens) == 2).all()
    loss = clusters.misalignment(tokens)
    loss.sum().backward()
    assert tokens.grad is not None
    drawn = tokens.detach() - 0.5 * tokens.grad
    assert (clusters.misalignment(drawn) < loss).all()

    def cosine(x: Tensor) -> float:
        return torch.cosine_similarity(x.flatten(2), centres.flatten(2), dim=2).mean().item()

    assert cosine(drawn) > cosine(tokens)


def test_the_contrastive_loss_is_a_cross_entropy_over_cosines() -> None:
    clusters, tokens = spread_out(), tokens_of(3)
    found = clusters.misalignment(tokens)
    for visit in range(3):
        for m in range(3):
            flat = tokens[visit, m].flatten()
            cosines = torch.stack([torch.cosine_similarity(flat, c.flatten(), dim=0) for c in clusters.own()[m]])
            expected = -(cosines / 0.5).softmax(0)[slow_nearest(clusters, tokens, visit, m)].log()
            torch.testing.assert_close(found[visit, m], expected)


def test_training_counts_the_contrastive_loss_of_observed_modalities_by_its_weight() -> None:
    model = make_model(CONFIG, 0).train()
    batch = random_batch(CONFIG, random_pattern(17, 3))
    output = model(batch)
    assert output.misalignment is not None
    losses = [total_loss(output, batch, TrainConfig(alignment_weight=weight)).item() for weight in (0.0, 0.7)]
    mean = float(np.mean([output.misalignment[v, m].item() for v, m in batch.observed.nonzero().tolist()]))
    assert losses[1] - losses[0] == pytest.approx(0.7 * mean, rel=1e-4)
    assert model.eval()(batch).misalignment is None


def test_a_training_ends_with_centres_of_its_visits_which_no_gradient_moved() -> None:
    data, model = small_visits(CONFIG, 31), make_model(CONFIG, 0)
    set_means(model, data)
    record = train_epochs(model, data, TrainConfig(batch_size=8), first_epoch=0, epochs=2, seed=0)
    clusters, again = clusters_of(model), clusters_of(make_model(CONFIG, 0))
    # The training's last assignment was to the centres before; those of the first are what set_means left.
    start = make_model(CONFIG, 0)
    set_means(start, data)
    again.load_state_dict(clusters_of(start).state_dict())
    batch = data.batch(torch.arange(len(data)))
    with torch.no_grad():
        tokens = model.eval().completed(model.encode(batch))
    again.put(*again.sums(tokens, batch.observed))
    torch.testing.assert_close(again.centres, clusters.centres)
    assert record.exposure.clustered is not None
    assert torch.equal(record.exposure.clustered, record.behind.clustered)


def test_centres_of_sites_averaged_by_their_visits_are_those_of_all_visits_in_one_place() -> None:
    """The sites lack different modalities, and one has a single one. The server's momentum plays no part."""
    torch.manual_seed(5)
    complete = small_visits(CONFIG, 97)
    lacking = [complete.observed.clone() for _ in range(3)]
    lacking[0][:, 1] = False
    lacking[1][:, :2] = False
    parts = [torch.arange(23), torch.arange(23, 54), torch.arange(54, 97)]
    sites = [complete.subset(rows).limited(lacking[i][rows]) for i, rows in enumerate(parts)]
    layout, pooled = ModuleLayout.of(make_model(CONFIG, 0)), make_model(CONFIG, 0)
    weights, running = layout.flatten_all(pooled.state_dict()), RunningSum()
    sums, visits = torch.zeros(45, 5, 7, dtype=torch.float64), torch.zeros(45, dtype=torch.float64)
    for site in sites:
        model = make_model(CONFIG, 0).eval()
        batch = site.batch(torch.arange(len(site)))
        with torch.no_grad():
            own = clusters_of(model).sums(model.completed(model.encode(batch)), batch.observed)
        sums, visits = sums + own[0], visits + own[1]
        counts = set_clusters(model, clusters_of(model), site)
        support = dict(zip(centres_of(layout), counts.tolist(), strict=True))
        after = layout.flatten_all(model.state_dict())
        updates = {m: ModuleUpdate.of(weights[m], after[m], n) for m, n in support.items() if n}
        running = fold(running, updates, float(len(site)))
    config = FederationConfig(server_optimiser="fedavgm", server_momentum=0.9, server_learning_rate=0.5)
    moving = {module: {"first": torch.ones_like(value)} for module, value in weights.items()}
    for module, change in mean_changes(running, weights):
        weights[module], _ = server_step(config.of_module(module), weights[module], change, moving[module])
    clusters_of(pooled).put(sums, visits)
    averaged = layout.unflatten(weights)["clusters.centres"]
    assert visits.sum() > 97
    torch.testing.assert_close(averaged, clusters_of(pooled).centres.detach())


def centres_of(layout: ModuleLayout) -> list[str]:
    return [module for module in layout.modules if module.startswith("cluster/")]


def test_each_centre_is_a_module_whose_support_is_the_visits_that_it_is_a_mean_of() -> None:
    data, model = small_visits(CONFIG, 31), make_model(CONFIG, 0)
    layout = ModuleLayout.of(model)
    assert len(centres_of(layout)) == 3 * K * 3 and "cluster/volume1/4/table0" in layout.modules
    assert not [module for module in layout.modules if module.startswith("bank/")]
    record = train_epochs(model, data, TrainConfig(batch_size=8), first_epoch=0, epochs=1, seed=0)
    support = module_support(CONFIG, record.exposure)
    assert set(support) == set(layout.modules)
    for n, name in enumerate(CONFIG.names):
        for m, other in enumerate(CONFIG.names):
            visits = sum(support[f"cluster/{name}/{k}/{other}"] for k in range(K))
            assert visits == int((data.observed[:, n] & data.observed[:, m]).sum())
    state = dict(model.state_dict())
    again = layout.unflatten(layout.flatten_all(state))
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_a_site_is_sent_what_its_own_modalities_clusters_say_of_others_and_nothing_else_of_theirs() -> None:
    every = set(ModuleLayout.of(PerMMoE(CONFIG)).modules)
    left_out = every - reachable_modules(CONFIG, ("volume0", "table0"))
    assert left_out == {"encoder/volume1"} | {f"cluster/volume1/{k}/{m}" for k in range(K) for m in CONFIG.names}


@pytest.mark.parametrize("change", [{"aggregation": "zero_fill"}, {"drift_correction": True}])
def test_a_study_whose_server_would_not_average_centres_by_their_visits_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="centres are means over the sites' visits"):
        RoundPlan(model=CONFIG, federation=FederationConfig.model_validate(change))


def test_centres_without_noise_have_no_part_in_a_private_study() -> None:
    private = FederationConfig(privacy=PrivacyConfig(noise_multiplier=1.0), evaluate_every=0, centring_round=False)
    with pytest.raises(ValidationError, match="centres, which have no noise"):
        RoundPlan(model=CONFIG, federation=private)


def test_models_with_clusters_are_not_stacked_and_leave_digests_of_others_alone() -> None:
    assert "no clusters" in why_not_stacked(make_model(CONFIG, 0), [], TrainConfig())
    assert "clusters" not in ModelConfig().model_dump() and "alignment_weight" not in TrainConfig().model_dump()
