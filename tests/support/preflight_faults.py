"""Faults of a hospital, each with the check that is for it and the verdict."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from ssl import TLSVersion

import numpy as np
import torch
from cryptography.x509.oid import ExtendedKeyUsageOID

from permmoe.config import Covariate, EncoderWeights, HarmonisationConfig, ModelConfig
from permmoe.encoder_weights import write_encoder_weights
from permmoe.model import PerMMoE
from permmoe_client.connection.identity import open_ledger
from permmoe_client.preflight.report import Verdict
from permmoe_client.preflight.run import CONFIGURATION
from permmoe_client.release.withdrawals import WithdrawalList
from permmoe_client.site import read_site
from permmoe_server.provisioning.authority import issue_server, issue_site, new_authority, new_node_key
from tests.support.connect_proxy import connect_proxy
from tests.support.patience import PATIENCE_SECONDS
from tests.support.preflight_hospital import (
    MODEL,
    NAME,
    NOW,
    STUDY,
    SUBJECTS,
    VISITS,
    Hospital,
    certificate,
    subject,
)

LICENCE = "CC-BY-4.0"


def garbage(name: str) -> Callable[[Hospital], None]:
    return lambda h: _overwrite(h.folder / name)


def _overwrite(file: Path) -> None:
    file.write_bytes(b"garbage")


def mode(name: str, bits: int) -> Callable[[Hospital], None]:
    return lambda h: (h.folder / name).chmod(bits)


def machine(**changes: object) -> Callable[[Hospital], None]:
    return lambda h: h.machine(**changes)


def settings(**changes: object) -> Callable[[Hospital], None]:
    return lambda h: h.settings(**changes)


def column(name: str, value: str, rows: slice = slice(None)) -> Callable[[Hospital], None]:
    return lambda h: h.column(name, value, rows)


def issued(name: str, days: int = 365) -> Callable[[Hospital], None]:
    return lambda h: h.certificate(certificate(h.kit.authority, h.site_key(), name, days=days))


def date(moment: datetime) -> str:
    return f"date: {moment:%a, %d %b %Y %H:%M:%S GMT}\r\n"


def _full_gpu(device: str) -> Callable[[Hospital], None]:
    def full(name: str) -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def fault(h: Hospital) -> None:
        h.settings(device=device)
        h.machine(compute=full)

    return fault


def _few_visits_to_train_on(h: Hospital) -> None:
    h.rows(lambda rows: rows[:21])
    for part, place in (("train", slice(0, 9)), ("validation", slice(9, 15)), ("test", slice(15, 21))):
        h.column("split", part, place)


def _roster_with_another_key(h: Hospital) -> None:
    h.roster(h.kit.roster(NAME, "south", own_key=new_node_key()[1].decode()))


def _key_in_open_folder(h: Hospital) -> None:
    (h.folder / "open").mkdir()
    (h.folder / "node.key").rename(h.folder / "open" / "node.key")
    (h.folder / "open").chmod(0o777)
    h.settings(coordinator={"key": "open/node.key"})


def _certificate_of_another_key(h: Hospital) -> None:
    (h.folder / "site.crt").write_bytes(issue_site(h.kit.authority, NAME, new_node_key()[1].decode(), NOW))


def _kit_of_long_ago(h: Hospital) -> None:
    # Its server's certificate is newer: only the site's own files are old.
    then = NOW - timedelta(days=400)
    (h.folder / "site.crt").write_bytes(issue_site(h.kit.authority, NAME, h.kit.public_key, then))
    os.utime(h.folder / "roster.signed.json", (0, 0))


def _open_folder(setting: str) -> Callable[[Hospital], object]:
    def make(h: Hospital) -> None:
        (h.folder / setting).mkdir()
        (h.folder / setting).chmod(0o755)
        h.settings(**{setting: setting})

    return make


def _study_over_36_months(h: Hospital) -> None:
    study = STUDY.model_copy(update={"horizon_months": 36.0})
    h.study(study)
    h.settings(approved_studies=[STUDY.digest(), study.digest()])


def _study_that_adjusts_images_for_a_column_that_is_away(h: Hospital) -> None:
    sex = Covariate(column="PTGENDER", mean=1.5, deviation=0.5)
    model = STUDY.model.model_copy(update={"harmonisation": HarmonisationConfig(covariates=(sex,))})
    federation = STUDY.federation.model_copy(update={"harmonising_round": True})
    study = STUDY.model_copy(update={"model": model, "federation": federation})
    for pending in (h.folder / "ledger" / "pending").iterdir():
        pending.unlink()
    h.study(study)
    h.settings(approved_studies=[study.digest()])


def names_encoders(h: Hospital, of: ModelConfig = MODEL, *, licence: str = LICENCE, is_approved: bool = True) -> Path:
    """A study that begins with encoders of a file, which the hospital has in its folder of such files."""
    file = h.folder / "weights" / "scans.safetensors"
    digest = write_encoder_weights(PerMMoE(of), file, licence=LICENCE, source="invented patients")
    named = EncoderWeights(file=file.name, sha256=digest, licence=licence)
    encoder = MODEL.encoder.model_copy(update={"weights": named})
    study = STUDY.model_copy(update={"model": MODEL.model_copy(update={"encoder": encoder})})
    h.study(study)
    h.settings(weights="weights", approved_studies=[STUDY.digest(), *([study.digest()] if is_approved else [])])
    return file


def _without_the_file_of_encoders(h: Hospital) -> None:
    names_encoders(h).unlink()


def _no_folder_of_encoders(h: Hospital) -> None:
    names_encoders(h)
    h.settings(weights=None)


def _another_file_of_encoders(h: Hospital) -> None:
    _overwrite(names_encoders(h))


def _prepares_images_into(folder: str) -> Callable[[Hospital], object]:
    """With tables alone, so that there is nothing to prepare for a try."""

    def make(h: Hospital) -> None:
        h.column("t1", "")
        h.column("pet", "")
        h.settings(prepare={"folder": folder})

    return make


def _open_folder_of_prepared_images(h: Hospital) -> None:
    _prepares_images_into("prepared")(h)
    (h.folder / "prepared").mkdir()
    (h.folder / "prepared").chmod(0o755)


def _another_flower(h: Hospital) -> None:
    installed = h.world.installed
    h.machine(installed=lambda name: "1.40.0" if name == "flwr" else installed(name))


def _certificate_of_another_authority(h: Hospital) -> None:
    other = new_authority("another", NOW)
    h.certificate(certificate(other, h.site_key(), NAME))
    h.serve(None, h.kit.authority, other)


def _certificate_of_a_server(h: Hospital) -> None:
    h.certificate(certificate(h.kit.authority, h.site_key(), NAME, use=ExtendedKeyUsageOID.SERVER_AUTH))
    h.serve(asks=False)


def _no_such_host(host: str, port: int) -> tuple[str, ...]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _refusing(host: str, port: int, seconds: float) -> socket.socket:
    raise ConnectionRefusedError(111, "Connection refused")


def _plain_server(h: Hospital) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                with suppress(OSError), client:
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    client.recv(65536)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    h.stack.callback(thread.join, PATIENCE_SECONDS)
    h.stack.callback(listener.close)
    h.stack.callback(listener.shutdown, socket.SHUT_RDWR)
    h.settings(coordinator={"port": listener.getsockname()[1]})


def _inspecting_proxy(h: Hospital) -> None:
    proxy = new_authority("Inspection Authority", NOW)
    h.serve(issue_server(proxy, "127.0.0.1", NOW, 365), asks=False)


def _proxy_that_asks_for_a_password(h: Hospital) -> None:
    proxy = h.stack.enter_context(connect_proxy(407))
    h.settings(coordinator={"proxy": proxy.url})


def _late(h: Hospital) -> None:
    """Sixty days before the authority ends, all else new."""
    authority = h.kit.authority
    now = authority.certificate.not_valid_after_utc - timedelta(days=60)
    os.utime(h.folder / "roster.signed.json", (now.timestamp(), now.timestamp()))
    h.serve(issue_server(authority, "127.0.0.1", NOW, 3650))
    h.machine(now=lambda: now)


def _raw_images_that_cannot_be_prepared(h: Hospital) -> None:
    h.settings(prepare={"folder": "prepared"})
    for image in h.folder.rglob("*.nii*"):
        image.write_bytes(image.read_bytes()[:500])


def _truncated(h: Hospital) -> None:
    file = h.folder / "images" / "t1-0.nii"
    file.write_bytes(file.read_bytes()[:1000])


def _two_frames(h: Hospital) -> None:
    h.image(np.ones((*MODEL.grid.shape, 2)))


def _flat_voxels(h: Hospital) -> None:
    """Zero width: the first row of the header's affine (NIfTI-1, srow_x at byte 280)."""
    file = h.folder / "images" / "t1-0.nii"
    content = bytearray(file.read_bytes())
    content[280:296] = bytes(16)
    file.write_bytes(content)


