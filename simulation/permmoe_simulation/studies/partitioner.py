"""Partitions of a visit table behind the interface of flwr-datasets' `Partitioner`, which is not needed for it."""

from __future__ import annotations

from permmoe.config import SplitConfig
from permmoe.data.splits import assign_splits
from permmoe.data.visits import VisitTable
from permmoe_simulation.studies.partition import PartitionConfig, Sites, partition


class VisitPartitioner:
    """Deals a visit table out to hospitals: assign `dataset` once, then load partitions by number.

    Names and semantics are those of flwr_datasets.partitioner.Partitioner: `dataset` raises AttributeError until
    it is assigned and may be assigned once, `load_partition(partition_id)` deals out at the first call, and the same
    arguments give the same partitions. It differs where that library's types do not fit:

    - `dataset` and the partitions are VisitTables, not Hugging Face datasets; the class is no subclass.
    - Visits need a part of the split, because test visits keep their modalities: a table without one is split here,
      by subject, with the shares of `permmoe.data.splits`.
    - Sites have names; their numbers follow the sorted names (`site_name`).
    - `num_partitions` counts the sites that take part and is known once a dataset is assigned: a site with fewer than
      `min_training_visits` is none.
    - A number that is no partition's raises IndexError.

    `config` says how visits are dealt out (by site code, Dirichlet or a declared table) and what is missing then.
    """

    def __init__(self, modalities: tuple[str, ...], config: PartitionConfig | None = None, *, seed: int = 0) -> None:
        self.modalities = modalities
        self.config = config or PartitionConfig()
        self.seed = seed
        self._dataset: VisitTable | None = None
        self._sites: Sites | None = None

    @property
    def dataset(self) -> VisitTable:
        """The visits as they were assigned. Raises AttributeError before that."""
        if self._dataset is None:
            raise AttributeError("no dataset is assigned to the partitioner; set `dataset` first")
        return self._dataset

    @dataset.setter
    def dataset(self, value: VisitTable) -> None:
        if self._dataset is not None:
            raise RuntimeError("a partitioner's dataset is assigned once; make another partitioner for other visits")
        self._dataset = value

    def is_dataset_assigned(self) -> bool:
        """Whether `dataset` was set."""
        return self._dataset is not None

    @property
    def num_partitions(self) -> int:
        """How many sites take part."""
        return len(self._dealt())

    def load_partition(self, partition_id: int) -> VisitTable:
        """The visits of a site, as it sees them."""
        return self._dealt()[self.site_name(partition_id)]

    def site_name(self, partition_id: int) -> str:
        """The name of the site of this number. Raises IndexError for a number that is no partition's."""
        names = list(self._dealt())
        if not 0 <= partition_id < len(names):
            raise IndexError(f"no partition {partition_id}; there are {len(names)}, numbered from 0")
        return names[partition_id]

    def _dealt(self) -> Sites:
        if self._sites is None:
            table = assign_splits(self.dataset, SplitConfig(seed=self.seed))
            self._sites, _ = partition(table, self.modalities, self.config, self.seed)
        return self._sites
