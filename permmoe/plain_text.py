"""Words of other parties, as a terminal and its reader can bear them.

A name in a study, a certificate or another hospital's ledger may hold characters that a terminal obeys (escape
sequences, new lines) or that show a text in another order than it has (bidirectional controls), and so forge what
stands beside it. Settings that hold one are refused; everything else is shown, and logged, through `plain`.
"""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def plain(text: str) -> str:
    """The text on one line, with a sign in place of each character that is not printable."""
    return "".join(c if c.isprintable() else REPLACEMENT for c in text)


def plain_lines(text: str) -> str:
    """The text with its new lines, else as `plain` has it: for texts whose lines are our own."""
    return "\n".join(map(plain, text.split("\n")))


def refuse_unprintable(values: object) -> None:
    """Raise ValueError for the first text among values, however deep, that holds a character which is not printable.

    New lines pass: files of settings fold long sentences.
    """
    match values:
        case str() as text:
            if bad := [c for c in text if not c.isprintable() and c != "\n"]:
                raise ValueError(f"'{plain(text)[:40]}' holds a character that is not printable (U+{ord(bad[0]):04X})")
        case dict():
            for key, value in values.items():
                refuse_unprintable(key)
                refuse_unprintable(value)
        case list() | tuple():
            for value in values:
                refuse_unprintable(value)
