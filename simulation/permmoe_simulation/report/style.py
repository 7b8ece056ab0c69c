"""How every figure looks, and how a matplotlib figure becomes a piece of the page.

Text stays text (not outlines), so that figures can be searched, read aloud and set in the reader's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from permmoe_simulation.studies.method_kinds import METHOD_KINDS

WIDTH = 9.0
"""Inches: the page shows it at 960 pixels, so 8.5 pt text comes out at 12.6 pixels."""

INK, MUTED, RULE, BAND = "#1c2127", "#5b6570", "#c9ced4", "#f5f6f8"
BETTER, WORSE = "#0072b2", "#c44e00"
MARK = "#8a5a00"
TEXT_SIZE = 8.5
CHARACTER = 0.073
"""Inches that a character of figure text takes at most, on average, in the fonts a reader may have."""

# Okabe and Ito's colours without yellow and black, then four darker ones of Tol's: told apart by people who do not
# see red or green, and each with a shape of its own for print in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#332288", "#882255", "#117733", "#999933")
GREYS = ("#4a525b", "#8a929b", "#2b3036", "#a8afb6")
SHAPES = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d")

NAME_SPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "permmoe",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.titlesize": TEXT_SIZE,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dfe3e7",
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
}

P = ParamSpec("P")


@dataclass(frozen=True)
class Look:
    """One method's colour and shape, the same in every figure."""

    colour: str
    shape: str = "o"
    is_filled: bool = True


REFERENCE_KINDS = frozenset(name for name, kind in METHOD_KINDS.items() if kind.has_baseline)


def method_looks(kinds: Mapping[str, str]) -> dict[str, Look]:
    """A look for each method, by its kind: references are grey and hollow, so that the candidates stand out."""
    looks: dict[str, Look] = {}
    for j, (method, kind) in enumerate(kinds.items()):
        is_reference = kind in REFERENCE_KINDS
        alike = sum(1 for other in looks if (kinds[other] in REFERENCE_KINDS) == is_reference)
        colours = GREYS if is_reference else COLOURS
        looks[method] = Look(colours[alike % len(colours)], SHAPES[j % len(SHAPES)], not is_reference)
    return looks


def shorten(text: str, characters: int) -> str:
    """The text on one line, cut with an ellipsis where it is longer than a figure has room for."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: max(1, characters - 1)].rstrip() + "…"


def canvas(height: float) -> Figure:
    """An empty figure of the page's width; height in inches."""
    return Figure(figsize=(WIDTH, height))


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a position given in inches from the lower left corner."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))


def legend_height(labels: Sequence[str]) -> float:
    """Inches that `add_legend` will need at the top of the figure."""
    return 0.21 * -(-len(labels) // _legend_columns(labels)) + 0.16


def add_legend(figure: Figure, entries: Sequence[tuple[str, Look]]) -> None:
    """Draw one row or more of method names along the top edge."""
    labels = [label for label, _ in entries]
    axes = place(figure, 0.0, 0.0, *figure.get_size_inches())
    axes.set_axis_off()
    handles = [axes.plot([], [], linestyle="none", label=label, **marker(look))[0] for label, look in entries]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0, borderpad=0.1,
        ncols=_legend_columns(labels), columnspacing=1.6, labelspacing=0.5,
    )  # fmt: skip


def add_title(axes: Axes, title: str, width: float, pad: float) -> None:
    """A panel's title above its axes, each line shortened to their width in inches; `pad` in points."""
    room = int(width / CHARACTER)
    axes.set_title("\n".join(shorten(line, room) for line in title.splitlines()), loc="left", pad=pad)


def marker(look: Look, size: float = 5.0) -> dict[str, Any]:
    """Line properties that draw a look's shape; size in points."""
    return {
        "marker": look.shape,
        "markersize": size,
        "color": look.colour,
        "markerfacecolor": look.colour if look.is_filled else "white",
        "markeredgecolor": look.colour,
        "markeredgewidth": 0.9,
    }


def drawn(build: Callable[P, Figure]) -> Callable[P, str]:
    """Make a function that returns a Figure return its inline SVG: in our style, without date, same bytes each time."""

    @wraps(build)
    def draw(*args: P.args, **kwargs: P.kwargs) -> str:
        with mpl.rc_context(STYLE):
            buffer = io.BytesIO()
            build(*args, **kwargs).savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
        return _inline(buffer.getvalue().decode("utf-8"))

    return draw


def with_mark(svg: str, text: str) -> str:
    """The SVG with a small text in its lower right corner, so that the figure keeps it when it is copied elsewhere."""
    box = re.search(r'viewBox="\S+ \S+ (\S+) ([^"]+)"', svg)
    assert box is not None  # `_inline` keeps it
    width, height = (float(side) for side in box.groups())
    label = f'<text x="{width:.1f}" y="{height - 3:.1f}" text-anchor="end" font-size="7" fill="{MARK}">{text}</text>'
    return svg.removesuffix("</svg>") + label + "</svg>"


def standalone(svg: str) -> str:
    """A figure for a page as a document of its own."""
    return svg.replace("<svg ", f"<svg {NAME_SPACES} ", 1) + "\n"


def with_prefix(svg: str, prefix: str) -> str:
    """The SVG with every internal name prefixed, so that several can share a page."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)


def _legend_columns(labels: Sequence[str]) -> int:
    """The columns of the legend with the fewest rows that fit the page; matplotlib fills it column by column."""
    for rows in range(1, len(labels)):
        columns = -(-len(labels) // rows)
        longest = [max(map(len, column)) for column in np.array_split(np.asarray(labels, dtype=object), columns)]
        if sum(CHARACTER * length + 0.45 for length in longest) <= WIDTH:
            return columns
    return 1


def _inline(document: str) -> str:
    """The <svg> element of an SVG document, without the addresses of name spaces that a page does not need."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None  # matplotlib always writes one
    return f"<svg {box[0]}>{rest}".strip()