def _zeros(h: Hospital) -> None:
    h.image(np.zeros(MODEL.grid.shape))


def _one_image_of_another_kind(h: Hospital) -> None:
    """Every subject has a T1, and one of them is a gradient instead of noise."""
    rng = np.random.default_rng(0)
    for i in range(VISITS):
        h.image(rng.uniform(1, 2, MODEL.grid.shape), f"t1-{i}.nii")
    h.image(np.linspace(1, 2, np.prod(MODEL.grid.shape)).reshape(MODEL.grid.shape), "t1-3.nii")
    for i in range(VISITS):
        h.column("t1", f"images/t1-{i}.nii", slice(i, i + 1))


def _modality_without_visit(h: Hospital) -> None:
    h.column("pet", "")
    h.settings(modalities=["t1", "pet", "clinical"])


def _no_visit_with_the_only_modality(h: Hospital) -> None:
    h.column("pet", "")
    h.settings(modalities=["pet"])


def repeated_subjects(h: Hospital) -> None:
    h.column("subject_id", subject(5), slice(0, 3))


def _without_study(h: Hospital) -> None:
    (h.folder / "ledger" / "pending" / f"{STUDY.digest()}.json").unlink()
    h.settings(approved_studies=[])
    h.model = MODEL


def _another_study(h: Hospital) -> None:
    plan = STUDY.model_copy(update={"name": "another"})
    (h.folder / "ledger" / "pending" / f"{plan.digest()}.json").write_text(plan.canonical_json())


