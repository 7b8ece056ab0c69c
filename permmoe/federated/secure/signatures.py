"""Signatures of the secure sum: always of the same length, and never valid for another purpose."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM = ec.ECDSA(hashes.SHA256())
SIGNATURE_BYTES = 104
"""The longest that DER writes a signature with P-384."""
ADVERTISED, MASKED = b"permmoe secure advertisement 1\0", b"permmoe secure input 1\0"
"""Signed before the text, so that no signature passes for one of another purpose."""


def sign(key: ec.EllipticCurvePrivateKey, text: bytes) -> bytes:
    """A signature that zeros fill up to one length: DER's own varies by some bytes."""
    return key.sign(text, ALGORITHM).ljust(SIGNATURE_BYTES, b"\0")


def is_signature_of(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    """Whether the key signed the text."""
    try:
        # The second byte of DER is the length of what follows it.
        key.verify(signature[: 2 + signature[1]], text, ALGORITHM)
    except (InvalidSignature, IndexError):
        return False
    return len(signature) == SIGNATURE_BYTES
