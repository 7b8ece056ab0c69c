"""The sites that a process runs. In a hospital that is one; in a simulation a process takes the part of many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from permmoe.config import ModelConfig
from permmoe.data.dataset import VisitData
from permmoe.federated.modules import ModuleLayout
from permmoe.model import PerMMoE
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.secure_session import SecureSession
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig, read_site

MOST_VISIT_SETS = 256
"""How many sets of visits a process keeps in memory; a set belongs to a site's settings and a study's model."""
LoadVisits = Callable[[SiteConfig, ModelConfig], VisitData]


class Workshop:
    """What the sites of one process share because it is large or slow to make: their visits, and a model to work with.

    Visits are loaded once for the same settings and model, so that rounds neither wait for them nor see a manifest that
    changes between them.
    """

    def __init__(self, load_visits: LoadVisits = site_visits) -> None:
        self.visits: LoadVisits = lru_cache(maxsize=MOST_VISIT_SETS)(load_visits)
        # Making a small model takes as long as all work beside its training.
        self.model: Callable[[ModelConfig], tuple[PerMMoE, ModuleLayout]] = lru_cache(maxsize=1)(_model_and_layout)
        """A model with arbitrary weights, and its layout. It is the same object for all: overwrite all its weights."""


def _model_and_layout(config: ModelConfig) -> tuple[PerMMoE, ModuleLayout]:
    model = PerMMoE(config)
    return model, ModuleLayout.of(model)


@dataclass
class RunningSite:
    """A site for as long as its process lives. One message is answered at a time."""

    settings: SiteConfig
    ledger: Ledger | None = None
    """The record of what left; None for a site that connects to no coordinator, and in a rehearsal."""
    workshop: Workshop = field(default_factory=Workshop)
    session: SecureSession | None = None
    """The secure sum that the site is in. Keys and seeds are in memory only: a restart forgets them."""

    def visits(self, model: ModelConfig) -> VisitData:
        """The site's visits for a study's model. Raises what `site_visits` raises."""
        return self.workshop.visits(self.settings, model)

    def modalities(self, model: ModelConfig) -> tuple[str, ...]:
        """The modalities that the site's visits have, in any part of the split."""
        data = self.visits(model)
        return tuple(name for name, is_there in zip(data.names, data.observed.any(0).tolist(), strict=True) if is_there)

    def model(self, model: ModelConfig) -> tuple[PerMMoE, ModuleLayout]:
        """A model with arbitrary weights, all of which have to be overwritten, and its layout."""
        return self.workshop.model(model)

    def layout(self, model: ModelConfig) -> ModuleLayout:
        """The modules of a study's model."""
        return self.workshop.model(model)[1]


class RunningSites:
    """The sites of one process, by the path of their settings' file. They share a workshop and nothing else."""

    def __init__(self, load_visits: LoadVisits = site_visits) -> None:
        self._workshop = Workshop(load_visits)
        self._sites: dict[Path, RunningSite] = {}
        self._contents: dict[Path, bytes] = {}

    def at(self, path: Path) -> RunningSite:
        """The site of this file. A file that changed on disk is read again; a key is read for every message.

        Raises ConfigurationError for settings or a key that cannot be used.
        """
        content = path.read_bytes() if path.is_file() else b""
        site = self._sites.get(path)
        # Parsing takes milliseconds; to see that the file is as it was takes none.
        if site is None or content != self._contents[path]:
            settings = read_site(path)
            # A secure sum belongs to a ledger and a name, and outlives a change of any other setting.
            is_same = site is not None and _identity(site.settings) == _identity(settings)
            session = site.session if site and is_same else None
            site = RunningSite(settings, workshop=self._workshop, session=session)
            self._sites[path], self._contents[path] = site, content
        site.ledger = open_ledger(site.settings)
        return site

    def forget(self) -> None:
        """Forget all sites, as a restarted process has."""
        self._sites.clear()
        self._contents.clear()


def _identity(settings: SiteConfig) -> tuple[Path | None, str]:
    return settings.ledger, settings.name
