"""A site's images as its study needs them: raw ones are prepared once, others are held against the study's plan."""

from __future__ import annotations

import logging

from permmoe.config import ModelConfig
from permmoe.data.preparation import with_matching_images
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import VisitTable
from permmoe.preparation.commands import require_tools
from permmoe.preparation.progress import Progress
from permmoe_client.participation.preparation_log import PreparationLog
from permmoe_client.site import SiteConfig

LOG = logging.getLogger("permmoe.client")


def with_prepared_images(
    site: SiteConfig, model: ModelConfig, table: VisitTable, progress: Progress | None = None
) -> tuple[VisitTable, Quarantine]:
    """The visits with images that were prepared as the study's model declares, and what was left out.

    With `prepare` in the settings raw images are prepared first, into its folder, where they stay: the next start finds
    them finished. `progress` is told how far that is; without it the site's own log. Raises ConfigurationError where
    what the preparation needs is not installed.
    """
    left_out = Quarantine()
    if site.prepare is not None:
        require_tools()
        # Imported late: SimpleITK takes seconds, and most sites prepare nothing.
        from permmoe.preparation.visits import prepare_visits

        prepared = prepare_visits(
            table,
            model.modalities,
            site.prepare.folder,
            workers=site.prepare.workers,
            progress=progress or PreparationLog(),
        )
        table, left_out = prepared.visits, prepared.left_out
        if prepared.to_look_at:
            LOG.warning(
                "%d prepared images are used and look odd; qc.html in the folder of 'prepare' shows them",
                len(prepared.to_look_at),
            )
    table, unlike = with_matching_images(table, model.modalities, are_trusted=site.images_are_prepared)
    return table, left_out + unlike
