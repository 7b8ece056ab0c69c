"""A hospital whose preflight finds nothing wrong, with a real TLS server on loopback; faults are made to it.

All visits and images are synthetic.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from permmoe.config import ModelConfig
from permmoe.data.volumes import grid_affine
from permmoe.federated.plan import RoundPlan
from permmoe.federated.roster import Roster, RosterSite, sign_roster
from permmoe.modality import Modality
from permmoe_client.preflight.report import Report
from permmoe_client.preflight.run import preflight
from permmoe_client.preflight.surroundings import Surroundings
from permmoe_server.provisioning.authority import Identity, issue_server, issue_site, new_authority, new_node_key
from tests.support.patience import PATIENCE_SECONDS

NAME = "north"
VISITS, T1_IMAGES, PET_IMAGES = 40, 7, 3
MODEL = ModelConfig(
    modalities=(
        Modality(name="t1"),
        Modality(name="pet", normalisation="suvr"),
        Modality(name="clinical", kind="tabular", columns=("a", "b", "c"), means=(0, 0, 0), deviations=(1, 1, 1)),
    ),
    grid={"shape": (12, 14, 12), "spacing_mm": 16.0},
    encoder={"cells": (6, 7, 6), "tabular_width": 5},
    width=8, heads=2, experts=5, top_k=2, expert_hidden=7, head_hidden=11,
)  # fmt: skip
STUDY = RoundPlan(name="synthetic study", model=MODEL)
GIB = 2**30
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Kit:
    """A federation's authority, its server's identity, and the key of the site."""

    authority: Identity
    server: Identity
    key: bytes
    public_key: str

    def roster(self, *names: str, own_key: str = "") -> Roster:
        """A roster of these sites; the key of this site is its own unless another is given."""
        keys = {name: new_node_key()[1].decode() for name in names} | {NAME: own_key or self.public_key}
        return Roster(
            federation="test", serial=3, sites=tuple(RosterSite(name=name, public_key=keys[name]) for name in names)
        )


def new_kit() -> Kit:
    authority = new_authority("test", NOW)
    private, public = new_node_key()
    return Kit(authority, issue_server(authority, "127.0.0.1", NOW, 365), private, public.decode())


def certificate(
    issuer: Identity, public_key: ec.EllipticCurvePublicKey, name: str, *, days: int = 365, host: str = "127.0.0.1",
    use: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> x509.Certificate:  # fmt: skip
    """A certificate with what the project's own authority would never issue."""
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW - timedelta(hours=1),
        not_valid_after=NOW + timedelta(days=days),
    )
    address = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False).sign(issuer.key, hashes.SHA384())


@dataclass
class Server:
    """A TLS server that answers every request alike."""

    port: int
    received: list[bytes] = field(default_factory=list)


@contextmanager
def serving(
    folder: Path, identity: Identity, client_authorities: tuple[Identity, ...], *,
    status: str = "200 OK", header: Callable[[], str] = lambda: "", maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Iterator[Server]:  # fmt: skip
    """Serve on a free port of loopback. Without client authorities no certificate is asked for. `header` is asked for
    each answer's own lines."""
    pem = folder / f"server-{id(identity)}.pem"
    pem.write_bytes(identity.key_pem + identity.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    pem.unlink()
    context.maximum_version = maximum
    if client_authorities:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata="".join(i.certificate_pem.decode() for i in client_authorities))
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])

    def answer_one(plain: socket.socket) -> None:
        with suppress(OSError), plain:
            plain.settimeout(PATIENCE_SECONDS)
            with context.wrap_socket(plain, server_side=True) as client:
                if request := _request(client):
                    server.received.append(request)
                    lines = f"HTTP/1.1 {status}\r\ncontent-length: 3\r\nconnection: close\r\n{header()}\r\nok\n"
                    client.sendall(lines.encode())

    def loop() -> None:
        with suppress(OSError):
            while True:
                answer_one(listener.accept()[0])

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        # Closing a listener does not wake who waits on it; shutting it down does.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_SECONDS)


def _request(client: socket.socket) -> bytes:
    """A whole request: who answers a part of one, and closes, may be heard by nobody."""
    request = b""
    while b"\r\n\r\n" not in request and (more := client.recv(65536)):
        request += more
    head, _, body = request.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length and (more := client.recv(65536)):
        body += more
    return request and head + b"\r\n\r\n" + body


def good_world() -> Surroundings:
    """A machine on which all is well, whatever machine the tests run on. Clock and sockets are real."""
    return Surroundings(
        environment={},
        memory_bytes=lambda: 64 * GIB,
        free_bytes=lambda _: 1000 * GIB,
        threads=lambda: 4,
        open_files=lambda: 1024,
        core_bytes=lambda: 0,
        umask=lambda: 0o077,
        user=lambda: 1000,
        owner=lambda _: 1000,
        is_clock_synchronised=lambda: True,
    )


