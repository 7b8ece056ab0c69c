"""The partitioner has the interface of flwr-datasets', and gives the partitions of a study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from permmoe.config import SplitConfig
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import all_combinations
from permmoe_simulation.studies.partition import Missingness, PartitionConfig, PartitionSite, partition
from permmoe_simulation.studies.partitioner import VisitPartitioner

NAMES = ("t1", "flair", "amyloid")
COMBINATIONS = all_combinations(NAMES)
DOCS = Path(__file__).parents[3] / "docs" / "studies.md"
TABLE = (PartitionSite(name="large", share=5, modalities=NAMES), PartitionSite(name="mri", modalities=("t1", "flair")))
MCAR = Missingness(kind="mcar", rate=0.5)
KINDS = [
    PartitionConfig(),
    PartitionConfig(kind="dirichlet", sites=5, missing=MCAR),
    PartitionConfig(kind="table", table=TABLE),
    PartitionConfig(missing=Missingness(kind="exclusive")),
]


def visits(n: int = 231, *, first: int = 0) -> VisitTable:
    return VisitTable(
        tuple(
            Visit(f"s{i:04d}", f"{i % 7:03d}", "bl", 1.5, 0.5, 24.0,
                  volumes={name: Path(f"{i}-{name}.nii.gz") for name in COMBINATIONS[i % 7]})
            for i in range(first, first + n)
        )
    )  # fmt: skip


def assigned(config: PartitionConfig | None = None, seed: int = 3) -> VisitPartitioner:
    partitioner = VisitPartitioner(NAMES, config, seed=seed)
    partitioner.dataset = visits()
    return partitioner


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}, {c.missing.kind}")
def test_partitions_are_the_sites_of_a_study_in_the_order_of_their_names(config: PartitionConfig) -> None:
    partitioner = assigned(config)
    sites, _ = partition(assign_splits(visits(), SplitConfig(seed=3)), NAMES, config, 3)
    assert [partitioner.site_name(i) for i in range(partitioner.num_partitions)] == list(sites)
    assert [partitioner.load_partition(i) for i in range(partitioner.num_partitions)] == list(sites.values())


def test_asking_again_gives_the_same_partition_and_another_seed_another_one() -> None:
    dirichlet = PartitionConfig(kind="dirichlet", sites=5)
    first = assigned(dirichlet).load_partition(2)
    assert assigned(dirichlet).load_partition(2) == first
    assert assigned(dirichlet, seed=4).load_partition(2) != first


def test_dataset_has_to_be_assigned_before_anything_is_asked() -> None:
    partitioner = VisitPartitioner(NAMES)
    assert not partitioner.is_dataset_assigned()
    for asked in (
        lambda: partitioner.dataset,
        lambda: partitioner.num_partitions,
        lambda: partitioner.load_partition(0),
    ):
        with pytest.raises(AttributeError, match="set `dataset` first"):
            asked()


def test_dataset_is_assigned_once_and_comes_back_as_it_was() -> None:
    partitioner = assigned()
    assert partitioner.is_dataset_assigned() and partitioner.dataset == visits()
    with pytest.raises(RuntimeError, match="assigned once"):
        partitioner.dataset = visits(first=7)
    assert partitioner.dataset == visits()


@pytest.mark.parametrize("partition_id", [-1, 7])
def test_a_number_that_is_no_partition_s_is_an_error(partition_id: int) -> None:
    with pytest.raises(IndexError, match=f"no partition {partition_id}; there are 7, numbered from 0"):
        assigned().load_partition(partition_id)


def test_test_visits_keep_the_modalities_that_training_visits_lose() -> None:
    config = PartitionConfig(kind="dirichlet", sites=3, missing=MCAR)
    partitioner = assigned(config)
    before = {v.subject_id: set(v.volumes) for v in visits()}
    dealt = [v for i in range(partitioner.num_partitions) for v in partitioner.load_partition(i)]
    assert all(set(v.volumes) == before[v.subject_id] for v in dealt if v.split == "test")
    assert any(set(v.volumes) < before[v.subject_id] for v in dealt if v.split == "train")


def test_the_snippet_in_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [snippet] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(compile(snippet, str(DOCS), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.endswith("visits train") for line in lines)
