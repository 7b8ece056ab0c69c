"""What a scan's header or sidecar says of the person beside the identifier, which shows two people under one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Empty where nothing is said; it is compared and kept nowhere."""

    birth: str = ""
    """The digits of the date of birth."""
    sex: str = ""
    """F or M."""

    @staticmethod
    def of(birth: object, sex: object) -> Person:
        """As a header (`19400102`, `F`) or a sidecar (`1940-01-02`, `Female`) spells it."""
        initial = str(sex or "").strip()[:1].upper()
        return Person(re.sub(r"\D", "", str(birth or "")), initial if initial in ("F", "M") else "")


NOBODY = Person()
"""Of whom nothing is said."""


def identifiers_of_two(people: Iterable[tuple[str, Person]]) -> set[str]:
    """Identifiers with different dates of birth or sexes; what is not said is no other."""
    births: dict[str, set[str]] = defaultdict(set)
    sexes: dict[str, set[str]] = defaultdict(set)
    for identifier, person in people:
        births[identifier] |= {person.birth} - {""}
        sexes[identifier] |= {person.sex} - {""}
    return {identifier for identifier in births if len(births[identifier]) > 1 or len(sexes[identifier]) > 1}
