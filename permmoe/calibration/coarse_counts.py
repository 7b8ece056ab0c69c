"""Counts of scores in which no bin holds few visits, so that a bin tells no patient's error."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from permmoe.calibration.score_counts import N_BINS, N_EDGES

TOGETHER = 5
"""So many bins are one where counts have to be few numbers: a quantile is up to 5% longer, never shorter."""
WIDE_BINS = np.append(np.arange(TOGETHER - 1, N_EDGES, TOGETHER), N_EDGES)
"""The highest bin of each such five; the last, which has no end, stays by itself."""


def coarsened(counts: Int64[np.ndarray, " bin"], least: int) -> Int64[np.ndarray, " bin"]:
    """The same visits, each in its own bin or a higher one, so that each bin is empty or holds `least` or more.

    Bins are filled from below until they hold enough, at the highest score among them; what is left above joins the
    last. Scores only rise, so an interval from these counts is as wide as it was, or wider. Fewer visits than `least`
    stand in one bin: whether these may leave at all is not decided here.
    """
    found, waiting, last = np.zeros_like(counts), 0, -1
    for bin_of in np.flatnonzero(counts):
        waiting += int(counts[bin_of])
        if waiting >= least:
            found[bin_of], waiting, last = waiting, 0, int(bin_of)
    if waiting:
        top = int(np.flatnonzero(counts)[-1])
        if last >= 0:
            waiting, found[last] = waiting + int(found[last]), 0
        found[top] = waiting
    return found


def lowest(counts: Int64[np.ndarray, " bin"]) -> Int64[np.ndarray, " bin"]:
    """The visits of `coarsened` counts, each in the lowest bin that it may have come from: next to the one before."""
    found, taken = np.zeros_like(counts), np.flatnonzero(counts)
    found[np.append(0, taken[:-1] + 1)[: len(taken)]] = counts[taken]
    return found


def widened(counts: Int64[np.ndarray, " bin"]) -> Int64[np.ndarray, " bin"]:
    """The same visits, each in the highest of the five bins that its own is one of. Sums of such counts are such
    counts: nothing is lost beyond that."""
    found = np.zeros_like(counts)
    np.add.at(found, WIDE_BINS[np.minimum(np.arange(N_BINS) // TOGETHER, len(WIDE_BINS) - 1)], counts)
    return found
