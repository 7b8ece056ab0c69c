"""Probabilities of rare events among sites that are drawn at random.

Every machine gets the same bits: one exact ratio of integers, then additions, multiplications and divisions alone.
"""

from __future__ import annotations

from math import comb


def hypergeometric_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """How likely `least` or more of the drawn are marked, where all are drawn without replacement."""
    first = max(least, drawn - (population - marked), 0)
    if first > min(marked, drawn):
        return 0.0
    term = comb(marked, first) * comb(population - marked, drawn - first) / comb(population, drawn)
    total = 0.0
    for found in range(first, min(marked, drawn) + 1):
        total += term
        left = population - marked - drawn + found + 1
        term *= (marked - found) * (drawn - found) / ((found + 1) * left)
    return total


def binomial_tail(trials: int, wins: int, outcomes: int, least: int) -> float:
    """How likely `least` or more of the trials win, each by itself, in `wins` of its equally likely `outcomes`."""
    if least > trials:
        return 0.0
    first, losses = max(least, 0), outcomes - wins
    term = comb(trials, first) * wins**first * losses ** (trials - first) / outcomes**trials
    total = 0.0
    for won in range(first, trials + 1):
        total += term
        term *= (trials - won) * wins / ((won + 1) * losses)
    return total
