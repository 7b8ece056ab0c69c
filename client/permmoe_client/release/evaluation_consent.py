"""An evaluation in words, for the person at a hospital who has to decide whether a model may be judged there."""

from __future__ import annotations

import yaml

from permmoe.data.kinds import by_kind
from permmoe.federated.evaluation_config import EvaluationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.plain_text import plain
from permmoe_client.release.section import Section
from permmoe_client.site import SiteConfig

NOT_OBEYED = (
    "rounds", "local_epochs", "aggregation", "server_optimiser", "server_learning_rate", "server_momentum",
    "averaging_decay", "proximal_weight", "centring_round", "harmonising_round", "private_modules", "drift_correction",
    "imputed_router_support", "evaluate_every", "max_update_norm", "privacy",
)  # fmt: skip
"""Settings of a federation that concern training alone."""


def evaluation_in_words(
    plan: RoundPlan, site: SiteConfig, predicts: tuple[str, ...], protections: tuple[str, ...]
) -> tuple[Section, ...]:
    """What the evaluation judges, reads, sends and is protected by at this site; the last section holds its settings.

    `predicts` and `protections` are those sentences that any study has.
    """
    asked = plan.evaluation
    assert asked
    which = "your test visits" if asked.visits == "test" else "all your visits"
    name = f"The model: {plain(asked.model_name)}" if asked.model_name else "The coordinator gives the model no name."
    synthetic = ("It says that it is for synthetic data.",) if plan.is_synthetic else ()
    return (
        Section(
            "The evaluation",
            (
                f"Name: {plain(plan.name)}",
                f"Purpose: {plain(plan.purpose) or 'The coordinator gives no purpose.'}",
                *synthetic,
                f"This study evaluates a finished model on {which}; it trains nothing.",
                name,
                *_ensemble(asked),
                f"The model's digest: {asked.model_sha256 or 'none: your site will refuse it'}. Your site judges this "
                "model and no other.",
                f"Digest: {plan.digest()}",
            ),
        ),
        Section("What the model predicts", predicts),
        Section("What it reads here", (*(k.in_words(m) for k, m in by_kind(plan.model.modalities)), _visits(asked))),
        Section("What leaves, once", _leaves(plan, site)),
        Section(
            "What never leaves",
            (
                "Any change of a model: none is made.",
                "Images, tables, identifiers of subjects, file names, predictions for a subject, texts of errors.",
            ),
        ),
        Section(
            "What protects it",
            (
                "The connection is encrypted, and both sides prove who they are with keys of this federation.",
                *protections,
                f"The result counts with replies of {plan.federation.least_sites} site(s) or more.",
            ),
        ),
        Section("All settings", tuple(yaml.safe_dump(_settings(plan), sort_keys=False).splitlines())),
    )


def _ensemble(asked: EvaluationConfig) -> tuple[str, ...]:
    if asked.members == 1:
        return ()
    return (
        f"It is an ensemble of {asked.members} models: what is judged is the mean of their predictions, and nothing "
        "leaves of a single one. Its digest is of all of them.",
    )


def _visits(asked: EvaluationConfig) -> str:
    if asked.visits == "all":
        return "Every visit with a known outcome. Where the model was trained here, its errors look too small: say so."
    return "The test visits of your split alone, which no study trains on."


def _leaves(plan: RoundPlan, site: SiteConfig) -> tuple[str, ...]:
    least = max(plan.federation.min_cell_count, site.release.min_cell_count)
    return (
        "For each combination of modalities the number of visits and six sums of errors and outcomes: of errors, their "
        "sizes, squares and fourth powers, of outcomes and their squares.",
        *_sizes(plan, least),
        f"They are over groups of {least} subjects or more who are always summed together, so that no two sums that "
        "ever left this site differ by fewer; a subject whose modalities too few others have counts with some of them.",
        "Asked again for the same, the site gives the same answer; it answers nothing else.",
    )


def _sizes(plan: RoundPlan, least: int) -> tuple[str, ...]:
    if not plan.federation.calibrate:
        return ()
    bins = "exactly, under the mask" if plan.federation.secure else (
        f"no size with fewer than {least} of them: they count as larger instead"
    )  # fmt: skip
    return (
        "So that it is known whether the model's intervals hold here: also how many of these visits have an error of "
        f"which size, for each combination ({bins}).",
    )


def _settings(plan: RoundPlan) -> dict[str, object]:
    """Those that an evaluation obeys; its digest is of the whole file."""
    values = plan.model_dump(mode="json", exclude={"train"})
    values["federation"] = {name: value for name, value in values["federation"].items() if name not in NOT_OBEYED}
    return dict(values)
