"""Shamir's shares: any t give the secret, t - 1 say nothing, and many at once are what one by one gives."""

from __future__ import annotations

import itertools
import secrets

import numpy as np
import pytest
from scipy import stats

from permmoe.federated.secure import shamir

SECRET = bytes(range(64))


def product(a: int, b: int) -> int:
    """In GF(2^16), as at school: shift, add, and take the modulus off."""
    total = 0
    while b:
        total ^= a if b & 1 else 0
        a = a << 1 ^ (shamir.MODULUS if a >> 15 else 0)
        b >>= 1
    return total


def inverse(a: int) -> int:
    """a^(2^16 - 2)."""
    power, result, exponent = a, 1, (1 << 16) - 2
    while exponent:
        result = product(result, power) if exponent & 1 else result
        power, exponent = product(power, power), exponent >> 1
    return result


def value_at_zero(points: dict[int, int]) -> int:
    """Lagrange's formula, term by term."""
    total = 0
    for x, y in points.items():
        term = y
        for other in points.keys() - {x}:
            term = product(term, product(other, inverse(other ^ x)))
        total ^= term
    return total


def words(text: bytes) -> list[int]:
    return [int.from_bytes(text[i : i + 2], "little") for i in range(0, len(text), 2)]


def some_numbers(count: int, seed: int = 3) -> list[int]:
    return (np.random.default_rng(seed).permutation(shamir.ORDER)[:count] + 1).tolist()


def test_combining_is_lagranges_formula_word_by_word() -> None:
    numbers = some_numbers(5)
    for _ in range(20):
        shares = dict(zip(numbers, (secrets.token_bytes(6) for _ in numbers), strict=True))
        slow = [value_at_zero({x: words(share)[place] for x, share in shares.items()}) for place in range(3)]
        assert words(shamir.combine([shares])[0]) == slow


def test_shares_are_values_of_a_polynomial_of_degree_below_the_threshold() -> None:
    numbers = some_numbers(7)
    shares = dict(zip(numbers, shamir.split(SECRET, 5, numbers), strict=True))
    for five in itertools.combinations(numbers, 5):
        points = {x: words(shares[x])[11] for x in five}
        assert value_at_zero(points) == words(SECRET)[11]


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (1, 3), (2, 3), (7, 11), (95, 132)])
def test_any_threshold_of_the_shares_give_the_secret_back(threshold: int, count: int) -> None:
    numbers, rng = some_numbers(count), np.random.default_rng(5)
    shares = dict(zip(numbers, shamir.split(SECRET, threshold, numbers), strict=True))
    chosen = [rng.permutation(numbers)[:threshold].tolist() for _ in range(40)]
    assert shamir.combine([{x: shares[x] for x in some} for some in chosen]) == [SECRET] * 40


def test_many_secrets_at_once_are_the_secrets_one_by_one() -> None:
    numbers = some_numbers(6)
    kept = [secrets.token_bytes(16) for _ in range(2 * shamir.SECRETS_AT_ONCE + 3)]
    shares = [dict(zip(numbers, shamir.split(secret, 6, numbers), strict=True)) for secret in kept]
    assert shamir.combine(shares) == kept == [shamir.combine([of_one])[0] for of_one in shares]


def test_one_share_less_gives_another_secret_and_fits_every_secret() -> None:
    numbers = some_numbers(4)
    shares = dict(zip(numbers, shamir.split(SECRET, 4, numbers), strict=True))
    three = {x: shares[x] for x in numbers[:3]}
    assert shamir.combine([three]) != [SECRET]
    other = bytes(64)
    # Some fourth share leads from the same three to any other secret: at 0 the polynomial has its value.
    fourth = [
        value_at_zero({0 ^ numbers[3]: o, **{x ^ numbers[3]: words(three[x])[i] for x in three}})
        for i, o in enumerate(words(other))
    ]
    made_up = b"".join(word.to_bytes(2, "little") for word in fourth)
    assert shamir.combine([{**three, numbers[3]: made_up}]) == [other]


def test_shares_of_one_secret_look_random() -> None:
    text = b"".join(shamir.split(bytes(64), 3, [1, 2])[1] for _ in range(2000))
    assert stats.chisquare(np.bincount(np.frombuffer(text, np.uint8), minlength=256)).pvalue > 1e-4


def test_two_splits_of_one_secret_differ() -> None:
    assert shamir.split(SECRET, 2, [1, 2]) != shamir.split(SECRET, 2, [1, 2])


@pytest.mark.parametrize("numbers", [[0, 1], [1, 1], [1, 1 << 16]])
def test_attack_a_share_numbered_zero_which_is_the_secret_or_twice_the_same_number(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="each comes once"):
        shamir.split(SECRET, 2, numbers)


def test_attack_a_share_numbered_zero_is_not_combined() -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        shamir.combine([{0: bytes(2), 1: bytes(2)}])
