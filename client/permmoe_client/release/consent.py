"""A study in words, for the person at a hospital who has to decide whether it may train there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from permmoe.config import CDR_SB
from permmoe.data.kinds import by_kind
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout, kind_of
from permmoe.federated.plan import RoundPlan
from permmoe.federated.summed_scores import severity_groups
from permmoe.federated.trained_modules import trained_modules
from permmoe.model import PerMMoE
from permmoe.plain_text import plain
from permmoe_client.participation.horizon import horizon_of_settings, other_horizon
from permmoe_client.participation.query_order import question_count
from permmoe_client.release.evaluation_consent import evaluation_in_words
from permmoe_client.release.gradients_consent import gradients_protection_in_words, steps_in_words, trained_in_words
from permmoe_client.release.harmonising_consent import harmonising_in_words
from permmoe_client.release.moments_consent import moments_in_words, moments_protection_in_words
from permmoe_client.release.private_errors_consent import private_errors_in_words
from permmoe_client.release.section import Section
from permmoe_client.release.survey_consent import survey_in_words
from permmoe_client.site import SiteConfig


def study_in_words(plan: RoundPlan, site: SiteConfig) -> tuple[Section, ...]:
    """What the study reads, does, sends and is protected by at this site; the last section holds every setting."""
    if plan.survey is not None:
        return survey_in_words(plan, site)
    if plan.evaluation is not None:
        return evaluation_in_words(plan, site, _prediction(plan, site), _protections(plan))
    federation, train = plan.federation, plan.train
    layout = ModuleLayout.of(PerMMoE(plan.model))
    sizes = _sent_sizes(plan, layout)
    megabytes = 4e-6 * sum(sizes.values())
    reads = [kind.in_words(modalities) for kind, modalities in by_kind(plan.model.modalities)]
    least = federation.min_cell_count
    harmonising = harmonising_in_words(plan) if plan.model.harmonisation else ()
    ordinal = "second" if harmonising else "first"
    centring = [
        f"The {ordinal} round trains nothing: the site sends means of its inputs, over {least} subjects or more."
    ]
    is_noised = federation.privacy is not None and federation.privacy.moments is not None
    if is_noised:
        centring = list(moments_in_words(plan))
    elif plan.model.ridge:
        cells = " × ".join(map(str, plan.model.ridge.cells))
        centring.append(
            f"With them it sends covariances: how coarse voxels ({cells} a volume), columns, baseline "
            f"{plain(plan.model.score.name)} and outcome vary together over its training visits, {least} subjects or "
            "more each."
        )
    update: tuple[str, ...]
    if federation.secure:
        rare = f"fewer than {federation.min_holders} sites"
        losses = "" if federation.privacy else ", and the sum of training losses"
        update = (
            f"The change of all {len(sizes)} parts of the model ({', '.join(_families(sizes))}), how many visits "
            f"trained each{losses}: masked, {2 * megabytes:.1f} MB, the same for every site.",
            f"The coordinator learns the sums over all sites, never this site's own. What {rare} hold stays masked, "
            "and how many hold it only the sites learn.",
            _differences(federation),
        )
    else:
        update = (
            f"The change of up to {len(sizes)} parts of the model ({', '.join(_families(sizes))}), together up to "
            f"{megabytes:.1f} MB, and for each part how many visits trained it.",
            "The number of training patients, as far as noise tells it; neither their loss nor times nor modalities."
            if federation.privacy
            else "The number of training visits, the sum of their training loss, times, and which modalities visits "
            "have.",
        )
    is_private = federation.privacy is not None and not is_noised
    steps = steps_in_words(plan) if is_private else f"{train.batch_size} visits at a time"
    passes = (
        f"{federation.rounds} rounds of {federation.local_epochs} pass(es) over its training visits, {steps}, from the "
        "weights that the coordinator sends."
    )
    n_trainings, n_evaluations = question_count(federation)
    questions = (
        f"In all the study may ask this site for {n_trainings} training(s) and {n_evaluations} evaluation(s), each "
        "once, in their order; the site answers nothing else."
    )
    purpose = plain(plan.purpose) or "The coordinator gives no purpose."
    synthetic = ("It says that it is for synthetic data.",) if plan.is_synthetic else ()
    return (
        Section(
            "The study", (f"Name: {plain(plan.name)}", f"Purpose: {purpose}", *synthetic, f"Digest: {plan.digest()}")
        ),
        Section("What it predicts", _prediction(plan, site)),
        Section("What it reads here", tuple(reads)),
        Section(
            "What this site does",
            (
                *_forgotten(plan),
                *(() if is_noised else (passes,)),
                *trained_in_words(plan, layout.modules),
                *harmonising,
                *(centring if federation.centring_round else ()),
                *_pretraining(plan),
                *_brought(plan, site),
            ),
        ),
        Section(
            "What leaves, each round",
            (
                *update,
                *(() if federation.privacy else (f"What fewer than {least} subjects trained here does not leave.",)),
                _evaluation(plan),
                questions,
                "The site's own release policy may hold back parts, and may be stricter about small numbers.",
            ),
        ),
        Section(
            "What never leaves",
            ("Images, tables, identifiers of subjects, file names, predictions for a subject, texts of errors.",),
        ),
        Section(
            "What protects it",
            (
                "The connection is encrypted, and both sides prove who they are with keys of this federation.",
                *_protections(plan),
                f"A round counts with replies of {federation.least_sites} site(s) or more.",
            ),
        ),
        Section("All settings", tuple(yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False).splitlines())),
    )


def _evaluation(plan: RoundPlan) -> str:
    """What leaves of the errors of a study's model."""
    federation, least = plan.federation, plan.federation.min_cell_count
    if not federation.evaluate_every:
        return "No evaluation: only updates of the model are sent."
    if federation.has_private_evaluations:
        return private_errors_in_words(plan)
    sums = (
        f"Every {federation.evaluate_every} round(s): for each combination of modalities the number of visits and four "
        f"sums of errors and outcomes. They are over groups of {least} subjects or more who are always summed "
        "together, so that no two sums differ by fewer; a subject whose modalities too few others have counts with "
        "some of them."
    )
    if not federation.calibrate:
        return sums
    bins = (
        "exactly, under the mask"
        if federation.secure
        else f"no size with fewer than {least} of them: they count as larger instead"
    )
    sums += (
        " So that the model's predictions have intervals: of the validation visits also how many have an error of "
        f"which size, for each combination ({bins})."
    )
    if not severity_groups(plan, "validation"):
        return sums
    return sums + (
        f" The same by severity at the visit, of groups of {least} subjects or more who are as ill; a subject "
        "whose severity too few others share is not among them."
    )


