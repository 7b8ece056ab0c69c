"""Who is left out of trainings beside patients who withdrew, so that none of these left the trainings alone.

A training with and without one patient, from one model and by the same steps, shows that patient, and the follow-up
study that forgets somebody is just that. So others leave the trainings with them, `min_cell_count` together, out of the
groups that the site's account already holds apart (permmoe.federated.release_account.leaving_together has rule and
proof). A withdrawal counts at once; the others are chosen when the site trains next, since only then it is known who
trains, and the choice is kept, since another choice later would show who changed. Where as many as `min_cell_count`
withdraw at once, nobody has to be left out beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from permmoe.data.dataset import VisitData
from permmoe.federated.plan import RoundPlan
from permmoe.federated.release_account import leaving_together
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.site_visits import parts_of
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.patient_account import PatientAccount
from permmoe_client.release.withdrawals import WithdrawalList, Withdrawals
from permmoe_client.site import SiteConfig

LOG = logging.getLogger("permmoe.client")


def accompanied(
    withdrawals: Withdrawals, data: VisitData, plan: RoundPlan, site: SiteConfig, ledger: Ledger | None
) -> Withdrawals:
    """The withdrawals with those who are left out beside them, kept on disk; a rehearsal, without `ledger`, keeps none.

    `data`: the training visits of who is there, and the scans that the study pretrains on. Raises LedgerError.
    """
    own = ledger or open_ledger(site)
    if own is None:
        return withdrawals
    withdrawn = withdrawals.unaccompanied
    beside = _chosen(withdrawals, data, plan, site, own) if own.newest("training") else ()
    LOG.info("%d patients are left out of trainings beside %d who withdrew", len(beside), len(withdrawn))
    if ledger:
        return WithdrawalList(ledger).accompany(withdrawn, beside)
    return replace(withdrawals, beside=(*withdrawals.beside, *beside), unaccompanied=())


def _chosen(
    withdrawals: Withdrawals, data: VisitData, plan: RoundPlan, site: SiteConfig, ledger: Ledger
) -> tuple[str, ...]:
    """Of patients with an outcome and of those without, each by themselves: the latter are in rounds of pretraining
    alone, so that the two are trained sets of their own."""
    parts = parts_of(site, plan.model, plan.horizon_months, withdrawals.absent)
    without = parts_of(site, plan.model, plan.horizon_months, withdrawals.absent, with_unlabelled=plan.pretrains)
    left_before = frozenset(withdrawals.beside)
    withdrawn = [subject for subject in withdrawals.unaccompanied if subject not in left_before]
    # Whose row is no more in the table may have trained, with an outcome or without, or not at all.
    unknown = [subject for subject in withdrawn if subject not in without]
    least = max(site.release.min_cell_count, plan.federation.min_cell_count)
    found: set[str] = set()
    for has_outcome in (True, False):
        gone = {s for s in withdrawn if without.get(s) == "train" and (s in parts) == has_outcome}
        visits = [visit for visit in data.visits if (visit.delta_cdrsb is not None) == has_outcome]
        staying = [visit.subject_id for visit in visits if visit.subject_id not in left_before]
        groups = PatientAccount(ledger).groups_of((*staying, *gone, *unknown))
        # `least` others of the same group leave in either case.
        stand_ins = {other for subject in unknown for other in _alike(subject, staying, groups)[:least]}
        present = frozenset(staying)
        trained = {subject: group for subject, group in groups.items() if subject in gone or subject in present}
        found |= leaving_together(trained, gone | stand_ins, least) - gone
    return tuple(sorted(found))


def _alike(subject: str, staying: Sequence[str], groups: Mapping[str, int]) -> list[str]:
    """Who trains and is of a patient's group of the account; everybody who trains, where it is in none."""
    return [other for other in groups if other in staying and groups[subject] in (0, groups[other])]
