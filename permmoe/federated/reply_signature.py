"""A hospital's signature of a reply: what came is what it sent, and answers the message that it came for.

A message's name is the SHA-256 of its bytes. These name its content by the SHA-256 that leads to every bit of it, the
message that it answers by that message's own name, and the run and the sender. So one signature of a name is valid for
one reply of one site to one message of one study, and for nothing else. Whoever carries messages can keep it back, and
neither make nor move one.

Bytes in, bytes out. Signatures are ECDSA on P-384 with SHA-384 (FIPS 186-5).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM = ec.ECDSA(hashes.SHA384())
PURPOSE = b"permmoe reply 1\0"
"""Signed before the name, so that no signature passes for one of another purpose. A signature that travels begins with
it, too, so that it is found among the objects of a message."""
SIGNATURE_BYTES = len(PURPOSE) + 104
"""The longest that a signature with P-384 is, as it travels."""


def sign_reply(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the signature of a reply of this name, as it travels."""
    return PURPOSE + key.sign(_signed_text(name), ALGORITHM)


def is_signature(thing: bytes) -> bool:
    """Whether an object that came is a signature; says nothing about whose."""
    return thing.startswith(PURPOSE)


def is_signed(name: str, signature: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether this key signed the reply of this name."""
    try:
        key.verify(signature.removeprefix(PURPOSE), _signed_text(name), ALGORITHM)
    except InvalidSignature:
        return False
    return True


def _signed_text(name: str) -> bytes:
    # "A signature is of one text": a digest has one length, so that nothing else begins as it does.
    return PURPOSE + bytes.fromhex(name)
