"""A survey in words, for the person at a hospital who has to decide whether its patients may be counted."""

from __future__ import annotations

import yaml

from permmoe.federated.plan import RoundPlan
from permmoe.federated.survey_facts import Facts
from permmoe.plain_text import plain
from permmoe_client.participation.horizon import horizon_of_settings, other_horizon
from permmoe_client.release.section import Section
from permmoe_client.site import SiteConfig


def survey_in_words(plan: RoundPlan, site: SiteConfig) -> tuple[Section, ...]:
    """What the survey counts, sends and is protected by at this site; the last section holds its settings."""
    synthetic = ("It says that it is for synthetic data.",) if plan.is_synthetic else ()
    purpose = plain(plan.purpose) or "The coordinator gives no purpose."
    return (
        Section(
            "The survey",
            (
                f"Name: {plain(plan.name)}",
                f"Purpose: {purpose}",
                *synthetic,
                "Nothing is trained and no model is judged: patients are counted, once.",
                f"Digest: {plan.digest()}",
            ),
        ),
        Section("What it counts patients by", _counted_by(plan, site)),
        Section("What it reads here", ("Your tables, and which image files are there. No image is opened.",)),
        Section("What leaves", _leaves(plan, site)),
        Section(
            "What never leaves",
            ("Images, tables, identifiers of subjects, scores, outcomes, file names, texts of errors.",),
        ),
        Section(
            "What protects it",
            (
                "The connection is encrypted, and both sides prove who they are with keys of this federation.",
                _sum(plan),
                "Your site remembers beside its ledger who was counted together with whom, so that no later survey or "
                "sum of a study differs by fewer. A later study then sums over groups that fit those of this survey.",
                "What all patients of a number have in common is told of each of them: that is what a number says.",
            ),
        ),
        Section("All settings", tuple(yaml.safe_dump(_settings(plan), sort_keys=False).splitlines())),
    )


def _counted_by(plan: RoundPlan, site: SiteConfig) -> tuple[str, ...]:
    facts, score = Facts.of(plan), plan.model.score
    sentences = [f"Which of these modalities they have: {', '.join(facts.modalities)}."]
    if facts.bounds:
        groups = ", ".join(facts.severity_name(n, plain(score.name)) for n in range(facts.n_severities))
        sentences.append(f"How ill they are at the visit: {groups} ({plain(score.unit)}).")
    if facts.has_outcome:
        months = plan.horizon_months
        when = "over the horizon of your own table" if months is None else f"{months:g} months after the visit"
        what = plain(plan.outcome) or f"the change in {plain(score.name)}"
        sentences.append(f"Whether the outcome is known ({what}, {when}). How a patient changed is not told.")
        if months and (trouble := other_horizon(horizon_of_settings(site), months)):
            sentences.append(f"Here every outcome will count as not known: {plain(trouble)}.")
    if trouble := site.outcome.mismatch(score):
        sentences.append(f"This site cannot take part as it is set up: {plain(trouble)}.")
    return tuple(sentences)


def _leaves(plan: RoundPlan, site: SiteConfig) -> tuple[str, ...]:
    least = max(plan.federation.min_cell_count, site.release.min_cell_count)
    facts = Facts.of(plan)
    by = ["combination of modalities", *(["severity"] if facts.bounds else [])]
    by += ["whether the outcome is known"] if facts.has_outcome else []
    return (
        f"Numbers of patients by {', '.join(by[:-1])}{' and ' if by[1:] else ''}{by[-1]}, once.",
        f"Numbers under {least} are withheld here, before anything leaves: such patients count with fewer of these "
        "facts, together with others, or not at all. No subtraction of what surveys and the sums of studies ever told "
        f"is about fewer than {least} patients; a study without the secure sum tells exact numbers of training visits, "
        "which are apart.",
        "permmoe-client --dry-run FOLDER writes the very numbers, with what left before taken into account.",
    )


def _sum(plan: RoundPlan) -> str:
    federation = plan.federation
    if federation.secure:
        return (
            "Secure sum: the coordinator learns totals over all hospitals, never this site's own numbers, and of what "
            f"fewer than {federation.min_holders} hospitals have patients of it learns no total."
        )
    return "NO secure sum: the coordinator sees this site's own numbers."


def _settings(plan: RoundPlan) -> dict[str, object]:
    """Those that a survey obeys; its digest is of the whole file."""
    values = plan.model_dump(mode="json", exclude={"train"})
    model, federation = values["model"], values["federation"]
    obeyed = ("min_sites", "min_cell_count", "secure", "secure_threshold", "min_holders", "min_cohort_difference",
              "round_deadline_seconds", "stage_deadline_seconds", "max_failed_rounds")  # fmt: skip
    values["model"] = {name: model[name] for name in ("modalities", "score") if name in model}
    values["federation"] = {name: federation[name] for name in obeyed if name in federation}
    return dict(values)
