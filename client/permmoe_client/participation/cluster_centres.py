"""Whether a site takes part in studies that average centres of clusters (`model.bank: clusters`).

A centre leaves over `min_cell_count` patients or more. Which patients these are changes from round to round, maybe by
one, and the account of patients (permmoe_client.release.patient_account) has no such groups: so a site has to say that
it lets centres out.
"""

from __future__ import annotations

from permmoe.errors import PermmoeError
from permmoe.federated.plan import RoundPlan
from permmoe_client.site import ReleasePolicy


class CentresStay(PermmoeError):
    """The site lets no centres of clusters out."""


def check_centres(plan: RoundPlan, policy: ReleasePolicy) -> None:
    """Check that the study averages no centres, or that the site lets them out. Raises CentresStay."""
    if plan.model.bank == "clusters" and not policy.cluster_centres:
        raise CentresStay(
            "this study's model completes modalities from centres of clusters (model.bank = clusters), whose patients "
            "may differ by one from round to round, and release.cluster_centres is not set; nothing was trained; ask "
            "the coordinator for another bank"
        )