def _pretraining(plan: RoundPlan) -> tuple[str, ...]:
    """Whose scans are learned from besides those of patients who train, and what then leaves."""
    if not plan.pretrains:
        return ()
    n, least = plan.federation.pretraining_rounds, plan.federation.min_cell_count
    return (
        f"{n} of the rounds learn no outcome: encoders of images learn to read hidden parts of a scan off the rest, on "
        "the scans of training patients AND OF ALL PATIENTS WITHOUT AN OUTCOME in your tables. These take part in "
        "nothing else.",
        f"What then leaves is the change of the encoders of images, of how many scans, and their loss; nothing that "
        f"fewer than {least} patients trained. A withdrawal takes a patient without an outcome out as any other.",
    )


def _brought(plan: RoundPlan, site: SiteConfig) -> tuple[str, ...]:
    """Which file of encoders it begins with, and whether this site has named where such files are."""
    if (weights := plan.model.encoder.weights) is None:
        return ()
    source = f", from {plain(weights.source)}" if weights.source else ""
    moved = (
        "no round moves them, and no message holds them" if plan.train.frozen_encoders else "the rounds train them on"
    )
    place = "" if site.weights else " Name that folder as 'weights' in site.yaml: without the file a round is refused."
    return (
        f"Its encoders of images begin as the file {weights.file} has them (SHA-256 {weights.sha256}, licence "
        f"{plain(weights.licence)}{source}), which this site needs in its folder of such files; {moved}.{place}",
    )


