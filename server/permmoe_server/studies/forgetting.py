"""A follow-up study that forgets a hospital, or patients of one: it goes on from the newest model that never saw them.

Which model that is follows from the study's record of rounds and from its chain of announced models, which sites have
in their ledgers: the one that the first round began with that the hospital took part in. What the old study's later
rounds made has seen them, and registered models of it are withdrawn at once: neither promoted nor handed out again.

The round that sets means and the ridge's moments is run again like any other. That gives what subtracting the moments
of who withdrew would, to the last bit, and needs nobody's own moments: the difference would be just these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from re import fullmatch
from typing import Any

from permmoe.errors import ConfigurationError, DataError
from permmoe.federated.forgetting_config import ForgettingConfig
from permmoe.federated.model_chain import Link
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.protocol.at_work import NOBODY_AT_WORK
from permmoe_server.protocol.round_records import FederationState
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.studies.model_register import MODELS_FILE, read_links
from permmoe_server.studies.receipt_file import RECEIPTS_FILE
from permmoe_server.studies.registry import read_registry, withdraw
from permmoe_server.studies.round_log import RoundLog
from permmoe_server.studies.seen_sites import checkpoint_before, first_rounds
from permmoe_server.studies.study_folder import Study, keep_study, known_studies, study_of
from permmoe_server.studies.study_run import ROUNDS_FILE, first_state
from permmoe_server.studies.study_state import load_state, save_state
from permmoe_server.studies.sum_log import FILE as SUMS_FILE
from permmoe_server.studies.sum_log import read_sums


@dataclass(frozen=True)
class FollowUp:
    """What was made, and what it means."""

    study: Study
    withdrawn: tuple[str, ...]
    """Registered models that have seen whoever withdrew."""
    elsewhere: tuple[str, ...]
    """Other studies that the hospital took part in, and that do not forget the same: their names and digests."""
    left_out: tuple[str, ...] = ()
    """Secure: hospitals that no sum of the follow-up is over, since sums differ by several hospitals or by none."""


def forget(
    folder: FederationFolder, study: Study, site: str, withdrawal: str, now: datetime, *, is_whole_site: bool
) -> FollowUp:
    """Make the follow-up study, let it be the one named last, and withdraw the models that have seen who withdrew.

    The old study stays as it is. Nothing is changed where an error is raised: ConfigurationError while a coordinator
    runs, for a study that trained nothing or without that hospital, for a follow-up that is there already, and where a
    secure sum could not be made without it; DataError where a checkpoint is not the announced model.
    """
    if study.plan.kind != "training":
        raise ConfigurationError(f"study {study.plan.name} trains nothing, so there is nothing to forget in it")
    with running(folder):
        first = first_rounds(RoundLog(study.rounds).read())
        if site not in first:
            took_part = ", ".join(sorted(first)) or "nobody"
            raise ConfigurationError(
                f"{site} took part in no round of study {study.plan.name} ({took_part} did), so its model never saw "
                "anybody there; nothing was changed"
            )
        if withdrawal and not fullmatch("[0-9a-f]{64}", withdrawal):
            raise ConfigurationError(
                f"{withdrawal!r} is no digest of 64 characters, 0-9 and a-f, as permmoe-client withdraw says it; "
                "nothing was changed"
            )
        state, number = _newest_without(study, first[site])
        model = _packed(study.plan, state).digest()
        _require_announced(study, Link(number, "training", model))
        earlier = study.plan.forgets.studies if study.plan.forgets else ()
        forgets = ForgettingConfig(
            studies=tuple(dict.fromkeys((*_lineage(folder, study, 1), *earlier))),
            site=site,
            is_whole_site=is_whole_site,
            withdrawal=withdrawal,
            first_round=number,
            model_sha256=model,
        )
        new = study_of(folder, study.plan.model_copy(update={"forgets": forgets}), study.weights)
        if new.folder.exists():
            raise ConfigurationError(f"{new.folder} is there already; run it with --study {new.plan_file}")
        left_out = _left_out(study, first, site, new.plan)
        _write(study, new, state)
        keep_study(folder, new)
        seen = _that_saw(folder, study, forgets)
        withdraw(folder, seen, f"it has seen {_whom(forgets)}; study {new.plan.digest()[:16]} is without", now)
        elsewhere = tuple(_elsewhere(folder, study, forgets))
    return FollowUp(new, seen, elsewhere, left_out)


def _lineage(folder: FederationFolder, study: Study, first_round: int) -> tuple[str, ...]:
    """Digests of the study, and of those that share a model with it that training from this round on led to: it goes on
    from them, or they from it."""
    later = _links_behind(study, first_round)
    alike = [other.plan.digest() for other in known_studies(folder) if later & _links_behind(other, first_round)]
    return tuple(dict.fromkeys((study.plan.digest(), *alike)))


def _whom(forgets: ForgettingConfig) -> str:
    return forgets.site if forgets.is_whole_site else f"patients of {forgets.site} who withdrew"


def _newest_without(study: Study, first: int) -> tuple[FederationState, int]:
    """The state from before a site's first round, and that round; where none was kept, the study's beginning."""
    layout = ModuleLayout.of(PerMMoE(study.plan.model))
    kept = checkpoint_before(study.folder, first)
    if has_checkpoint(kept):
        state = load_state(kept.parent, study.plan, layout, kept.name)
        if state is None or state.round != first - 1:
            raise DataError(f"{kept} is not of the round before round {first}; take it from a back-up")
        # A site that had begun a round and not answered may be the one that withdrew.
        return replace(state, at_work=NOBODY_AT_WORK), first
    return first_state(study.plan, study.folder), 1


def _packed(plan: RoundPlan, state: FederationState) -> PackedModel:
    return PackedModel.of(state.weights, "fp32" if plan.federation.secure else plan.federation.wire)


def _require_announced(study: Study, link: Link) -> None:
    """Raise DataError where the study's chain says that the round began with another model."""
    links = read_links(study.folder / MODELS_FILE)
    announced = {one.model for one in links if (one.round, one.purpose) == (link.round, link.purpose)}
    if announced and link.model not in announced:
        raise DataError(
            f"the model from before round {link.round} of study {study.plan.name} is not the one that its sites were "
            "sent; take the study's folder from a back-up. Nothing was changed"
        )