@dataclass
class Hospital:
    """A site's folder and machine, to be spoilt."""

    folder: Path
    kit: Kit
    stack: ExitStack
    world: Surroundings = field(default_factory=good_world)
    model: ModelConfig | None = None

    @property
    def path(self) -> Path:
        return self.folder / "site.yaml"

    def check(self, **options: Any) -> Report:
        return preflight(self.path, world=self.world, model=self.model, **options)

    def machine(self, **changes: Any) -> None:
        self.world = replace(self.world, **changes)

    def settings(self, **changes: Any) -> None:
        """Change settings; a mapping changes entries of a part, None takes a setting out."""
        values = yaml.safe_load(self.path.read_text())
        for name, value in changes.items():
            if value is None:
                del values[name]
            elif isinstance(value, dict):
                values[name] = values.get(name, {}) | value
            else:
                values[name] = value
        self.path.write_text(yaml.safe_dump(values))

    def rows(self, change: Callable[[list[dict[str, str]]], list[dict[str, str]] | None]) -> None:
        """Change the manifest's rows, in place or for others."""
        file = self.folder / "manifest.csv"
        rows = list(csv.DictReader(file.read_text().splitlines()))
        rows = change(rows) or rows
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        file.write_text("\n".join(lines) + "\n")

    def column(self, name: str, value: str, rows: slice = slice(None)) -> None:
        """Write a value into a column of some rows."""

        def change(all_rows: list[dict[str, str]]) -> None:
            for row in all_rows[rows]:
                row[name] = value

        self.rows(change)

    def study(self, plan: RoundPlan) -> None:
        """A study that the coordinator began, and that nobody has decided about."""
        (self.folder / "ledger" / "pending" / f"{plan.digest()}.json").write_text(plan.canonical_json())

    def roster(self, roster: Roster, signer: Identity | None = None) -> None:
        (self.folder / "roster.signed.json").write_bytes(sign_roster(roster, (signer or self.kit.authority).key))

    def certificate(self, certificate: x509.Certificate) -> None:
        (self.folder / "site.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def site_key(self) -> ec.EllipticCurvePublicKey:
        key = serialization.load_ssh_public_key(self.kit.public_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def serve(
        self, identity: Identity | None = None, *authorities: Identity, asks: bool = True, **options: Any
    ) -> Server:
        """Another server than the good one."""
        believed = (authorities or (self.kit.authority,)) if asks else ()
        serving_ = serving(self.folder, identity or self.kit.server, believed, **options)
        server = self.stack.enter_context(serving_)
        self.settings(coordinator={"port": server.port})
        return server

    def server_of(self, **changes: Any) -> Identity:
        """An identity for a server, with a certificate that the authority would not issue."""
        key = ec.generate_private_key(ec.SECP384R1())
        settings = {"use": ExtendedKeyUsageOID.SERVER_AUTH, **changes}
        return Identity(key, certificate(self.kit.authority, key.public_key(), "server", **settings))

    def image(self, voxels: np.ndarray, name: str = "t1-0.nii") -> Path:
        path = self.folder / "images" / name
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), grid_affine(MODEL.grid)), path)
        return path


def subject(index: int) -> str:
    """Looks like an identifier, and like nothing else."""
    return f"SUBJ-{index:03d}-X"


SUBJECTS = [subject(i) for i in range(VISITS)]


def write_hospital(folder: Path, kit: Kit, port: int) -> None:
    """The good site's files."""
    rng = np.random.default_rng(5)
    folder.mkdir(mode=0o700)
    (folder / "images").mkdir()
    (folder / "ledger" / "pending").mkdir(parents=True)
    (folder / "ledger").chmod(0o700)
    lines = ["subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,t1,pet,a,b,c,split"]
    for i in range(VISITS):
        images = []
        for modality, count in (("t1", T1_IMAGES), ("pet", PET_IMAGES)):
            name = f"{modality}-{i}.nii" if i < count else ""
            images.append(f"images/{name}" if name else "")
            if name:
                voxels = rng.uniform(1, 2, MODEL.grid.shape).astype(np.float32)
                nib.save(nib.Nifti1Image(voxels, grid_affine(MODEL.grid)), folder / "images" / name)
        scores = [f"{rng.uniform(0.5, 4):.2f}", f"{rng.uniform(0, 3):.2f}", "24"]
        numbers = [f"{x:.3f}" for x in rng.normal(size=3)]
        lines.append(",".join([subject(i), "011", "bl", *scores, *images, *numbers, ""]))
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "ca.crt").write_bytes(kit.authority.certificate_pem)
    (folder / "site.crt").write_bytes(issue_site(kit.authority, NAME, kit.public_key, NOW))
    (folder / "roster.signed.json").write_bytes(sign_roster(kit.roster(NAME, "south", "west"), kit.authority.key))
    (folder / "node.key").write_bytes(kit.key)
    (folder / "node.key").chmod(0o600)
    (folder / "ledger" / "pending" / f"{STUDY.digest()}.json").write_text(STUDY.canonical_json())
    settings = {
        "name": NAME,
        "manifest": "manifest.csv",
        "cache": "cache",
        "ledger": "ledger",
        "state": "state",
        "logs": "logs",
        "device": "cpu",
        "approved_studies": [STUDY.digest()],
        "coordinator": {"host": "127.0.0.1", "port": port},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    (folder / "site.yaml").chmod(0o600)


def copy_hospital(template: Path, folder: Path) -> Path:
    """A copy with all modes and times."""
    copied = Path(shutil.copytree(template, folder, symlinks=True))
    os.utime(copied / "roster.signed.json")
    return copied
