"""Shares of secrets (Shamir 1979, doi 10.1145/359168.359176), of all words of a secret and for all sites at once.

A secret is cut into words of 16 bits. Each word is a polynomial's value at 0 over GF(2^16), with random coefficients of
its own; share number x holds the values at x. `threshold` shares give the words back, fewer say nothing about them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int32, UInt16

WORD = np.dtype("<u2")
MODULUS = 0x1100B
"""x^16 + x^12 + x^3 + x + 1, of which x generates all numbers but 0."""
ORDER = (1 << 16) - 1
"""How many numbers there are but 0: the largest number of a share."""
LOG_OF_ZERO = 2 * ORDER
"""Beyond every sum of two logarithms, so that a product with 0 is looked up as 0."""
SECRETS_AT_ONCE = 32
"""So many secrets' shares are compared pair by pair at a time."""


def split(secret: bytes, threshold: int, numbers: Sequence[int]) -> list[bytes]:
    """The shares of these numbers, as long as the secret. Raises ValueError for a number that is 0, or comes twice."""
    log, exp = _tables()
    at = log[_distinct(numbers)][:, None]
    words = np.frombuffer(secret, WORD)
    random = np.frombuffer(secrets.token_bytes(len(secret) * (threshold - 1)), WORD).reshape(threshold - 1, len(words))
    values = np.zeros((len(numbers), len(words)), np.uint16)
    for coefficients in (*random, words):
        values = exp[log[values] + at] ^ coefficients
    return [row.astype(WORD).tobytes() for row in values]


def combine(shares: Sequence[Mapping[int, bytes]]) -> list[bytes]:
    """The secret of each mapping from a share's number to the share, all of them of one length and as many shares.

    A wrong or missing share gives another secret, so check what comes. Raises ValueError for a number that is 0.
    """
    found: list[bytes] = []
    for start in range(0, len(shares), SECRETS_AT_ONCE):
        some = shares[start : start + SECRETS_AT_ONCE]
        numbers = np.array([_distinct(list(of_one)) for of_one in some])
        words = np.frombuffer(b"".join(share for of_one in some for share in of_one.values()), WORD)
        values = _value_at_zero(numbers, words.reshape(*numbers.shape, -1))
        found += [row.astype(WORD).tobytes() for row in values]
    return found


def _value_at_zero(
    numbers: Int32[np.ndarray, "secret share"], words: UInt16[np.ndarray, "secret share word"]
) -> UInt16[np.ndarray, "secret word"]:
    """Lagrange's Σ_i y_i Π_{j≠i} x_j / (x_j - x_i), where a difference is an exclusive or, and a product a sum of
    logarithms."""
    log, exp = _tables()
    between = log[numbers[:, :, None] ^ numbers[:, None, :]]
    own = np.arange(numbers.shape[1])
    between[:, own, own] = 0
    logs = log[numbers]
    factors = (logs.sum(axis=1, keepdims=True) - logs - between.sum(axis=2)) % ORDER
    return np.asarray(np.bitwise_xor.reduce(exp[log[words] + factors[:, :, None]], axis=1))


def _distinct(numbers: Sequence[int]) -> Int32[np.ndarray, " share"]:
    if len(set(numbers)) < len(numbers) or not all(1 <= number <= ORDER for number in numbers):
        raise ValueError(f"the numbers of shares are from 1 to {ORDER}, and each comes once")
    return np.array(numbers, np.int32)


@lru_cache(maxsize=1)
def _tables() -> tuple[Int32[np.ndarray, " number"], UInt16[np.ndarray, " power"]]:
    """The logarithm of each number, and the number of each sum of two logarithms."""
    powers, power = np.zeros(ORDER, np.uint16), 1
    for exponent in range(ORDER):
        powers[exponent] = power
        power = power << 1 ^ (MODULUS if power >> 15 else 0)
    log = np.full(ORDER + 1, LOG_OF_ZERO, np.int32)
    log[powers] = np.arange(ORDER, dtype=np.int32)
    return log, np.concatenate([powers, powers, np.zeros(2 * ORDER + 1, np.uint16)])
