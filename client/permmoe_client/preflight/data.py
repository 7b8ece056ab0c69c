"""The site's visits: the table, its labels, and what a training has of them."""

from __future__ import annotations

from collections import Counter

from permmoe.data.presence import absent_modalities
from permmoe.data.quarantine import Quarantine
from permmoe.data.reasons import Remedy
from permmoe.data.splits import Split
from permmoe.data.synthetic import is_synthetic
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError, nearest
from permmoe.federated.release_account import ReleaseAccount, combination_groups
from permmoe.modality import combination_mask, combination_name
from permmoe_client.participation.horizon import other_horizon, remedy
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.left_out import SHOW, left_out_outcome, with_remedy
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning

HORIZON_MONTHS = (6.0, 60.0)
"""A horizon outside this range is most likely a mistake: 2 stands for 2 years."""
MIN_TRAINING_VISITS = 10
MAX_MISSING_TARGETS = 0.5
LARGEST_DEVIATION = 20.0
"""How many declared deviations a tabular value may lie from its declared mean before the unit is taken to be wrong."""
PARTS: tuple[Split, ...] = ("train", "validation", "test")


def source(facts: Facts) -> Outcome:
    """The manifest, or the folders, can be read."""
    if facts.cohort.absent:
        return failed(
            f"cannot be read: {', '.join(facts.cohort.absent)}",
            "name an existing file in 'manifest' (or folders in 'folders') that this account may read",
        )
    return ok("a manifest" if facts.site.manifest else "tables and images")


def outcome(facts: Facts) -> Outcome:
    """The table holds the score that the study predicts the change of, in a unit that is the study's or converted."""
    own, remedy = facts.site.outcome, "mend 'outcome' in the settings, or decline the study"
    if facts.cohort.other_score:
        return failed(facts.cohort.other_score, remedy)
    if others := [plan.name for plan in facts.plans.values() if own.mismatch(plan.model.score)]:
        return warning(f"other studies predict what the table does not hold: {', '.join(map(repr, others))}", remedy)
    return ok(facts.site.outcome_in_words)


def columns(facts: Facts) -> Outcome:
    """The table has a column for each volume modality, and those of tabular ones."""
    _need_source(facts)
    if absent := facts.cohort.absent_columns:
        return failed(
            f"the manifest lacks {len(absent)} column(s): {', '.join(absent)}",
            "rename or add them; a modality that was never collected is an empty column",
        )
    if absent := facts.cohort.absent_covariates:
        return warning(
            f"the manifest lacks {', '.join(absent)}, which the study adjusts images for: none are harmonised here",
            "add the column(s), as far as patients' numbers are known; permmoe data adni writes them with --model",
        )
    unread = facts.cohort.unread_columns
    return ok("every column of the study is there" + (f"; not read: {', '.join(unread)}" if unread else ""))


def unique_subjects(facts: Facts) -> Outcome:
    """Splits are by subject, so each subject has one row."""
    _need_source(facts)
    if repeated := facts.cohort.repeated_subjects:
        return failed(
            f"{len(repeated)} subject(s) have more than one row", f"keep one index visit a subject; {SHOW}", repeated
        )
    return ok("no subject has two rows")


def split_names(facts: Facts) -> Outcome:
    """The column `split` holds train, validation, test, or nothing."""
    _need_source(facts)
    if lines := facts.cohort.unknown_split_lines:
        return failed(
            f"{len(lines)} row(s) have an unknown split, first in line {lines[0]}",
            "write train, validation or test into the column 'split', or leave it empty in every row",
        )
    return ok("the column 'split' names known parts, or none")


def readable(facts: Facts) -> Outcome:
    """The table can be used; a reason why not may quote it, so it is shown on request only."""
    _need_source(facts)
    attempt = facts.cohort.table
    if attempt.trouble:
        return failed(
            "the table cannot be used",
            "run the check with --details to see why; that output may quote the table",
            (attempt.trouble,),
        )
    return ok(f"{len(attempt.need('data.outcome, data.columns, data.unique_subjects and data.split_names'))} visits")


def visits(facts: Facts) -> Outcome:
    """Some visits have a modality that the site takes part with."""
    table = facts.cohort.table.need("data.readable")
    usable = sum(bool(visit.observed(facts.wanted)) for visit in table)
    if not usable:
        return failed(
            f"none of {len(table)} visits has any of: {', '.join(facts.wanted) or 'no modality of the study'}",
            "look at what was left out, and at 'modalities' in the settings",
        )
    return ok(f"{usable} of {len(table)} visits have a modality that this site takes part with")


def targets(facts: Facts) -> Outcome:
    """A visit without an outcome trains nothing."""
    table = facts.cohort.table.need("data.readable")
    if not len(table):
        raise Skip("needs data.visits")
    missing = sum(visit.delta_cdrsb is None for visit in table)
    detail = f"{missing} of {len(table)} visits have no outcome"
    remedy = (
        f"fill the column '{facts.site.outcome.later}', or wait for the follow-up visits"
        if facts.site.manifest
        else "look at 'folders.target' in the settings, or wait for the follow-up visits"
    )
    if missing == len(table):
        return failed(detail, remedy)
    if missing > MAX_MISSING_TARGETS * len(table):
        return warning(detail, remedy)
    return ok(detail)


