"""Keys, masks and envelopes of the secure sum, composed of a library's primitives; no I/O.

Key agreement: X25519 (RFC 7748) and HKDF-SHA-256 (RFC 5869). Masks: the key stream of AES-256 in counter mode, each
with a key of its own, so that the counter starts at zero. Envelopes between sites: ChaCha20-Poly1305 (RFC 8439), a key
for each message.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import UInt

KEY_BYTES = 32
SEED_BYTES = 16
TAG_BYTES = 16
"""What is sealed is so much longer than its content."""
CHUNK_BYTES = 1 << 18
"""The size of the chunks in which a mask is made, small enough for the processor's cache."""
HEAD_BYTES = 32
"""Of a key stream, before the part that Galois/Counter Mode has as well (NIST SP 800-38D, section 7.1): with a nonce of
96 zero bits it keeps the counters 0 and 1 for other uses, and encrypts from 2 on."""
SHORT_BYTES = 1 << 12
"""A mask of so many bytes takes no longer in counter mode, since one object is made for it and not two."""
ZEROS = bytes(CHUNK_BYTES)
THREADED_BYTES = 1 << 26
"""Of masks: fewer are there before threads are."""
KEYS_AT_ONCE = 64
"""So many ciphers are in memory at one time, some kilobytes each."""


def derive(secret: bytes, session: bytes, purpose: str) -> bytes:
    """A key of 32 bytes from a secret, another one for each session and purpose."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=session, info=b"permmoe secure sum 1\0" + purpose.encode()).derive(
        secret
    )


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def private_bytes(key: X25519PrivateKey) -> bytes:
    """The private half, 32 bytes."""
    return key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())


def agree(own: X25519PrivateKey, peer: bytes) -> bytes:
    """The secret that two keys share. Raises ValueError for a peer's key that is none."""
    return own.exchange(X25519PublicKey.from_public_bytes(peer))


def is_usable(peer: bytes) -> bool:
    """Whether a secret can be shared with this public key: with a few, of low order, every secret is zero."""
    try:
        agree(_any_key(), peer)
    except ValueError:
        return False
    return True


@cache
def _any_key() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


def add_mask(numbers: UInt[np.ndarray, " n"], key: bytes, *, is_added: bool = True) -> None:
    """Add a key's mask to numbers in place, modulo 2^32 or 2^64 as their type says; or take it away again."""
    add_masks(numbers, [(key, is_added)])


def add_masks(numbers: UInt[np.ndarray, " n"], keys: Sequence[tuple[bytes, bool]], threads: int = 1) -> None:
    """Add the masks of many keys to numbers in place, or take them away, as stands beside each key.

    `threads` share the keys where they are worth it, each with a vector of its own as long as `numbers`: modulo a power
    of two it makes no difference in which order numbers are added.
    """
    if threads == 1 or len(keys) * numbers.nbytes < THREADED_BYTES:
        _add_keys(numbers, keys)
        return

    def sum_of(some: Sequence[tuple[bytes, bool]]) -> UInt[np.ndarray, " n"]:
        own = np.zeros_like(numbers)
        _add_keys(own, some)
        return own

    # The interpreter's lock is free while a stream is made, and while it is added.
    with ThreadPoolExecutor(threads) as pool:
        for own in pool.map(sum_of, (keys[first::threads] for first in range(threads))):
            numbers += own


def _add_keys(numbers: UInt[np.ndarray, " n"], keys: Sequence[tuple[bytes, bool]]) -> None:
    """Do as `add_masks`.

    A long mask comes from Galois/Counter Mode, which OpenSSL computes with the widest instructions of a processor and
    its counter mode without them. The tag, with which the mode would authenticate a text, is never asked for.
    """
    head = 0 if numbers.nbytes <= SHORT_BYTES else HEAD_BYTES // numbers.itemsize
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = [
            (algorithms.AES(key), np.add if is_added else np.subtract) for key, is_added in keys[start:][:KEYS_AT_ONCE]
        ]
        _add_streams(
            numbers[: head or None], [(Cipher(aes, modes.CTR(bytes(16))).encryptor(), combine) for aes, combine in some]
        )
        if head:
            _add_streams(
                numbers[head:], [(Cipher(aes, modes.GCM(bytes(12))).encryptor(), combine) for aes, combine in some]
            )


def _add_streams(numbers: UInt[np.ndarray, " n"], streams: Sequence[tuple[CipherContext, np.ufunc]]) -> None:
    """Combine numbers, in place, with what each cipher makes of zeros.

    Chunk by chunk, so that a chunk stays in the processor's cache while all streams go by.
    """
    step = CHUNK_BYTES // numbers.itemsize
    buffer = bytearray(min(CHUNK_BYTES, numbers.nbytes))
    mask = np.frombuffer(buffer, numbers.dtype.newbyteorder("<"))
    for start in range(0, len(numbers), step):
        piece = numbers[start : start + step]
        zeros, of_piece = ZEROS[: piece.nbytes], mask[: len(piece)]
        for encryptor, combine in streams:
            encryptor.update_into(zeros, buffer)
            combine(piece, of_piece, out=piece)


def seal(key: bytes, content: bytes, context: bytes) -> bytes:
    """Encrypt for the one other holder of a key that is used once."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes | None:
    """What was sealed with this key in this context; None for anything else."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, context)
    except (InvalidTag, ValueError):
        return None
