"""A site's part of a survey: its patients counted from its tables, in groups that single out nobody.

No image is opened: whether a modality is there is what the table says, and that its file exists.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from permmoe.data.kinds import kind_of
from permmoe.data.manifest import manifest_header, read_manifest
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError
from permmoe.federated.plan import RoundPlan
from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.survey_facts import COUNTED, Facts
from permmoe.federated.survey_groups import survey_groups
from permmoe.federated.survey_messages import Counts
from permmoe.modality import Modality
from permmoe_client.participation.site_visits import select_folder_visits
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.patient_account import PatientAccount
from permmoe_client.release.withdrawals import Absent, read_withdrawals
from permmoe_client.site import SiteConfig

LOG = logging.getLogger("permmoe.client")


@dataclass(frozen=True)
class Counted:
    """What a survey finds at a site."""

    counts: Counts
    """What leaves: patients by what is told of them."""
    patients: int
    """How many the site has; those who are not in `counts` are too few to be told apart."""
    notes: tuple[str, ...]
    """What the site's table lacks, in sentences for the site."""


@dataclass(frozen=True)
class SurveyedVisits:
    """The visits that a survey counts; those with a known outcome have their part of the split."""

    table: VisitTable
    known: frozenset[str]
    """Subjects whose outcome at the survey's horizon the table has."""
    notes: tuple[str, ...]


def count_patients(plan: RoundPlan, site: SiteConfig, ledger: Ledger | None, *, is_rehearsal: bool = False) -> Counted:
    """Count the site's patients for a survey. Who counts with what is entered in the account of what left, unless it is
    a rehearsal.

    Raises DataError for a table that cannot be used or without a visit, LedgerError where the account is absent.
    """
    facts, visits = Facts.of(plan), surveyed_visits(plan, site, read_withdrawals(ledger).absent)
    present = {visit.subject_id: _facts_of(visit, visits, facts) for visit in visits.table}
    least = max(site.release.min_cell_count, plan.federation.min_cell_count)
    divide = partial(survey_groups, facts)
    question = f"survey of {plan.digest()}"
    if ledger is None:
        labels = divide(ReleaseAccount(), present, least)
    else:
        account = PatientAccount(ledger)
        labels = (account.preview if is_rehearsal else account.groups)(question, present, least, divide)
    counts = Counter(facts.described(label).name for label in labels.values() if label)
    LOG.info("a survey counts %d of %d patients", sum(counts.values()), len(present))
    for note in visits.notes:
        LOG.warning("%s", note)
    return Counted(dict(sorted(counts.items())), len(present), visits.notes)


def surveyed_visits(plan: RoundPlan, site: SiteConfig, absent: Absent) -> SurveyedVisits:
    """The visits of a site with one or more of the survey's modalities, but of those who withdrew. Errors as of
    `count_patients`."""
    wanted = [m for m in plan.model.modalities if not site.modalities or m.name in site.modalities]
    notes: list[str] = []
    site.outcome.require(plan.model.score)
    if site.folders:
        table = select_folder_visits(site.folders, site.outcome, plan.model.score, wanted).visits
    else:
        table, notes = _manifest_visits(plan, site, wanted)
    names = [m.name for m in wanted]
    table = table.where(lambda visit: bool(visit.observed(names)))
    if not len(table):
        raise DataError(
            f"site {site.name} has no visit with a modality of the survey ({', '.join(plan.model.names)})",
            for_log="no visit has a modality of the survey",
        )
    known = {visit.subject_id for visit in table if visit.delta_cdrsb is not None}
    own = sorted({visit.horizon_months for visit in table})
    if plan.horizon_months is not None and not all(math.isclose(months, plan.horizon_months) for months in own):
        notes.append(
            f"outcomes here are {own[0]:g} months after the visit and the survey asks for {plan.horizon_months:g}: "
            "it counts every outcome as not known"
        )
        known = set()
    split = assign_splits(table.where(lambda visit: visit.subject_id in known), site.split) if known else VisitTable(())
    parts = {visit.subject_id: visit.split for visit in split}
    # Behind the split, of which a withdrawal moves nobody else from one part to another.
    present = table.where(lambda visit: visit.subject_id not in absent)
    with_parts = VisitTable(tuple(replace(visit, split=parts.get(visit.subject_id, "")) for visit in present))
    return SurveyedVisits(with_parts, frozenset(known), tuple(notes))


def _manifest_visits(plan: RoundPlan, site: SiteConfig, wanted: list[Modality]) -> tuple[VisitTable, list[str]]:
    """The visits of a manifest. A column that it lacks is nothing that was collected, and no error: nobody trains."""
    assert site.manifest
    header = manifest_header(site.manifest)
    notes = []
    there = [m for m in wanted if set(kind_of(m).columns(m)) <= {*header}]
    if absent := [m.name for m in wanted if m not in there]:
        notes.append(f"the manifest has no column of {', '.join(absent)}: the survey counts nobody with it")
    if site.outcome.later not in header:
        notes.append(
            f"the manifest has no column {site.outcome.later}: the survey counts every outcome as not known; "
            "'outcome' in site.yaml says where it stands"
        )
    if not there:
        raise DataError(
            f"the manifest of site {site.name} has no column of any modality of the survey "
            f"({', '.join(plan.model.names)})",
            for_log="the manifest has no column of any modality of the survey",
        )
    table, _ = read_manifest(site.manifest, there, need_target=False, score=plan.model.score, columns=site.outcome)
    return table, notes


def _facts_of(visit: Visit, visits: SurveyedVisits, facts: Facts) -> int:
    bits = facts.modality_bits
    own = COUNTED | sum(bits[name] for name in visit.observed(facts.modalities))
    if facts.severity_bits:
        own |= facts.severity_bits[facts.severity_of(visit.baseline_cdrsb)]
    is_known = visit.subject_id in visits.known
    if facts.outcome_bits:
        own |= facts.outcome_bits["known" if is_known else "unknown"]
    return own | (facts.part_bits[visit.split] if is_known else 0)


def rehearsal_facts(counted: Counted, facts: Facts) -> Mapping[str, object]:
    """What a rehearsal shows of a survey's numbers, beside the bytes."""
    return {
        "told": dict(counted.counts),
        "patients here": counted.patients,
        "of whom nothing is told": counted.patients - sum(counted.counts.values()),
        "notes": list(counted.notes),
        "groups of severity": {str(n): facts.severity_name(n, "score") for n in range(facts.n_severities)},
    }