def left_out(facts: Facts) -> Outcome:
    """Rows that no other check speaks of."""
    items = [item for item in _left_out(facts) if item.reason.remedy not in (Remedy.MOUNT, Remedy.COMPARE_SCORES)]
    return left_out_outcome(items, "row(s) or cells were left out")


def scores(facts: Facts) -> Outcome:
    """The score lies on its scale, at the visit and at the horizon; CDR-SB is 0 to 18 points."""
    items = with_remedy(_left_out(facts), Remedy.COMPARE_SCORES)
    return left_out_outcome(items, "row(s) have an impossible or no score")


def files(facts: Facts) -> Outcome:
    """Every image that the table names is there; where all of a modality are away, most likely a mount is."""
    table = facts.cohort.table.need("data.readable")
    unopened = {(item.subject_id, item.modality) for item in facts.cohort.broken}
    there = VisitTable(
        tuple(v.with_only([n for n in v.observed(facts.wanted) if (v.subject_id, n) not in unopened]) for v in table)
    )
    if away := absent_modalities(there, _left_out(facts) + facts.cohort.broken):
        counts = ", ".join(f"none of {n} images of {name}" for name, n in away.items() if name in facts.wanted)
        if counts:
            return failed(f"{counts} can be opened", f"{Remedy.MOUNT}, or take the modality out of the settings")
    items = with_remedy((*_left_out(facts), *facts.cohort.broken), Remedy.MOUNT)
    return left_out_outcome(items, "image(s) are not there")


def horizon(facts: Facts) -> Outcome:
    """The horizon is that of the studies that declare one, and in months."""
    found = sorted({visit.horizon_months for visit in facts.visits})
    for digest, plan in sorted(facts.plans.items(), key=lambda item: item[0] not in facts.approved):
        # A survey counts outcomes of another horizon as not known.
        months = None if plan.survey else plan.horizon_months
        if months is not None and (trouble := other_horizon(found, months)):
            judged = failed if digest in facts.approved else warning
            return judged(f"{plan.name!r}: {trouble}", remedy(facts.site, months))
    low, high = HORIZON_MONTHS
    if outside := [months for months in found if not low <= months <= high]:
        return warning(
            f"the horizon is {outside[0]:g} months", f"write months, {low:g} to {high:g}, into 'horizon_months'"
        )
    return ok(f"{', '.join(f'{months:g}' for months in found)} months")


def label_spread(facts: Facts) -> Outcome:
    """Where everyone changes alike the column is most likely another one."""
    changes = {visit.delta_cdrsb for visit in facts.visits}
    if len(changes) == 1 and len(facts.visits) > 1:
        own, column = facts.site.outcome, facts.site.outcome.later if facts.site.manifest else "the tables"
        return warning(f"every visit has the same change in {own.name}", f"compare {column} with its source")
    return ok(f"{len(changes)} different changes in {facts.site.outcome.name}")


def tabular_units(facts: Facts) -> Outcome:
    """Values lie near the means that the study declares."""
    far: Counter[str] = Counter()
    for modality in facts.model.modalities:
        if modality.name not in facts.wanted or not modality.deviations:
            continue
        means = modality.means or (0.0,) * len(modality.columns)
        for visit in facts.visits:
            scales = zip(
                modality.columns, visit.tables.get(modality.name, ()), means, modality.deviations, strict=False
            )
            far.update(column for column, x, mean, width in scales if abs(x - mean) > LARGEST_DEVIATION * width)
    if far:
        detail = "; ".join(f"{column} of {n} visit(s)" for column, n in sorted(far.items()))
        return warning(
            f"further than {LARGEST_DEVIATION:g} declared deviations from the study's mean: {detail}",
            "compare the columns' units with the study's",
        )
    return ok("no value is far from what the study expects")


def modality_names(facts: Facts) -> Outcome:
    """The settings name modalities of the study."""
    unknown = [name for name in facts.site.modalities if name not in facts.model.names]
    if unknown:
        return failed(
            f"the study has no modality {unknown[0]!r}; {nearest(unknown[0], facts.model.names)}",
            "mend 'modalities' in the settings, or leave it empty",
        )
    return ok(", ".join(facts.wanted))


def modality_counts(facts: Facts) -> Outcome:
    """Each modality of the settings occurs in a visit."""
    found = facts.visits
    counts = {name: sum(name in visit.observed((name,)) for visit in found) for name in facts.wanted}
    detail = ", ".join(f"{name} {n}" for name, n in counts.items())
    if empty := [name for name in facts.site.modalities if counts.get(name) == 0]:
        return warning(
            f"'modalities' names {', '.join(empty)}, which no visit has ({detail})",
            "take it out of the settings, or look at what was left out",
        )
    return ok(f"visits: {detail}")


