"""How a hospital's patients are grouped for a survey, so that nobody is singled out by all that ever left.

**Rule.** Each patient is in one group of `least` patients or more, and of a group only those facts are told that all of
its patients share; whoever is in none is not counted. What leaves are numbers of patients by what is told of them, each
a sum over whole groups. The groups are divisions of the hospital's release account (permmoe.federated.release_account),
which knows all sums of earlier surveys and studies, and are entered into it.

**Proof that no numbers can be combined to be about fewer.** The coordinator knows Σ x_i over sets of patients: this
survey's, with x_i = 1, other surveys', and the sums of studies. Every set is a union of groups of the account as it is
after the last of them, since each release only divided the groups before. So a combination that does not vanish has the
same coefficient, not 0, on all patients of a whole group, which are `least` or more. That covers margins less their
parts, nested combinations of modalities, another survey with other bounds, with another horizon or after patients came
or were withdrawn, and a survey against the sums of a study, before it or after. ∎

Over hospitals nothing changes: a combination of sums over hospitals is, in each of them, one of that hospital's sums.

**Order.** Where too few share all their facts, those facts go that matter least: severity, then whether the outcome is
known, then modalities. Of patients who count with fewer modalities than they have no severity is told: a plain study's
exact numbers of training visits, which no account covers, may isolate one of them, and must not find it beside him.
(That his outcome is known follows from his training.) The part of the split is kept longest, so that a later study's
parts need not divide a group: that would leave its patients out.

Not covered: what somebody knows of all but one of a group; what all of a group share, which is told of each of them; a
second ledger of the same hospital, which is another account.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from permmoe.federated.release_account import Labels, ReleaseAccount
from permmoe.federated.survey_facts import Facts

SEVERITY, OUTCOME, MODALITY, PART = 1, 4, 8, 64
"""What it costs that one patient counts without such a fact."""


@dataclass(frozen=True)
class _Taking:
    """Some patients of a group join another one."""

    cost: int
    facts: int
    """Of the group that they join."""
    n: int
    """How many of them: all, or as many as are missing."""


def survey_groups(facts: Facts, account: ReleaseAccount, present: Mapping[str, int], least: int) -> Labels:
    """Patient -> the facts of the group that he counts in; whoever is not counted is absent, or has 0.

    `present` is each patient's facts (`Facts`), his part of the split among them. A patient of the account who is not
    present was withdrawn: he takes others along where too few would be left out.
    """
    members: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for member in sorted(account.groups.keys() | present.keys()):
        members[account.groups.get(member, 0)][present.get(member, 0)].append(member)
    return {
        member: told
        for group, by_facts in members.items()
        for told, joined in _grouped(facts, by_facts, least, is_new=group == 0).items()
        if told
        for member in joined
    }


def _grouped(facts: Facts, by_facts: Mapping[int, list[str]], least: int, *, is_new: bool) -> dict[int, list[str]]:
    """The patients of one earlier group by what is told of them; 0: not counted."""
    groups = {told: list(members) for told, members in by_facts.items() if told}
    out = list(by_facts.get(0, ()))
    size = len(out) + sum(map(len, groups.values()))
    while few := [told for told, members in groups.items() if len(members) < least]:
        own = min(few, key=lambda told: (len(groups[told]), told))
        members = groups.pop(own)
        if not groups:
            out += members
            break
        other = min(groups, key=lambda told: (_taking(facts, groups, own, len(members), told, least).cost, told))
        taking = _taking(facts, groups, own, len(members), other, least)
        taken = groups[other][len(groups[other]) - taking.n :]
        groups[other] = groups[other][: len(groups[other]) - taking.n]
        if not groups[other]:
            del groups[other]
        groups[taking.facts] = sorted([*groups.get(taking.facts, ()), *members, *taken])
    # "Those who are left out of a group that was released are as many as the least, or all": else some more are.
    while groups and not is_new and 0 < len(out) < min(least, size):
        missing = least - len(out)
        n_taken = {told: missing if len(m) - missing >= least else len(m) for told, m in groups.items()}
        cheapest = min(n_taken, key=lambda told: (n_taken[told] * (1 + _weight(facts, told)), told))
        members = groups.pop(cheapest)
        out += members[len(members) - n_taken[cheapest] :]
        if kept := members[: len(members) - n_taken[cheapest]]:
            groups[cheapest] = kept
    return {**groups, 0: out}


def _taking(facts: Facts, groups: Mapping[int, list[str]], own: int, n_own: int, other: int, least: int) -> _Taking:
    """What it costs that `n_own` patients of the facts `own`, too few, are joined with some of another group."""
    shared = own & other
    if (own ^ other) & facts.modality_mask:
        shared &= ~facts.severity_mask
    missing, n_other = least - n_own, len(groups[other])
    n_taken = missing if n_other - missing >= least else n_other
    lost = n_own * _weight(facts, own & ~shared) + n_taken * _weight(facts, other & ~shared)
    # Who is already told as little as is shared loses nothing, and need not be taken one by one.
    return _Taking(lost, shared, n_other if shared == other else n_taken)


def _weight(facts: Facts, lost: int) -> int:
    return (
        SEVERITY * (lost & facts.severity_mask).bit_count()
        + OUTCOME * (lost & facts.outcome_mask).bit_count()
        + MODALITY * (lost & facts.modality_mask).bit_count()
        + PART * (lost & facts.part_mask).bit_count()
    )
