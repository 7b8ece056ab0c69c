"""Who withdraws from a finished federation, in a study of what forgetting costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from permmoe.config import Configuration
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError
from permmoe_simulation.studies.partition import Sites

Who = Literal["nobody", "five", "twentieth", "hospital"]
GROUP = 5
"""Patients of a hospital who leave a training together at least (permmoe.federated.release_account)."""
DRAW = 4
"""Which stream of a cell's seed draws them; the first ones deal out visits."""


class Forgets(Configuration):
    """Who withdraws once a federation has trained with everybody, and what is done about it."""

    who: Who = Field(
        description="five: as many training patients of one hospital; twentieth: every twentieth training patient, "
        "five of a hospital together; hospital: a whole one; nobody: the model stays as it is, and has seen all of them"
    )
    continued_rounds: int = Field(
        0, ge=0, description="rounds that the finished model is trained on without them; 0: it is trained anew instead"
    )

    @model_validator(mode="after")
    def _goes_on_without_somebody(self) -> Forgets:
        if self.continued_rounds and self.who == "nobody":
            raise ValueError("continued_rounds is about training without somebody; leave it out where nobody withdraws")
        return self


def forgotten(trained: Mapping[str, Sequence[str]], who: Who, seed: int) -> dict[str, frozenset[str]]:
    """By site the patients who withdraw. `trained`: the training patients of every site.

    Who they are depends on these patients and the seed alone. Raises ConfigurationError where there are too few.
    """
    generator = np.random.default_rng((seed, DRAW))
    names = [sorted(trained)[i] for i in generator.permutation(len(trained))]
    if who == "nobody":
        return {}
    if who == "hospital":
        return {names[0]: frozenset(trained[names[0]])}
    total = sum(map(len, trained.values()))
    wanted = GROUP if who == "five" else max(GROUP, round(total / 20))
    gone: dict[str, frozenset[str]] = {}
    for name in names:
        # As many have to stay, or those who stay would be few.
        if len(trained[name]) >= 2 * GROUP and GROUP * len(gone) < wanted:
            drawn = generator.permutation(sorted(trained[name]))[:GROUP]
            gone[name] = frozenset(map(str, drawn))
    if GROUP * len(gone) < wanted:
        raise ConfigurationError(
            f"{wanted} patients are to withdraw, {GROUP} of a hospital, and {len(gone)} hospitals have {2 * GROUP} "
            "training patients or more; make the cohort larger"
        )
    return gone


def trained_by_site(sites: Sites) -> dict[str, list[str]]:
    """The training patients of every site that has any."""
    found = {site: [visit.subject_id for visit in table if visit.split == "train"] for site, table in sites.items()}
    return {site: subjects for site, subjects in found.items() if subjects}


def without(sites: Sites, gone: Mapping[str, frozenset[str]], who: Who) -> dict[str, VisitTable]:
    """What the sites train and validate with when these have withdrawn. A hospital's test visits stay, to be judged."""
    left = {}
    for site, table in sites.items():
        absent = gone.get(site, frozenset())
        if who == "hospital" and site in gone:
            left[site] = table.where(lambda visit: visit.split == "test")
        else:
            left[site] = VisitTable(tuple(visit for visit in table if visit.subject_id not in absent))
    return left