def _study_under_a_false_name(h: Hospital) -> None:
    plan = STUDY.model_copy(update={"name": "another"})
    (h.folder / "ledger" / "pending" / f"{'0' * 64}.json").write_text(plan.canonical_json())


def _withdrawals(h: Hospital) -> WithdrawalList:
    ledger = open_ledger(read_site(h.path))
    assert ledger
    return WithdrawalList(ledger)


def _without_the_list_of_withdrawn(h: Hospital) -> None:
    _withdrawals(h).add([subject(3)])
    next((h.folder / "ledger").glob("withdrawn-*.json")).unlink()


def _missing_column(h: Hospital) -> None:
    file = h.folder / "manifest.csv"
    file.write_text(file.read_text().replace(",pet,", ",positron,", 1))


def _two_tracers(h: Hospital) -> None:
    h.column("pet_tracer", "AV1451")
    h.column("pet_tracer", "MK6240", slice(0, 1))


def _a_tracer_that_the_study_does_not_list(h: Hospital) -> None:
    h.column("pet_tracer", "AV1451")
    listed = [m.model_copy(update={"tracers": ("MK6240",)}) if m.name == "pet" else m for m in MODEL.modalities]
    h.model = MODEL.model_copy(update={"modalities": tuple(listed)})


WARNS, FAILS = Verdict.WARNING, Verdict.FAILED


