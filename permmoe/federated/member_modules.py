"""What the modules of an ensemble's members are called: as those of a single model, with the member before them."""

from __future__ import annotations

import re

MEMBER = re.compile(r"member-[0-9]+/")


def of_member(number: int, module: str) -> str:
    """The module of a member, counted from 1, such as `member-2/encoder/t1`."""
    return f"member-{number}/{module}"


def own_name(module: str) -> str:
    """What its member calls a module; one of a single model is called so already."""
    found = MEMBER.match(module)
    return module[found.end() :] if found else module
