"""What the approval of a study says of moments with noise: what is sent, what it costs a patient, and against whom."""

from __future__ import annotations

from permmoe.federated.accounting import epsilon
from permmoe.federated.moment_noise import moment_noise
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_moments import RowLayout
from permmoe.layers.ridge import CombinationRidge
from permmoe.plain_text import plain
from permmoe_client.release.private_errors_consent import evaluations_spent


def moments_in_words(plan: RoundPlan) -> tuple[str, ...]:
    """What the site does and sends."""
    privacy = plan.federation.privacy
    assert privacy and privacy.moments
    size = _row_size(plan)
    return (
        "One round, in which nothing is trained: the site sums, over all of its training patients, products of two of "
        f"{size} numbers of each (which examinations there were, what they gave, baseline "
        f"{plain(plan.model.score.name)} and outcome), and adds noise to each sum before anything leaves.",
        f"A patient whose numbers are far from the usual (norm above {privacy.moments.row_norm:g}) counts for less, so "
        "that nobody adds more than the noise is made for. No sum is held back for being over few patients: the noise "
        "covers each single one.",
        "The noise is drawn once. Asked again, the site sends the same sums; another study is another draw, and costs "
        "again.",
    )


def moments_protection_in_words(plan: RoundPlan) -> tuple[str, ...]:
    """ε and δ, for whom they hold, and what they would be if they did not."""
    federation = plan.federation
    privacy = federation.privacy
    assert privacy and privacy.moments
    noise = moment_noise(federation, _row_size(plan))
    cost = (
        f"ε = {epsilon([noise.spent(), *evaluations_spent(plan)], privacy.delta):.2f} at δ = {privacy.delta:g}, once, "
        "for the whole study"
    )
    account = (
        "`permmoe-client ledger` keeps account, and nothing is sent that would pass the site's own privacy_budget."
    )
    if not privacy.moments.is_shared:
        return (f"Differential privacy of every patient: {cost}, against everybody outside this site. {account}",)
    alone = epsilon([noise.spent(shares=1), *evaluations_spent(plan, shares=1)], privacy.delta)
    return (
        f"Differential privacy of every patient by noise that sites share: {cost}. It holds against the coordinator "
        f"and whoever sees the model, together with up to {privacy.moments.colluding} of the sites in the sum: the "
        f"site gives its sums to no fewer than {federation.least_sites} sites together, so that the shares of "
        f"{noise.shares} honest "
        "ones, its own among them, are in what is unmasked, whoever drops out.",
        f"If all other sites worked with the coordinator against this one, its own share alone would be left: "
        f"ε = {alone:.1f}. {account}",
    )


def _row_size(plan: RoundPlan) -> int:
    privacy = plan.federation.privacy
    assert privacy and privacy.moments
    return RowLayout(CombinationRidge(plan.model).sizes, privacy.moments).size
