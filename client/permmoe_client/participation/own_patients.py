"""The patients that a site's tables name, whether or not they can take part in anything."""

from __future__ import annotations

from permmoe.config import CDR_SB, Score
from permmoe.data.adni import select_visits
from permmoe.data.manifest import manifest_subjects
from permmoe.data.outcome_columns import USUAL_COLUMNS
from permmoe.data.visit_scores import score_of_tables
from permmoe_client.site import SiteConfig


def own_patients(site: SiteConfig) -> frozenset[str]:
    """Everybody whom the manifest, or the tables, have a row of. Raises DataError for tables that cannot be read."""
    if site.manifest:
        return manifest_subjects(site.manifest)
    assert site.folders
    own = site.outcome
    score = CDR_SB
    if own != USUAL_COLUMNS:
        unit = own.unit if own.times is None else "converted"
        score = Score(name=own.name, unit=unit, lowest=None, highest=None)
    rule, column = site.folders.target, score_of_tables(own, site.folders.score, score)
    # Without modalities no image is looked for, and who has no visit to take part with is itemised.
    found = select_visits(site.folders.tables, None, rule, (), column)
    return frozenset(visit.subject_id for visit in found.visits) | {item.subject_id for item in found.quarantine}