def combinations(facts: Facts) -> Outcome:
    """Sums of errors leave over groups of subjects, none smaller than the release policy's least."""
    counts = Counter(visit.observed(facts.wanted) for visit in facts.visits)
    least = facts.site.release.min_cell_count
    detail = ", ".join(f"{combination_name(c)} {n}" for c, n in sorted(counts.items(), key=lambda p: (-p[1], p[0])))
    try:
        judged = {part: _judged(facts, part) for part in PARTS[1:]}
    except DataError:
        raise Skip("needs data.splits") from None
    # Where nobody is to be judged, data.splits says so.
    if any(of for _, of in judged.values()) and not any(n for n, _ in judged.values()):
        return warning(
            f"no {least} visits to validate or to test have modalities in common, so no sum of errors leaves: {detail}",
            "gather more visits; 'min_cell_count' protects patients, so lower it only with the data protection officer",
        )
    counting = ", ".join(f"{n} of {of} {part} visits" for part, (n, of) in judged.items())
    return ok(f"{detail}; sums of errors are over {counting}")


def _judged(facts: Facts, part: Split) -> tuple[int, int]:
    """How many visits of a part count in a first evaluation, and how many there are."""
    names = facts.wanted
    found = {v.subject_id: v.observed(names) for v in facts.split_visits if v.split == part and v.observed(names)}
    masks = {subject: combination_mask(observed, names) for subject, observed in found.items()}
    return len(combination_groups(ReleaseAccount(), masks, facts.site.release.min_cell_count)), len(found)


def splits(facts: Facts) -> Outcome:
    """There are visits for training, validation and test."""
    try:
        counts = Counter(visit.split for visit in facts.split_visits)
    except DataError as error:
        return failed(str(error), "fill the column 'split' in every row, or leave it empty")
    detail = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    if not counts["train"]:
        return failed(detail, "let some rows' 'split' be train, or lower the shares in 'split'")
    share = facts.site.split
    shares = {"validation": share.validation, "test": share.test}
    wanted = [part for part in PARTS if shares.get(part) and not counts[part]]
    if wanted:
        return warning(
            f"{detail}: nobody for {' or '.join(wanted)}", "gather more visits, or raise the share in 'split'"
        )
    return ok(detail)


def training_size(facts: Facts) -> Outcome:
    """A handful of visits can be read back out of what a model learnt from them."""
    try:
        n = sum(visit.split == "train" for visit in facts.split_visits)
    except DataError:
        raise Skip("needs data.splits") from None
    if 0 < n < MIN_TRAINING_VISITS:
        return warning(
            f"{n} visits to train on: an update tells much of so few", f"gather {MIN_TRAINING_VISITS} visits or more"
        )
    return ok(f"{n} visits to train on")


def synthetic(facts: Facts) -> Outcome:
    """The description of synthetic images says that they are synthetic."""
    source = facts.site.folders.tables if facts.site.folders else facts.site.manifest
    if is_synthetic(facts.cohort.table.need("data.readable"), *filter(None, [source])):
        return warning(
            "images are SYNTHETIC: their figures say nothing about patients",
            "take part in studies of synthetic data only, or name patients' images",
        )
    return ok("no image is described as synthetic")


def _need_source(facts: Facts) -> None:
    if facts.cohort.absent:
        raise Skip("needs data.source")
    if facts.cohort.other_score:
        raise Skip("needs data.outcome")


def _left_out(facts: Facts) -> Quarantine:
    facts.cohort.table.need("data.readable")
    return facts.cohort.left_out


CHECKS = (
    Check("data.source", "The data are where the settings say", source),
    Check("data.outcome", "The table's outcome is the study's", outcome),
    Check("data.columns", "The table has every column", columns),
    Check("data.unique_subjects", "No subject occurs twice", unique_subjects),
    Check("data.split_names", "Parts of the data have known names", split_names),
    Check("data.readable", "The table can be used", readable),
    Check("data.visits", "There are visits", visits),
    Check("data.targets", "Visits have outcomes", targets),
    Check("data.left_out", "Every row is complete", left_out),
    Check("data.scores", "Every score is possible", scores),
    Check("data.files", "Every image is there", files),
    Check("data.horizon", "The horizon is the study's, in months", horizon),
    Check("data.label_spread", "Outcomes differ", label_spread),
    Check("data.tabular_units", "Numbers are in the study's units", tabular_units),
    Check("data.modality_names", "The study has the modalities of the settings", modality_names),
    Check("data.modality_counts", "Visits have the modalities of the settings", modality_counts),
    Check("data.combinations", "Some figures may leave", combinations),
    Check("data.splits", "There are visits to train, to validate and to test", splits),
    Check("data.training_size", "There are enough visits to train on", training_size),
    Check("data.synthetic", "The data are patients'", synthetic),
)
