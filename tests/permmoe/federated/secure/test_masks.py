"""Masks: the fast way gives the bits of the slow one, and what is added can be taken away."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from permmoe.federated.secure import masks
from permmoe.federated.secure.masks import CHUNK_BYTES, HEAD_BYTES, KEYS_AT_ONCE, SHORT_BYTES, add_mask, add_masks

ENDS = (HEAD_BYTES, SHORT_BYTES, CHUNK_BYTES, 2 * CHUNK_BYTES)
SIZES = sorted({0, 1, 7, *(end // 8 + more for end in ENDS for more in (-1, 0, 1, 5))})


def slow_mask(key: bytes, n: int, kind: Any) -> np.ndarray:
    """AES-256 in counter mode of as many zeros, with a counter that starts at zero."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(n * np.dtype(kind).itemsize)), np.dtype(kind).newbyteorder("<"))


def some_numbers(n: int, kind: Any) -> np.ndarray:
    return np.random.default_rng(n).integers(0, np.iinfo(kind).max, n, kind, endpoint=True)


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
@pytest.mark.parametrize("n", SIZES)
def test_a_mask_is_the_key_stream_of_the_plain_counter_mode(n: int, kind: Any) -> None:
    key, before = secrets.token_bytes(32), some_numbers(n, kind)
    numbers = before.copy()
    add_mask(numbers, key)
    assert np.array_equal(numbers, before + slow_mask(key, n, kind))
    add_mask(numbers, key, is_added=False)
    assert np.array_equal(numbers, before)


@pytest.mark.parametrize("n", [3, SHORT_BYTES // 8 + 1, CHUNK_BYTES // 8 + HEAD_BYTES // 8 + 7])
@pytest.mark.parametrize("n_keys", [0, 1, KEYS_AT_ONCE, KEYS_AT_ONCE + 1])
def test_many_masks_at_once_are_the_masks_one_after_another(n_keys: int, n: int) -> None:
    keys = [(secrets.token_bytes(32), bool(i % 3)) for i in range(n_keys)]
    numbers, expected = some_numbers(n, np.uint64), some_numbers(n, np.uint64)
    add_masks(numbers, keys)
    for key, is_added in keys:
        mask = slow_mask(key, n, np.uint64)
        expected = expected + mask if is_added else expected - mask
    assert np.array_equal(numbers, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("n_keys", [0, 1, 5, KEYS_AT_ONCE])
def test_threads_that_share_the_keys_add_the_masks_of_one(
    n_keys: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "THREADED_BYTES", 0)
    keys = [(secrets.token_bytes(32), bool(i % 3)) for i in range(n_keys)]
    vector = some_numbers(3 * SHORT_BYTES, np.uint64)
    expected, piece = vector.copy(), slice(SHORT_BYTES, 2 * SHORT_BYTES + 1)
    add_masks(vector[piece], keys, threads)
    for key, is_added in keys:
        mask = slow_mask(key, SHORT_BYTES + 1, np.uint64)
        expected[piece] += mask if is_added else -mask
    assert np.array_equal(vector, expected)


def test_masks_are_added_to_the_given_piece_of_a_vector_alone() -> None:
    vector = np.zeros(3 * SHORT_BYTES, np.uint64)
    add_mask(vector[SHORT_BYTES : 2 * SHORT_BYTES], secrets.token_bytes(32))
    assert not vector[:SHORT_BYTES].any() and not vector[2 * SHORT_BYTES :].any() and vector.any()
