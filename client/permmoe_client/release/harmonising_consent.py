"""What a harmonisation asks of a site, in words, for the person at a hospital who has to decide about the study."""

from __future__ import annotations

from permmoe.federated.plan import RoundPlan


def harmonising_in_words(plan: RoundPlan) -> tuple[str, ...]:
    """What the harmonising round sends, and what stays here. The study has a harmonisation."""
    harmonisation = plan.model.harmonisation
    assert harmonisation
    columns = ", ".join(("the score at the visit", *harmonisation.columns))
    least = max(harmonisation.least_visits, plan.federation.min_cell_count)
    return (
        f"The first round trains nothing: of each modality that {least} subjects or more have, the site sends means "
        f"and products of its inputs and of {columns}, which tell how images of the sites differ. No outcome is among "
        "them.",
        "Then the site takes out of its images what its own scanners add to them. What that is stays here.",
    )
