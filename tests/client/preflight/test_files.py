"""The files of the kit."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.preflight_hospital import (
    Hospital,
)
from tests.support.preflight_reports import wrong


def test_a_key_of_another_curve_is_refused(hospital: Hospital) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (hospital.folder / "node.key").write_bytes(pem)
    assert wrong(hospital.check()) == {"files.key"}