def _forgotten(plan: RoundPlan) -> tuple[str, ...]:
    """Whom the study trains without that an earlier one trained with."""
    if (forgets := plan.forgets) is None:
        return ()
    site, first = plain(forgets.site), forgets.first_round
    whom = (
        f"without hospital {site}, which withdrew"
        if forgets.is_whole_site
        else f"without patients of {site} who withdrew"
    )
    begins = "its first weights" if first == 1 else f"the model before its round {first}"
    return (
        f"Study {forgets.studies[0][:16]} is trained anew {whom}: from {begins}, which never saw them, rounds {first} "
        f"to {plan.federation.rounds} are run again.",
    )


def _prediction(plan: RoundPlan, site: SiteConfig) -> tuple[str, ...]:
    """What the study file says of its outcome, and where the outcome of a visit comes from at this site."""
    months = plan.horizon_months
    if plan.outcome:
        horizon = "over the horizon of your own table" if months is None else f"{months:g} months after the visit"
        declared = f"{plain(plan.outcome)}, {horizon}, as the study file declares it."
    elif months is not None:
        declared = f"The outcome of each visit {months:g} months after it, as the study file declares it."
    else:
        declared = "The study file names neither an outcome nor a horizon: both are those of your own table."
    score = plan.model.score
    declared_score = f"The model predicts the change in {plain(score.name)}, in {plain(score.unit)}."
    own = f"The outcome of a visit is taken from your own tables: {site.outcome_in_words}."
    troubles = filter(None, (site.outcome.mismatch(score), other_horizon(horizon_of_settings(site), months)))
    return (
        declared,
        *((f"Outcomes of another horizon than {months:g} months do not train: they are refused.",) if months else ()),
        *((declared_score,) if score != CDR_SB else ()),
        own,
        f"It is predicted from the visit's images, columns and baseline {plain(score.name)}.",
        *(f"This site cannot take part as it is set up: {plain(trouble)}." for trouble in troubles),
    )


def _protections(plan: RoundPlan) -> tuple[str, ...]:
    """Both kinds, each said to be there or not."""
    federation = plan.federation
    privacy = federation.privacy
    if federation.secure:
        sum_ = (
            "Secure sum: nobody, the coordinator included, sees this site's update, its counts or which modalities it "
            f"has, as long as fewer than a {federation.secure_threshold:.2f} share of the sites work against it."
        )
    else:
        sum_ = (
            "NO secure sum: the coordinator sees this site's own update, from which somebody with enough effort may "
            "learn about its patients."
        )
    if privacy and privacy.moments:
        return sum_, *moments_protection_in_words(plan)
    if privacy is None:
        return sum_, "NO differential privacy: what a single patient adds to the model is not limited."
    return sum_, *gradients_protection_in_words(plan)


def changed_settings(old: RoundPlan, new: RoundPlan) -> tuple[str, ...]:
    """Where two studies differ: `federation.rounds: 10 -> 12`."""
    before, after = dict(_leaves(old.model_dump(mode="json"))), dict(_leaves(new.model_dump(mode="json")))
    return tuple(
        f"{name}: {plain(str(before.get(name, 'absent')))} -> {plain(str(after.get(name, 'absent')))}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def _differences(federation: FederationConfig) -> str:
    least = federation.min_cohort_difference
    if least == 1:
        return (
            "min_cohort_difference is 1: sums may differ by one site, whose numbers then follow by subtraction, unless "
            "this site's own release.min_cohort_difference is larger."
        )
    return f"Sums are over sites of which {least} or more, or none, change from one to another (min_cohort_difference)."


def _sent_sizes(plan: RoundPlan, layout: ModuleLayout) -> dict[str, int]:
    """Numbers of each module that some round trains: no other is sent back."""
    rounds = range(1, plan.federation.rounds + 1)
    sent = {module for number in rounds for module in trained_modules(plan, number, layout.modules)}
    return {module: layout.size(module) for module in layout.modules if module in sent}


def _families(sizes: dict[str, int]) -> list[str]:
    families: dict[str, int] = {}
    for module in sizes:
        families[kind_of(module)] = families.get(kind_of(module), 0) + 1
    return [f"{count} {name}" if count > 1 else name for name, count in families.items()]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{path}[{number}]")
    else:
        yield path, value