FAULTS: list[tuple[str, Verdict, Callable[[Hospital], object]]] = [
    (CONFIGURATION, FAILS, settings(modalitys=["t1"])),
    ("files.settings_mode", FAILS, mode("site.yaml", 0o662)),
    ("files.key", FAILS, garbage("node.key")),
    ("files.key", FAILS, lambda h: (h.folder / "node.key").unlink()),
    ("files.key_mode", FAILS, mode("node.key", 0o640)),
    ("files.key_owner", WARNS, machine(owner=lambda _: 7)),
    ("files.key_folder", FAILS, _key_in_open_folder),
    ("files.certificate", FAILS, garbage("site.crt")),
    ("files.pair", FAILS, _certificate_of_another_key),
    ("files.authority", FAILS, garbage("ca.crt")),
    ("files.roster", FAILS, lambda h: (h.folder / "roster.signed.json").unlink()),
    ("files.cache", FAILS, settings(cache="manifest.csv")),
    ("files.cache_mode", FAILS, _open_folder("cache")),
    ("files.cache_space", FAILS, machine(free_bytes=lambda folder: 10**12 if folder.name == "ledger" else 1000)),
    ("files.prepared", FAILS, _prepares_images_into("manifest.csv/prepared")),
    ("files.prepared_mode", FAILS, _open_folder_of_prepared_images),
    ("files.ledger", FAILS, machine(is_writable=lambda folder: folder.name != "ledger")),
    ("files.ledger_mode", FAILS, mode("ledger", 0o770)),
    ("files.ledger_space", FAILS, machine(free_bytes=lambda folder: 10**12 if folder.name != "ledger" else 1000)),
    ("files.state", FAILS, settings(state="manifest.csv/state")),
    ("files.state_mode", FAILS, _open_folder("state")),
    ("files.logs", FAILS, settings(logs="manifest.csv/logs")),
    ("files.health_socket", FAILS, settings(health_socket="s" * 110)),
    ("files.health_socket", FAILS, settings(health_socket="absent/health.sock")),
    ("machine.python", FAILS, machine(python=lambda: "3.9.1")),
    ("machine.packages", FAILS, _another_flower),
    ("machine.packages", FAILS, machine(installed=lambda _: None)),
    ("machine.memory", WARNS, machine(memory_bytes=lambda: 10**9)),
    ("machine.threads", WARNS, settings(threads=5)),
    ("machine.device", FAILS, settings(device="abacus")),
    ("machine.device", FAILS, _full_gpu("cuda")),
    ("machine.device", WARNS, _full_gpu("auto")),
    ("machine.account", WARNS, machine(user=lambda: 0, owner=lambda _: 0)),
    ("machine.umask", WARNS, machine(umask=lambda: 0o002)),
    ("machine.core_dumps", WARNS, machine(core_bytes=lambda: -1)),
    ("machine.open_files", WARNS, machine(open_files=lambda: 100)),
    ("machine.clock_plausible", FAILS, machine(now=lambda: NOW - timedelta(days=1))),
    ("machine.clock", WARNS, machine(is_clock_synchronised=lambda: False)),
    ("machine.clock", FAILS, lambda h: h.serve(header=lambda: date(NOW - timedelta(hours=1)))),
    ("federation.settings", WARNS, settings(coordinator=None)),
    ("federation.host", FAILS, settings(coordinator={"host": "https://127.0.0.1"})),
    ("federation.roster", FAILS, lambda h: h.roster(h.kit.roster(NAME, "south"), new_authority("test", NOW))),
    ("federation.roster_age", WARNS, _kit_of_long_ago),
    ("federation.member", FAILS, lambda h: h.roster(h.kit.roster("south", "west"))),
    ("federation.member_key", FAILS, _roster_with_another_key),
    ("federation.peers", WARNS, lambda h: h.roster(h.kit.roster(NAME))),
    ("federation.certificate_issuer", FAILS, _certificate_of_another_authority),
    ("federation.certificate_name", FAILS, issued("south")),
    ("federation.certificate_use", FAILS, _certificate_of_a_server),
    ("network.proxy", FAILS, _proxy_that_asks_for_a_password),
    ("network.resolves", FAILS, machine(resolve=_no_such_host)),
    ("network.connects", FAILS, machine(connect=_refusing)),
    ("network.speaks_tls", FAILS, _plain_server),
    ("network.issuer", FAILS, _inspecting_proxy),
    ("network.server_name", FAILS, lambda h: h.serve(h.server_of(host="other.example"))),
    ("network.server_expiry", WARNS, lambda h: h.serve(h.server_of(days=10))),
    ("network.server_expiry", FAILS, lambda h: h.serve(h.server_of(days=0), asks=False)),
    ("network.site_expiry", WARNS, issued(NAME, days=20)),
    ("network.site_expiry", FAILS, issued(NAME, days=0)),
    ("network.authority_expiry", WARNS, _late),
    ("network.proves_itself", FAILS, lambda h: h.serve(h.server_of(use=ExtendedKeyUsageOID.CLIENT_AUTH))),
    ("network.tls_version", WARNS, lambda h: h.serve(maximum=TLSVersion.TLSv1_2)),
    ("network.admitted", FAILS, lambda h: h.serve(None, new_authority("another", NOW))),
    ("network.admitted", FAILS, lambda h: h.serve(status="403 Forbidden")),
    ("network.health", FAILS, lambda h: h.serve(status="503 Service Unavailable")),
    ("data.source", FAILS, settings(manifest="absent.csv")),
    ("data.source", FAILS, settings(manifest=None, folders={"tables": "absent", "images": "images"})),
    ("data.outcome", FAILS, settings(outcome={"name": "MMSE", "baseline": "mmse", "change": "mmse_change"})),
    ("data.columns", FAILS, _missing_column),
    ("data.columns", WARNS, _study_that_adjusts_images_for_a_column_that_is_away),
    ("data.unique_subjects", FAILS, repeated_subjects),
    ("data.split_names", FAILS, column("split", SUBJECTS[3], slice(0, 1))),
    ("data.readable", FAILS, column("horizon_months", "36", slice(0, 1))),
    ("data.visits", FAILS, _no_visit_with_the_only_modality),
    ("data.targets", WARNS, column("delta_cdrsb", "", slice(-22, None))),
    ("data.targets", FAILS, column("delta_cdrsb", "")),
    ("data.left_out", WARNS, column("b", "high", slice(9, 10))),
    ("data.scores", WARNS, column("baseline_cdrsb", "25", slice(0, 1))),
    ("data.scores", WARNS, column("delta_cdrsb", "-19", slice(0, 1))),
    ("data.files", FAILS, column("t1", "images/away.nii")),
    ("data.files", WARNS, column("t1", f"images/{SUBJECTS[9]}.nii", slice(9, 10))),
    ("data.horizon", WARNS, column("horizon_months", "2")),
    ("data.horizon", FAILS, _study_over_36_months),
    ("data.label_spread", WARNS, column("delta_cdrsb", "1")),
    ("data.tabular_units", WARNS, column("b", "1000", slice(0, 1))),
    ("data.modality_names", FAILS, settings(modalities=["t1", "pett", "clinical"])),
    ("data.modality_counts", WARNS, _modality_without_visit),
    ("data.combinations", WARNS, settings(release={"min_cell_count": 39})),
    ("data.splits", FAILS, column("split", "train", slice(0, 9))),
    ("data.splits", FAILS, column("split", "test")),
    ("data.splits", WARNS, column("split", "train")),
    ("data.training_size", WARNS, _few_visits_to_train_on),
    ("data.synthetic", WARNS, lambda h: (h.folder / "dataset_description.json").write_text('{"SYNTHETIC": true}')),
    ("data.image_files", WARNS, _truncated),
    ("data.image_shapes", WARNS, _two_frames),
    ("data.image_places", WARNS, _flat_voxels),
    ("data.image_values", WARNS, _zeros),
    ("data.image_likeness", WARNS, _one_image_of_another_kind),
    ("data.preparation", WARNS, _raw_images_that_cannot_be_prepared),
    ("data.tracers", WARNS, _two_tracers),
    ("data.tracers", WARNS, _a_tracer_that_the_study_does_not_list),
    ("studies.digests", FAILS, settings(approved_studies=[STUDY.digest(), STUDY.digest()[:12]])),
    ("studies.approved", WARNS, _without_study),
    ("studies.waiting", WARNS, _another_study),
    ("studies.whole", WARNS, _study_under_a_false_name),
    ("studies.whole", WARNS, lambda h: (h.folder / "ledger" / "pending" / "x.json").write_text("{")),
    ("studies.encoders", FAILS, _without_the_file_of_encoders),
    ("studies.encoders", FAILS, _no_folder_of_encoders),
    ("studies.encoders", FAILS, _another_file_of_encoders),
    ("studies.encoders", FAILS, lambda h: names_encoders(h, MODEL.model_copy(update={"width": 16}))),
    ("studies.encoders", FAILS, lambda h: names_encoders(h, licence="CC0-1.0")),
    ("studies.withdrawn", FAILS, _without_the_list_of_withdrawn),
    ("studies.withdrawn", WARNS, lambda h: _withdrawals(h).add([], is_whole_site=True)),
    ("studies.modules", FAILS, settings(release={"modules": ["decoder/*"]})),
    ("studies.patterns", WARNS, settings(release={"modules": ["encoder/*", "decoder/*"]})),
    ("studies.min_cell_count", WARNS, settings(release={"min_cell_count": 1})),
    ("studies.daily_bytes", FAILS, settings(release={"daily_bytes": 1000})),
]  # fmt: skip
