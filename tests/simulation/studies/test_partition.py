"""Dealing visits out to hospitals: each visit once, the same whatever the order of rows."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, DataError, PermmoeError
from permmoe.modality import all_combinations
from permmoe_simulation.studies.partition import (
    KnownOutcomes,
    Missingness,
    PartitionConfig,
    PartitionSite,
    Sites,
    partition,
    training_sites,
)

NAMES = ("t1", "flair", "amyloid", "tau")
COMBINATIONS = all_combinations(NAMES)


def visit(i: int, modalities: tuple[str, ...] = NAMES, *, site: str = "011", split: str = "train") -> Visit:
    volumes = {name: Path(f"{i}-{name}.nii.gz") for name in modalities}
    return Visit(f"s{i:04d}", site, "bl", 1.5, 0.5, 24.0, split=split, volumes=volumes)  # type: ignore[arg-type]


def visits(n: int = 1155) -> VisitTable:
    """Every combination equally often, at seven sites."""
    return VisitTable(tuple(visit(i, COMBINATIONS[i % 15], site=f"{i % 7:03d}") for i in range(n)))


TABLE = (
    PartitionSite(name="large", share=5, modalities=NAMES),
    PartitionSite(name="small", share=2, modalities=NAMES),
    PartitionSite(name="no-pet", share=3, modalities=("t1", "flair")),
)
KINDS = [PartitionConfig(), PartitionConfig(kind="dirichlet", sites=5), PartitionConfig(kind="table", table=TABLE)]
BY_KIND = pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)


def subjects(sites: Sites) -> list[str]:
    return [v.subject_id for table in sites.values() for v in table]


@BY_KIND
def test_every_visit_is_at_exactly_one_site(config: PartitionConfig) -> None:
    sites, left_out = partition(visits(), NAMES, config, seed=3)
    assert sorted(subjects(sites) + subjects(left_out)) == [v.subject_id for v in visits()]


@BY_KIND
def test_the_order_of_rows_plays_no_role(config: PartitionConfig) -> None:
    shuffled = list(visits())
    random.Random(5).shuffle(shuffled)
    assert partition(VisitTable(tuple(shuffled)), NAMES, config, 3) == partition(visits(), NAMES, config, 3)


@pytest.mark.parametrize("config", KINDS[1:], ids=lambda config: config.kind)
def test_another_seed_deals_otherwise(config: PartitionConfig) -> None:
    assert partition(visits(), NAMES, config, 3) != partition(visits(), NAMES, config, 4)


def shares_of_combinations(alpha: float) -> dict[str, Counter[tuple[str, ...]]]:
    sites, _ = partition(visits(), NAMES, PartitionConfig(kind="dirichlet", sites=5, alpha=alpha), seed=11)
    return {site: Counter(v.observed(NAMES) for v in table) for site, table in sites.items()}


def test_small_alpha_gives_sites_of_few_combinations() -> None:
    by_site = shares_of_combinations(0.01)
    holders: dict[tuple[str, ...], int] = defaultdict(int)
    for combinations in by_site.values():
        for combination, n in combinations.items():
            holders[combination] += n > 7
    assert sum(holders.values()) <= 17


def test_large_alpha_gives_sites_that_are_alike() -> None:
    by_site = shares_of_combinations(1e4)
    assert len(by_site) == 5
    assert all(4 <= by_site[site][c] <= 32 for site in by_site for c in COMBINATIONS)


def test_a_declared_site_never_sees_what_it_does_not_collect() -> None:
    sites, _ = partition(visits(), NAMES, KINDS[2], seed=3)
    assert {name for v in sites["no-pet"] for name in v.volumes} == {"t1", "flair"}
    assert {name for v in sites["large"] for name in v.volumes} == set(NAMES)


def test_declared_shares_are_respected() -> None:
    complete = VisitTable(tuple(visit(i) for i in range(3000)))
    sites, _ = partition(complete, NAMES, KINDS[2], seed=3)
    for site, share in {"large": 0.5, "small": 0.2, "no-pet": 0.3}.items():
        assert abs(len(sites[site]) / 3000 - share) < 0.04


def test_a_visit_of_which_no_declared_site_keeps_anything_is_dropped() -> None:
    config = PartitionConfig(kind="table", table=TABLE[2:])
    sites, _ = partition(visits(), NAMES, config, seed=3)
    assert set(subjects(sites)) == {v.subject_id for v in visits() if {"t1", "flair"} & set(v.volumes)}


def test_an_unknown_modality_of_the_table_names_the_nearest() -> None:
    config = PartitionConfig(kind="table", table=(PartitionSite(name="north", modalities=("flare",)),))
    with pytest.raises(ConfigurationError, match=r"north .*'flare'; did you mean 'flair'"):
        partition(visits(), NAMES, config, seed=3)


def test_a_site_without_training_visits_is_left_out_and_itemised() -> None:
    table = VisitTable((visit(0, site="011"), visit(1, site="023", split="test"), visit(2, site="023", split="test")))
    sites, left_out = partition(table, NAMES, PartitionConfig(), seed=0)
    assert list(sites) == ["011"]
    assert {site: len(visits) for site, visits in left_out.items()} == {"023": 2}


def test_without_any_site_left_the_error_says_what_next() -> None:
    with pytest.raises(ConfigurationError, match="lower min_training_visits"):
        partition(visits(), NAMES, PartitionConfig(min_training_visits=1000), seed=0)


@pytest.mark.parametrize("code", ["../011", "a/b", "Mass General", ""])
def test_a_site_code_that_is_no_name_of_a_site_is_refused(code: str) -> None:
    with pytest.raises(DataError, match="no name of a site"):
        partition(VisitTable((visit(0, site=code),)), NAMES, PartitionConfig(), seed=0)


@pytest.mark.parametrize(
    "settings",
    [{"kind": "table"}, {"kind": "site", "table": TABLE}, {"kind": "table", "table": (TABLE[0], TABLE[0])}],
)
def test_a_table_goes_with_its_kind_and_names_each_site_once(settings: dict[str, object]) -> None:
    with pytest.raises((PermmoeError, ValueError), match="table"):
        PartitionConfig.model_validate(settings)


def regime(kind: str, rate: float = 0.5) -> PartitionConfig:
    return PartitionConfig.model_validate({"missing": {"kind": kind, "rate": rate}})


def severe(i: int, n: int) -> Visit:
    """The later the visit, the sicker at baseline and the less it declines."""
    split = "test" if i % 5 == 0 else "train"
    return replace(visit(i, site=f"{i % 7:03d}", split=split), baseline_cdrsb=18 * i / n, delta_cdrsb=-i / n)


COMPLETE = VisitTable(tuple(severe(i, 1001) for i in range(1001)))
TAKEN = ("mcar", "mar", "mnar", "structural", "exclusive")


def kept(sites: Sites, part: str) -> dict[str, int]:
    """Observed modalities of each visit of a part."""
    return {v.subject_id: len(v.observed(NAMES)) for t in sites.values() for v in t if v.split == part}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_missingness_regime_leaves_test_visits_complete_and_their_sites_the_same(kind: str) -> None:
    sites, _ = partition(COMPLETE, NAMES, regime(kind), seed=3)
    before, _ = partition(COMPLETE, NAMES, PartitionConfig(), seed=3)
    assert set(kept(sites, "test").values()) == {4}
    assert {s: [v.subject_id for v in t] for s, t in sites.items()} == {
        s: [v.subject_id for v in t] for s, t in before.items()
    }


@pytest.mark.parametrize("kind", TAKEN)
def test_missingness_depends_on_the_seed_and_not_on_the_order_of_rows(kind: str) -> None:
    backwards = VisitTable(tuple(reversed(COMPLETE.visits)))
    once = partition(COMPLETE, NAMES, regime(kind), 3)
    assert partition(backwards, NAMES, regime(kind), 3) == once
    assert partition(COMPLETE, NAMES, regime(kind), 4) != once


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("kind", ["mcar", "mar", "mnar"])
def test_the_share_that_is_taken_is_the_rate_and_every_visit_keeps_one(kind: str, rate: float) -> None:
    left = list(kept(partition(COMPLETE, NAMES, regime(kind, rate), seed=3)[0], "train").values())
    assert min(left) >= 1
    # A visit that would lose all keeps one, which makes the share a little smaller than the rate.
    assert -0.14 < 1 - sum(left) / (4 * len(left)) - rate < 0.03


def test_mar_takes_from_the_severe_and_mnar_from_those_who_decline() -> None:
    for kind, sicker_lose_more in (("mar", True), ("mnar", False), ("mcar", None)):
        left = kept(partition(COMPLETE, NAMES, regime(kind), seed=3)[0], "train")
        early = [n for subject, n in left.items() if int(subject[1:]) < 500]
        late = [n for subject, n in left.items() if int(subject[1:]) >= 500]
        lead = sum(early) / len(early) - sum(late) / len(late)
        assert abs(lead) < 0.25 if sicker_lose_more is None else (lead > 0.5) == sicker_lose_more
        assert sicker_lose_more is not False or lead < -0.5


def test_structural_sites_have_the_same_scanners_for_everyone_and_all_modalities_are_somewhere() -> None:
    for kind, size in (("structural", 2), ("exclusive", 1)):
        sites, _ = partition(COMPLETE, NAMES, regime(kind), seed=3)
        scanners = {site: {v.observed(NAMES) for v in t if v.split == "train"} for site, t in sites.items()}
        assert all(len(of_site) == 1 and len(next(iter(of_site))) == size for of_site in scanners.values())
        assert {name for of_site in scanners.values() for c in of_site for name in c} == set(NAMES)


def rare(holders: int, modality: str = "tau") -> PartitionConfig:
    return PartitionConfig.model_validate({"missing": {"kind": "rare", "modality": modality, "holders": holders}})


def holding(sites: Sites) -> tuple[str, ...]:
    """The sites that train with all modalities."""
    return tuple(site for site in sites if 4 in kept({site: sites[site]}, "train").values())


@pytest.mark.parametrize("holders", [1, 3])
def test_a_rare_modality_is_at_so_many_sites_in_training_and_everywhere_in_tests(holders: int) -> None:
    sites, _ = partition(COMPLETE, NAMES, rare(holders), seed=3)
    trained = {s: {v.observed(NAMES) for v in t if v.split == "train"} for s, t in sites.items()}
    others = tuple(name for name in NAMES if name != "tau")
    assert sorted(map(tuple, trained.values())) == sorted([(NAMES,)] * holders + [(others,)] * (7 - holders))
    assert set(kept(sites, "test").values()) == {4}
    drawn = {holding(partition(COMPLETE, NAMES, rare(holders), seed)[0]) for seed in range(20)}
    assert holding(sites) in drawn and len(drawn) > 1


def test_a_rare_modality_that_nobody_knows_or_without_holders_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.modality names unknown 'tao'.*tau"):
        partition(COMPLETE, NAMES, rare(1, "tao"), seed=3)
    for missing in ({"kind": "rare"}, {"kind": "rare", "holders": 2}, {"kind": "mcar", "modality": "tau"}):
        with pytest.raises(ValueError, match="go with kind: rare"):
            Missingness.model_validate(missing)


def split_visits() -> VisitTable:
    """The visits of seven sites, of which every fifth is validated and every third of the rest tested."""
    parts = {i: "validation" if i % 5 == 0 else "test" if i % 3 == 0 else "train" for i in range(1155)}
    return VisitTable(tuple(replace(v, split=parts[i]) for i, v in enumerate(visits())))  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [Missingness(), Missingness(kind="structural")], ids=lambda missing: missing.kind)
def test_unseen_sites_give_their_test_visits_alone_and_all_else_is_as_without_them(missing: Missingness) -> None:
    config = PartitionConfig(missing=missing)
    whole, none_out = partition(split_visits(), NAMES, config, seed=3)
    sites, left_out = partition(split_visits(), NAMES, config.model_copy(update={"unseen": 2}), seed=3)
    trained = training_sites(sites)
    assert (list(sites), left_out, len(trained)) == (list(whole), none_out, 5)
    for site, table in whole.items():
        kept = table if site in trained else VisitTable(tuple(v for v in table if v.split == "test"))
        assert sites[site] == kept and len(kept)


def test_all_visits_of_unseen_sites_are_judged_where_that_is_asked_and_all_else_is_as_before() -> None:
    config = PartitionConfig(unseen=2)
    tested, _ = partition(split_visits(), NAMES, config, seed=3)
    sites, _ = partition(split_visits(), NAMES, config.model_copy(update={"unseen_visits": "all"}), seed=3)
    whole, _ = partition(split_visits(), NAMES, PartitionConfig(), seed=3)
    trained = training_sites(sites)
    assert list(trained) == list(training_sites(tested)) and list(sites) == list(whole)
    for site, table in whole.items():
        kept = table if site in trained else VisitTable(tuple(replace(v, split="test") for v in table))
        assert sites[site] == kept


def test_unseen_sites_alone_are_judged_where_that_is_asked_and_the_others_train_on_their_tests() -> None:
    all_of_them = PartitionConfig(unseen=2, unseen_visits="all")
    expected, _ = partition(split_visits(), NAMES, all_of_them, seed=3)
    sites, _ = partition(split_visits(), NAMES, all_of_them.model_copy(update={"unseen_visits": "alone"}), seed=3)
    trained = training_sites(sites)
    assert len(trained) == 5 and list(sites) == list(expected)
    for site, table in expected.items():
        assert {v.split for v in sites[site]} == ({"train", "validation"} if site in trained else {"test"})
        if site in trained:
            table = VisitTable(tuple(replace(v, split="train") if v.split == "test" else v for v in table))
        assert sites[site] == table


def test_over_seeds_every_site_is_unseen_and_trains() -> None:
    drawn = [
        frozenset(set(sites) - set(training_sites(sites)))
        for sites, _ in (partition(split_visits(), NAMES, PartitionConfig(unseen=2), seed) for seed in range(20))
    ]
    assert {site for unseen in drawn for site in unseen} == {f"{i:03d}" for i in range(7)}
    assert frozenset() == frozenset.intersection(*drawn)


@pytest.mark.parametrize("unseen", [7, 8])
def test_one_site_at_least_has_to_train(unseen: int) -> None:
    with pytest.raises(ConfigurationError, match=f"unseen = {unseen}, but 7 sites take part, 7 of them with test"):
        partition(split_visits(), NAMES, PartitionConfig(unseen=unseen), seed=3)
    assert len(training_sites(partition(split_visits(), NAMES, PartitionConfig(unseen=6), seed=3)[0])) == 1


def test_a_site_without_test_visits_is_never_unseen() -> None:
    only_two = VisitTable(tuple(replace(v, split="train") if v.site > "001" else v for v in split_visits()))
    sites, _ = partition(only_two, NAMES, PartitionConfig(unseen=2), seed=3)
    assert set(sites) - set(training_sites(sites)) == {"000", "001"}
    with pytest.raises(ConfigurationError, match="2 of them with test visits"):
        partition(only_two, NAMES, PartitionConfig(unseen=3), seed=3)


def divided_visits() -> VisitTable:
    return VisitTable(tuple(replace(v, split="test" if i % 4 == 0 else "train") for i, v in enumerate(visits())))


def known_and_without(unlabelled: float, labelled: float = 0.25, seed: int = 3) -> tuple[set[str], set[str], set[str]]:
    """Training patients with an outcome and without one, and everybody who validates or tests."""
    config = PartitionConfig(
        kind="table", table=TABLE, outcomes=KnownOutcomes(labelled=labelled, unlabelled=unlabelled)
    )
    sites, _ = partition(divided_visits(), NAMES, config, seed)
    found = [v for table in sites.values() for v in table]
    training = [v for v in found if v.split == "train"]
    assert all(v.delta_cdrsb is not None for v in found if v.split != "train")
    return (
        {v.subject_id for v in training if v.delta_cdrsb is not None},
        {v.subject_id for v in training if v.delta_cdrsb is None},
        {v.subject_id for v in found if v.split != "train"},
    )


def test_the_same_patients_have_an_outcome_whatever_share_of_the_others_stays_without() -> None:
    sites, _ = partition(divided_visits(), NAMES, PartitionConfig(kind="table", table=TABLE), 3)
    training = sum(v.split == "train" for table in sites.values() for v in table)
    nobody, as_many, rest = (known_and_without(share) for share in (0.0, 0.25, 0.75))
    assert nobody[0] == as_many[0] == rest[0] and nobody[2] == as_many[2] == rest[2]
    assert nobody[1] == set() and as_many[1] < rest[1] and not rest[0] & rest[1]
    # Rounded at each of the sites.
    assert abs(len(as_many[0]) - training / 4) <= len(TABLE) and len(rest[0]) + len(rest[1]) == training
    assert known_and_without(0.25, seed=4)[0] != as_many[0]


def test_a_site_whose_training_patients_all_lack_an_outcome_takes_no_part() -> None:
    few = VisitTable(tuple(visit(i) for i in range(3)))
    outcomes = KnownOutcomes(labelled=0.1, unlabelled=0.9)
    with pytest.raises(ConfigurationError, match="no site has 1 training visit"):
        partition(few, NAMES, PartitionConfig(outcomes=outcomes), 0)


def test_shares_of_more_than_everybody_are_refused() -> None:
    with pytest.raises(ValueError, match="more than all"):
        KnownOutcomes(labelled=0.5, unlabelled=0.6)
