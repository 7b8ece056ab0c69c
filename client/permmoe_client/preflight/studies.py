"""Approvals and the release policy: what may train here, and what may leave."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from permmoe.config import ModelConfig
from permmoe.encoder_weights import brought_encoders, require_weights_file
from permmoe.errors import ConfigurationError
from permmoe.federated.modules import kind_of
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning

DIGEST = re.compile(r"[0-9a-f]{64}")
SMALLEST_CELL = 5
"""Statistical offices ask this of tables over persons."""
BYTES_A_PARAMETER = 4


def digests(facts: Facts) -> Outcome:
    """A study is named by its whole SHA-256: a beginning could fit another study."""
    wrong = [digest for digest in facts.site.approved_studies if not DIGEST.fullmatch(digest)]
    if wrong:
        return failed(
            f"{len(wrong)} entry(s) of 'approved_studies' are no digest, first {wrong[0][:70]!r}",
            "copy all 64 characters, 0-9 and a-f in lower case, as `permmoe-client approve` shows them",
        )
    return ok(f"{len(facts.site.approved_studies)} digest(s)")


def approved(facts: Facts) -> Outcome:
    """Nothing trains without an approval."""
    if not facts.approved:
        return warning("no study is approved, so nothing trains here", "approve one with: permmoe-client approve")
    return ok(f"{len(facts.approved)} approved")


def waiting(facts: Facts) -> Outcome:
    """A study that the coordinator began is refused until somebody decides about it."""
    names = [f"{plan.name!r} ({digest[:12]}…)" for digest, plan in facts.plans.items() if digest not in facts.approved]
    if names:
        return warning(
            f"refused until it is approved: {', '.join(names)}",
            "read what it is for, and decide: permmoe-client approve",
        )
    return ok("no study waits for a decision")


def whole(facts: Facts) -> Outcome:
    """A study is what its digest says."""
    if facts.damaged_plans:
        return warning(
            f"{len(facts.damaged_plans)} file(s) in the ledger's folder of studies are not what their names say",
            "do not approve these; delete them, and the next round brings them again",
            facts.damaged_plans,
        )
    return ok(f"{len(facts.plans)} at hand")


def encoders(facts: Facts) -> Outcome:
    """A study may begin with encoders from a file that every hospital brings along, and refuses a round without it."""
    naming = {digest: plan for digest, plan in facts.plans.items() if plan.model.encoder.weights}
    for digest, plan in sorted(naming.items(), key=lambda item: item[0] not in facts.approved):
        if (trouble := _trouble_with_encoders(plan.model, facts.site.weights)) is not None:
            judged = failed if digest in facts.approved else warning
            return judged(f"{plan.name!r}: {trouble.what}", trouble.remedy)
    return ok(f"{len(naming)} studies name a file of encoders, and it is there" if naming else "no study names a file")


class _Trouble(NamedTuple):
    what: str
    remedy: str


def _trouble_with_encoders(model: ModelConfig, folder: Path | None) -> _Trouble | None:
    weights = model.encoder.weights
    assert weights
    get = f"get {weights.file} with SHA-256 {weights.sha256} from whoever asked you to take part, put it into"
    if folder is None:
        return _Trouble(
            f"its encoders begin as {weights.file} has them, and the settings name no folder of such files",
            f"{get} a folder, and name that folder as 'weights' in the settings",
        )
    try:
        require_weights_file(weights, folder)
    except ConfigurationError as error:
        return _Trouble(f"{error.for_log} ({folder})", f"{get} {folder}")
    try:
        brought_encoders(model, folder)
    except ConfigurationError as error:
        return _Trouble(error.for_log, "the file is the one that the study names: tell the coordinator what is wrong")
    return None


def withdrawn(facts: Facts) -> Outcome:
    """Who withdrew takes part in nothing, as long as the list of them is there."""
    if facts.withdrawals.trouble:
        return failed(facts.withdrawals.trouble, "restore it with the ledger; until then the client answers nothing")
    listed = facts.withdrawals.need("files.key")
    if listed.is_whole_site:
        return warning("the hospital withdrew, and takes part in nothing", "stop the client; it can be removed")
    n, beside = len(listed.subjects), len(listed.beside)
    return ok(f"{n} patient(s) withdrew; {beside} other(s) are left out of trainings, so that none left alone")


def modules(facts: Facts) -> Outcome:
    """The release policy lets some modules leave."""
    allowed = _allowed(facts)
    total = len(facts.layout.modules)
    if not allowed:
        return failed(
            f"'release.modules' lets none of {total} modules leave, so the site would train in vain",
            'name modules there, as encoder/* or expert/*, or "*" for all',
        )
    return ok(f"updates of {len(allowed)} of {total} modules may leave")


def patterns(facts: Facts) -> Outcome:
    """A pattern that fits nothing is most likely misspelt."""
    if not _allowed(facts):
        raise Skip("needs studies.modules")
    names = facts.layout.modules
    idle = [p for p in facts.site.release.modules if not any(fnmatchcase(name, p) for name in names)]
    if idle:
        kinds = ", ".join(sorted({kind_of(name) for name in names}))
        return warning(f"'release.modules' names {idle[0]!r}, which fits no module", f"modules are of: {kinds}")
    return ok("every pattern fits a module")


def min_cell_count(facts: Facts) -> Outcome:
    """The fewer subjects a figure is over, the more it says about one person."""
    least = facts.site.release.min_cell_count
    if least < SMALLEST_CELL:
        return warning(
            f"figures over {least} subjects may leave",
            f"set 'release.min_cell_count' to {SMALLEST_CELL} or more, unless the data are synthetic",
        )
    return ok(f"no figure over fewer than {least} subjects leaves")


def daily_bytes(facts: Facts) -> Outcome:
    """One round sends every allowed module once."""
    needed = BYTES_A_PARAMETER * sum(facts.layout.size(module) for module in _allowed(facts))
    allowed = facts.site.release.daily_bytes
    detail = f"{allowed:,} bytes a day may leave; a round sends {needed:,}"
    if allowed < needed:
        return failed(detail, "raise 'release.daily_bytes', or name fewer modules in 'release.modules'")
    return ok(detail)


def _allowed(facts: Facts) -> list[str]:
    return [m for m in facts.layout.modules if any(fnmatchcase(m, p) for p in facts.site.release.modules)]


CHECKS = (
    Check("studies.digests", "Approved studies are named by whole digests", digests),
    Check("studies.approved", "A study is approved", approved),
    Check("studies.waiting", "No study waits for a decision", waiting),
    Check("studies.whole", "Studies at hand are what their digests say", whole),
    Check("studies.encoders", "Files of encoders that studies begin with are there", encoders),
    Check("studies.withdrawn", "Who withdrew is known", withdrawn),
    Check("studies.modules", "Some modules' updates may leave", modules),
    Check("studies.patterns", "Every pattern of modules fits one", patterns),
    Check("studies.min_cell_count", "Small groups are protected", min_cell_count),
    Check("studies.daily_bytes", "A round fits into what may leave in a day", daily_bytes),
)
