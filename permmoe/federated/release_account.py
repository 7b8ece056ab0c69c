"""What sums that were released tell about few members, and which further sums tell no more.

Members are a site's patients, or the sites of a secure sum. Each released sum is Σ x_i over a set of members, where x_i
is whatever the sum adds up of member i; somebody who holds sums over the sets S_1 … S_n can weight them at will:

    Σ_j a_j Σ_{i in S_j} x_i = Σ_i c_i x_i,   c_i = Σ_j a_j [i in S_j].

**Proof that nobody can single out a few.** c_i depends on i only through which of the sets i is in. Call members that
are in the same sets, and in at least one, a group: all members of a group have the same c_i. So a combination that does
not vanish has c_i ≠ 0 on at least one whole group. If every group has k members or more, no combination whatsoever is
about fewer than k members. ∎

The rule is sufficient, and simple: a release is refused, or made coarser, where a group would become smaller than k. It
does not matter what the sums are of, which model they were computed with, or how often the same sets are summed again.
What it does not bound: somebody who knows the x_i of k - 1 members of a group knows the last one's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

Labels = Mapping[str, int]
"""Member -> a number above 0. Of the sums that are about to be released, members with one number are in the same."""


@dataclass(frozen=True)
class ReleaseAccount:
    """The groups of members that all sums released so far leave indistinguishable."""

    groups: Mapping[str, int] = field(default_factory=dict)
    """Member -> the number of its group, from 1; a member that is in no released sum is absent."""

    def after(self, labels: Labels) -> ReleaseAccount:
        """The account after sums are released in which members are together as the labels say."""
        numbers: dict[tuple[int, int], int] = {}
        groups: dict[str, int] = {}
        for member in sorted(self.groups.keys() | labels.keys()):
            together = (self.groups.get(member, 0), labels.get(member, 0))
            groups[member] = numbers.setdefault(together, len(numbers) + 1)
        return ReleaseAccount(groups)

    def admits(self, labels: Labels, least: int) -> bool:
        """Whether these sums may be released: afterwards every group that they are about has `least` members.

        Groups that the sums leave as they are, and leave out, were admitted before and are not judged again.
        """
        before = Counter(self.groups.values())
        together: Counter[tuple[int, int]] = Counter(
            (self.groups.get(member, 0), labels.get(member, 0)) for member in self.groups.keys() | labels.keys()
        )
        return all(n >= least or (label == 0 and n == before[group]) for (group, label), n in together.items())


def combination_groups(account: ReleaseAccount, observed: Mapping[str, int], least: int) -> Labels:
    """For each patient the set of modalities that counts in sums by combination, so that the account admits the sums.

    A combination's sum is over the patients whose set holds it, so patients with one set are a group. `observed` is
    each present patient's observed set, a bit mask above 0. Where fewer than `least` share a set they count with one
    modality less, the one without which most others can be joined, and so on; where nothing is left they are left out.
    Earlier groups are divided, never mixed up, and patients who were withdrawn are among those left out.
    """
    parts: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for member in sorted(account.groups.keys() | observed.keys()):
        parts[account.groups.get(member, 0)][observed.get(member, 0)].append(member)
    return {
        member: mask
        for group, of_group in parts.items()
        for mask, members in _merged(of_group, least, is_new=group == 0).items()
        if mask
        for member in members
    }


def leaving_together(groups: Mapping[str, int], leaving: Collection[str], least: int) -> frozenset[str]:
    """Who leaves a trained set so that those who have to, `leaving`, do not leave alone; the first of `groups` first.

    What is trained on a set is no sum over it. But whoever is shown what came of it with and without one member, from
    the same model and by the same steps, is shown that member. So a trained set changes as sums do. `groups` has its
    members with their groups of the account, 0 without one: of each group nobody leaves, or all do, or `least` or more
    do and as many stay.

    **Proof** that no comparison is about few. Call members alike who are of one group of the account and left trained
    sets at the same time, or never. By the rule these are `least` or more. A weighting of sums and of trained sets has
    one coefficient for all who are alike, so it is about whole sets of them, as the header's. ∎ Members whom no sum
    tells anything of, and of groups with fewer than `least` in the set, count as one group; where they are too few even
    so, they leave all together and beside others, or stay beside others, and comparisons of trained sets alone are
    about no fewer either.
    """
    parts: dict[int, list[str]] = defaultdict(list)
    sizes = Counter(groups.values())
    for member, group in groups.items():
        parts[group if sizes[group] >= least else 0].append(member)
    wanted, gone = set(leaving), set[str]()
    if 0 < len(parts[0]) < least:
        few = parts.pop(0)
        if wanted & set(few):
            gone.update(few)
            # Of the largest group some leave with them.
            wanted.update(max(parts.values(), key=len, default=[])[:1])
    for members in parts.values():
        out = [member for member in members if member in wanted]
        staying = [member for member in members if member not in wanted]
        missing = max(least - len(out), 0)
        if out:
            gone.update(out, staying[:missing] if len(staying) - missing >= least else staying)
    return frozenset(gone if len(groups) - len(gone) >= least or not gone else groups)


def admissible_sites(account: ReleaseAccount, available: Collection[str], least: int) -> tuple[str, ...]:
    """The most of these sites that may be summed, in the order of their names; none where no sum is admitted.

    Of each group as many take part that `least` others, or none, are left out.
    """
    members: dict[int, list[str]] = defaultdict(list)
    for site in sorted(account.groups.keys() | set(available)):
        members[account.groups.get(site, 0)].append(site)
    chosen: list[str] = []
    for group, sites in members.items():
        here = [site for site in sites if site in available]
        # New sites may be left out one by one: they are in no sum yet.
        most = len(here) if group == 0 or len(here) == len(sites) else min(len(here), len(sites) - least)
        chosen += here[:most] if most >= least else []
    return tuple(sorted(chosen))


def _merged(parts: Mapping[int, list[str]], least: int, *, is_new: bool) -> dict[int, list[str]]:
    """The patients of one earlier group by set of modalities, none of which too few share; 0: left out."""
    merged = {mask: list(members) for mask, members in parts.items()}
    size = sum(map(len, merged.values()))
    # From the largest sets down: whoever is passed on may be enough for a smaller set together with others.
    for mask in sorted(range(1, max(merged) + 1), key=lambda mask: (-mask.bit_count(), mask)):
        if 0 < len(merged.get(mask, ())) < least:
            members = merged.pop(mask)
            smaller = [mask & ~(1 << m) for m in range(mask.bit_length()) if mask >> m & 1]
            most = max(smaller, key=lambda one: (_inside(merged, one), -one))
            merged[most] = merged.get(most, []) + members
    # "Those who are left out of a group that was released are as many as the least, or all": else some more are.
    out = merged.get(0, [])
    if not is_new and 0 < len(out) < min(least, size):
        missing = least - len(out)
        taken = {
            mask: missing if len(members) - missing >= least else len(members)
            for mask, members in merged.items()
            if mask
        }
        cheapest = min(taken, key=lambda mask: (taken[mask] * _worth(mask), mask))
        members = merged.pop(cheapest)
        merged[0], merged[cheapest] = out + members[-taken[cheapest] :], members[: -taken[cheapest]]
    return merged


def _inside(parts: Mapping[int, list[str]], mask: int) -> int:
    """How many patients have a set that lies in this one, so that these could join them."""
    return sum(len(members) for own, members in parts.items() if own and own & mask == own)


def _worth(mask: int) -> int:
    """How many combinations a patient with this set counts for."""
    return (1 << mask.bit_count()) - 1
