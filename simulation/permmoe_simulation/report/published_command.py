"""The command that a published page says to repeat: without what is of the machine that it ran on."""

from __future__ import annotations

import shlex

NOT_OF_THE_RESULT = ("--out", "--shared", "--workers", "--track")
"""Options, each with a value, that say where files lie and how many cells run at a time; no figure depends on them."""


def published_command(command: str) -> str:
    """The command without options that no figure depends on; all others stay as they were given."""
    kept: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        name, _, value = word.partition("=")
        if name not in NOT_OF_THE_RESULT:
            kept.append(word)
        elif not value:
            next(words, None)
    return shlex.join(kept)
