"""Keys, masks and envelopes of the secure sum, composed of a library's primitives; no I/O.

Key agreement: X25519 (RFC 7748) and HKDF-SHA-256 (RFC 5869). Masks: AES-256 in counter mode, each with a key of its
own, so that the counter starts at zero. Envelopes between sites: ChaCha20-Poly1305 (RFC 8439), a key for each message.
"""

from __future__ import annotations

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import UInt

KEY_BYTES = 32
SEED_BYTES = 16
TAG_BYTES = 16
"""What is sealed is so much longer than its content."""
CHUNK_BYTES = 1 << 18
"""The size of the chunks in which a mask is made, small enough for the processor's cache."""
ZEROS = bytes(CHUNK_BYTES)


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
        agree(X25519PrivateKey.generate(), peer)
    except ValueError:
        return False
    return True


def add_mask(numbers: UInt[np.ndarray, " n"], key: bytes, *, is_added: bool = True) -> None:
    """Add a key's mask to numbers in place, modulo 2^32 or 2^64 as their type says; or take it away again."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    step = CHUNK_BYTES // numbers.itemsize
    buffer = bytearray(CHUNK_BYTES)
    mask = np.frombuffer(buffer, numbers.dtype.newbyteorder("<"))
    combine = np.add if is_added else np.subtract
    for start in range(0, len(numbers), step):
        piece = numbers[start : start + step]
        encryptor.update_into(ZEROS[: piece.nbytes], buffer)
        combine(piece, mask[: len(piece)], out=piece)


def seal(key: bytes, content: bytes, context: bytes) -> bytes:
    """Encrypt for the one other holder of a key that is used once."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes | None:
    """What was sealed with this key in this context; None for anything else."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, context)
    except (InvalidTag, ValueError):
        return None