def _left_out(study: Study, first: Mapping[str, int], site: str, plan: RoundPlan) -> tuple[str, ...]:
    """Who is in no secure sum of the follow-up besides the hospital: sums differ by several hospitals or by none.

    Raises ConfigurationError where too few are left.
    """
    if not (plan.federation.secure and plan.forgets and plan.forgets.is_whole_site):
        return ()
    remaining = sorted({*first} - {site})
    chosen = read_sums(study.folder).choose(remaining, plan.federation.min_cohort_difference)
    if len(chosen) < plan.federation.least_sites:
        raise ConfigurationError(
            f"without {site} the secure sum is over {len(chosen)} sites, and {plan.federation.least_sites} are needed: "
            f"sums differ by {plan.federation.min_cohort_difference} sites or more, or by none, so that nobody's own "
            "numbers follow. Begin a new study without it when more hospitals have joined. Nothing was changed"
        )
    return tuple(name for name in remaining if name not in chosen)


def _write(study: Study, new: Study, state: FederationState) -> None:
    """Make the follow-up's folder, whole or not at all: rounds and links up to its beginning, receipts, all sums."""
    unfinished = new.folder.with_name(f".{new.folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in (RECEIPTS_FILE, SUMS_FILE):
        if (study.folder / name).exists():
            shutil.copy2(study.folder / name, unfinished / name)
    if state.round:
        save_state(unfinished, new.plan, ModuleLayout.of(PerMMoE(new.plan.model)), state)
        for name in (ROUNDS_FILE, MODELS_FILE):
            _copy_lines(study.folder / name, unfinished / name, state.round)
    unfinished.rename(new.folder)


def _copy_lines(source: Path, target: Path, last_round: int) -> None:
    """The lines of rounds up to this one; the test of a study's last round is none of another study's questions."""
    lines = source.read_bytes().splitlines(keepends=True) if source.exists() else []
    kept = [line for line in lines if _is_kept(json.loads(line), last_round)]
    write_file(target, b"".join(kept), mode=PUBLIC_MODE)


def _is_kept(line: Mapping[str, Any], last_round: int) -> bool:
    return bool(line["round"] <= last_round and line.get("purpose") != "test")


def _that_saw(folder: FederationFolder, study: Study, forgets: ForgettingConfig) -> tuple[str, ...]:
    """The registered models that training with the hospital led to: the study's, and of studies that go on from it."""
    seen = _lineage(folder, study, forgets.first_round)
    versions = read_registry(folder).versions
    return tuple(v.name for v in versions if v.plan_digest in seen and v.round >= forgets.first_round)


def _elsewhere(folder: FederationFolder, study: Study, forgets: ForgettingConfig) -> Iterator[str]:
    """Other studies whose models may have seen whoever withdrew, by name and digest."""
    seen = _lineage(folder, study, forgets.first_round)
    for other in known_studies(folder):
        own, digest = other.plan.forgets, other.plan.digest()
        is_free = own is not None and own.covers(forgets)
        if digest not in seen and not is_free and forgets.site in first_rounds(RoundLog(other.rounds).read()):
            yield f"{other.plan.name} ({digest[:16]})"


def _links_behind(study: Study, first_round: int) -> frozenset[Link]:
    """The models that a study announced after the training of this round had begun."""
    links = read_links(study.folder / MODELS_FILE)
    return frozenset(one for one in links if (one.round, one.purpose != "training") > (first_round, False))
