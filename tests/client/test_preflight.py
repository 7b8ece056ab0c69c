"""The preflight of a site: a good one passes, and each fault is found by the check that is for it and by no other."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from ssl import TLSVersion

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from rich.console import Console

from permmoe.config import ModelConfig
from permmoe.data.adni import PTID
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.modality import ADNI_MODALITIES
from permmoe_client.preflight.report import Report, Verdict
from permmoe_client.preflight.run import CHECKS, CONFIGURATION, preflight
from permmoe_server.gateway.door import make_gateway, make_server
from permmoe_server.provisioning.authority import issue_server, issue_site, new_authority, new_node_key
from permmoe_server.settings import GatewayLimits
from tests.support.preflight_hospital import (
    MODEL,
    NAME,
    NOW,
    STUDY,
    VISITS,
    Hospital,
    Kit,
    certificate,
    copy_hospital,
    new_kit,
    serving,
    subject,
    write_hospital,
)

SUBJECTS = [subject(i) for i in range(VISITS)]
IDS = [CONFIGURATION, *(check.id for check in CHECKS)]


@pytest.fixture(scope="module")
def kit() -> Kit:
    return new_kit()


@pytest.fixture(scope="module")
def template(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("preflight")
    with serving(folder, kit.server, (kit.authority,)) as server:
        write_hospital(folder / "good", kit, server.port)
        yield folder / "good"


@pytest.fixture
def hospital(template: Path, kit: Kit, tmp_path: Path) -> Iterator[Hospital]:
    with ExitStack() as stack:
        yield Hospital(copy_hospital(template, tmp_path / "site"), kit, stack)


def shown(report: Report, *, with_items: bool = False) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(report.to_table(with_items=with_items))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def wrong(report: Report) -> set[str]:
    return {f.check for f in report.findings if f.verdict in (Verdict.WARNING, Verdict.FAILED)}


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


def issued(name: str, **changes: int) -> Callable[[Hospital], None]:
    return lambda h: h.certificate(certificate(h.kit.authority, h.site_key(), name, **changes))


def date(moment: datetime) -> str:
    return f"date: {moment:%a, %d %b %Y %H:%M:%S GMT}\r\n"


def _roster_with_another_key(h: Hospital) -> None:
    h.roster(h.kit.roster(NAME, "south", own_key=new_node_key()[1].decode()))


def _key_in_open_folder(h: Hospital) -> None:
    (h.folder / "open").mkdir()
    (h.folder / "node.key").rename(h.folder / "open" / "node.key")
    (h.folder / "open").chmod(0o777)
    h.settings(coordinator={"key": "open/node.key"})


def _certificate_of_another_key(h: Hospital) -> None:
    (h.folder / "site.crt").write_bytes(issue_site(h.kit.authority, NAME, new_node_key()[1].decode(), NOW))


def _open_cache(h: Hospital) -> None:
    (h.folder / "cache").mkdir()
    (h.folder / "cache").chmod(0o755)


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
    h.stack.callback(thread.join, 20)
    h.stack.callback(listener.close)
    h.stack.callback(listener.shutdown, socket.SHUT_RDWR)
    h.settings(coordinator={"port": listener.getsockname()[1]})


def _inspecting_proxy(h: Hospital) -> None:
    proxy = new_authority("Inspection Authority", NOW)
    h.serve(issue_server(proxy, "127.0.0.1", NOW, 365), asks=False)


def _late(h: Hospital) -> None:
    """Sixty days before the authority ends, all else new."""
    authority = h.kit.authority
    now = authority.certificate.not_valid_after_utc - timedelta(days=60)
    os.utime(h.folder / "roster.signed.json", (now.timestamp(), now.timestamp()))
    h.serve(issue_server(authority, "127.0.0.1", NOW, 3650))
    h.machine(now=lambda: now)


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


def _modality_without_visit(h: Hospital) -> None:
    h.column("pet", "")
    h.settings(modalities=["t1", "pet", "clinical"])


def _no_visit_with_the_only_modality(h: Hospital) -> None:
    h.column("pet", "")
    h.settings(modalities=["pet"])


def _repeated(h: Hospital) -> None:
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


def _missing_column(h: Hospital) -> None:
    file = h.folder / "manifest.csv"
    file.write_text(file.read_text().replace(",pet,", ",positron,", 1))


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
    ("files.cache_mode", FAILS, _open_cache),
    ("files.cache_space", FAILS, machine(free_bytes=lambda folder: 10**12 if folder.name == "ledger" else 1000)),
    ("files.ledger", FAILS, machine(is_writable=lambda folder: folder.name != "ledger")),
    ("files.ledger_mode", FAILS, mode("ledger", 0o770)),
    ("files.ledger_space", FAILS, machine(free_bytes=lambda folder: 10**12 if folder.name != "ledger" else 1000)),
    ("files.logs", FAILS, settings(logs="manifest.csv/logs")),
    ("files.health_socket", FAILS, settings(health_socket="s" * 110)),
    ("files.health_socket", FAILS, settings(health_socket="absent/health.sock")),
    ("machine.python", FAILS, machine(python=lambda: "3.9.1")),
    ("machine.packages", FAILS, _another_flower),
    ("machine.packages", FAILS, machine(installed=lambda _: None)),
    ("machine.memory", WARNS, machine(memory_bytes=lambda: 10**9)),
    ("machine.threads", WARNS, settings(threads=5)),
    ("machine.device", FAILS, settings(device="abacus")),
    ("machine.account", WARNS, machine(user=lambda: 0, owner=lambda _: 0)),
    ("machine.umask", WARNS, machine(umask=lambda: 0o002)),
    ("machine.core_dumps", WARNS, machine(core_bytes=lambda: -1)),
    ("machine.open_files", WARNS, machine(open_files=lambda: 100)),
    ("machine.clock_plausible", FAILS, machine(now=lambda: NOW - timedelta(days=1))),
    ("machine.clock", WARNS, machine(is_clock_synchronised=lambda: False)),
    ("machine.clock", FAILS, lambda h: h.serve(header=date(NOW - timedelta(hours=1)))),
    ("federation.settings", WARNS, settings(coordinator=None)),
    ("federation.host", FAILS, settings(coordinator={"host": "https://127.0.0.1"})),
    ("federation.roster", FAILS, lambda h: h.roster(h.kit.roster(NAME, "south"), new_authority("test", NOW))),
    ("federation.roster_age", WARNS, lambda h: os.utime(h.folder / "roster.signed.json", (0, 0))),
    ("federation.member", FAILS, lambda h: h.roster(h.kit.roster("south", "west"))),
    ("federation.member_key", FAILS, _roster_with_another_key),
    ("federation.peers", WARNS, lambda h: h.roster(h.kit.roster(NAME))),
    ("federation.certificate_issuer", FAILS, _certificate_of_another_authority),
    ("federation.certificate_name", FAILS, issued("south")),
    ("federation.certificate_use", FAILS, _certificate_of_a_server),
    ("network.proxy", WARNS, machine(environment={"HTTPS_PROXY": "http://p.example:3128"})),
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
    ("data.columns", FAILS, _missing_column),
    ("data.unique_subjects", FAILS, _repeated),
    ("data.split_names", FAILS, column("split", SUBJECTS[3], slice(0, 1))),
    ("data.readable", FAILS, column("horizon_months", "36", slice(0, 1))),
    ("data.visits", FAILS, _no_visit_with_the_only_modality),
    ("data.targets", WARNS, column("delta_cdrsb", "", slice(-22, None))),
    ("data.targets", FAILS, column("delta_cdrsb", "")),
    ("data.left_out", WARNS, column("b", "high", slice(9, 10))),
    ("data.scores", WARNS, column("baseline_cdrsb", "25", slice(0, 1))),
    ("data.scores", WARNS, column("delta_cdrsb", "-19", slice(0, 1))),
    ("data.files", WARNS, column("t1", f"images/{SUBJECTS[9]}.nii", slice(9, 10))),
    ("data.horizon", WARNS, column("horizon_months", "2")),
    ("data.label_spread", WARNS, column("delta_cdrsb", "1")),
    ("data.tabular_units", WARNS, column("b", "1000", slice(0, 1))),
    ("data.modality_names", FAILS, settings(modalities=["t1", "pett", "clinical"])),
    ("data.modality_counts", WARNS, _modality_without_visit),
    ("data.combinations", WARNS, settings(release={"min_cell_count": 39})),
    ("data.splits", FAILS, column("split", "train", slice(0, 9))),
    ("data.splits", FAILS, column("split", "test")),
    ("data.splits", WARNS, column("split", "train")),
    ("data.training_size", WARNS, lambda h: h.rows(lambda rows: rows[:14])),
    ("data.synthetic", WARNS, lambda h: (h.folder / "dataset_description.json").write_text('{"SYNTHETIC": true}')),
    ("data.image_files", WARNS, _truncated),
    ("data.image_shapes", WARNS, _two_frames),
    ("data.image_places", WARNS, _flat_voxels),
    ("data.image_values", WARNS, _zeros),
    ("studies.digests", FAILS, settings(approved_studies=[STUDY.digest(), STUDY.digest()[:12]])),
    ("studies.approved", WARNS, _without_study),
    ("studies.waiting", WARNS, _another_study),
    ("studies.whole", WARNS, _study_under_a_false_name),
    ("studies.whole", WARNS, lambda h: (h.folder / "ledger" / "pending" / "x.json").write_text("{")),
    ("studies.modules", FAILS, settings(release={"modules": ["decoder/*"]})),
    ("studies.patterns", WARNS, settings(release={"modules": ["encoder/*", "decoder/*"]})),
    ("studies.min_cell_count", WARNS, settings(release={"min_cell_count": 1})),
    ("studies.daily_bytes", FAILS, settings(release={"daily_bytes": 1000})),
]  # fmt: skip


def test_a_good_site_passes_every_check(hospital: Hospital) -> None:
    report = hospital.check()
    assert [(f.check, f.detail) for f in report.findings if f.verdict is not Verdict.OK] == []
    assert len(report.findings) >= 40 and report.exit_code == 0
    assert [f.check for f in report.findings] == IDS and not any(f.remedy for f in report.findings)
    assert shown(report).rstrip().endswith(f"All {len(IDS)} checks passed: this site can take part.")


def test_every_check_has_a_fault_that_it_is_for() -> None:
    assert {check for check, _, _ in FAULTS} == set(IDS)
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize(
    ("check", "verdict", "fault"), FAULTS, ids=[f"{check}-{i}" for i, (check, _, _) in enumerate(FAULTS)]
)
def test_a_fault_is_found_by_its_check_alone_and_names_no_subject(
    check: str, verdict: Verdict, fault: Callable[[Hospital], object], hospital: Hospital
) -> None:
    fault(hospital)
    report = hospital.check()
    assert {(f.check, f.verdict) for f in report.findings if f.check in wrong(report)} == {(check, verdict)}
    found = next(f for f in report.findings if f.check == check)
    assert found.detail and found.remedy and found.remedy.splitlines()[0] in shown(report)
    assert report.exit_code == {Verdict.WARNING: 1, Verdict.FAILED: 2}[verdict]
    for text in (report.to_json(), shown(report)):
        assert not [name for name in SUBJECTS if name in text]


def test_json_is_for_machines_and_has_the_same_keys_whatever_was_found(hospital: Hospital) -> None:
    good = json.loads(hospital.check().to_json())
    hospital.settings(threads=5)
    bad = json.loads(hospital.check().to_json())
    assert list(good) == list(bad) == ["format", "worst", "exit_code", "counts", "findings"]
    keys = {tuple(finding) for report in (good, bad) for finding in report["findings"]}
    assert keys == {("check", "topic", "title", "verdict", "detail", "remedy")}
    assert (good["format"], good["worst"], bad["worst"], bad["exit_code"]) == (1, "ok", "warning", 1)
    assert bad["counts"] == {"ok": len(IDS) - 1, "warning": 1, "failed": 0, "skipped": 0}


def test_subjects_are_named_on_request_only(hospital: Hospital) -> None:
    _repeated(hospital)
    report = hospital.check()
    assert subject(5) in report.to_json(with_items=True) and subject(5) in shown(report, with_items=True)
    assert subject(5) not in report.to_json() + shown(report)


def test_offline_asks_nothing_of_the_network(hospital: Hospital) -> None:
    def reach(*_: object) -> None:
        raise AssertionError("the network was asked")

    hospital.machine(resolve=reach, connect=reach)
    report = hospital.check(offline=True)
    skipped = {f.check: f.detail for f in report.findings if f.verdict is Verdict.SKIPPED}
    assert {"network.resolves", "network.issuer", "network.health"} < skipped.keys() and report.exit_code == 0
    assert all(check.startswith("network.") for check in skipped)
    assert set(skipped.values()) == {"nothing is asked of the network while offline"}


def test_a_check_changes_no_file(hospital: Hospital) -> None:
    def state() -> dict[str, tuple[int, int, bytes]]:
        return {
            str(p): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
            for p in sorted(hospital.folder.rglob("*"))
        }

    before = state()
    hospital.check()
    assert state() == before
    assert stat.S_IMODE((hospital.folder / "node.key").stat().st_mode) == 0o600


def test_an_impostor_is_named_and_sent_nothing(hospital: Hospital) -> None:
    impostor = new_authority("Inspection Authority", NOW)
    server = hospital.serve(issue_server(impostor, "127.0.0.1", NOW, 365), asks=False)
    found = {f.check: f for f in hospital.check().findings}
    assert "'Inspection Authority'" in found["network.issuer"].detail and "inspect" in found["network.issuer"].detail
    assert found["network.health"].verdict is Verdict.SKIPPED and server.received == []


def test_a_founded_anew_federation_is_told_from_a_proxy(hospital: Hospital) -> None:
    name = hospital.kit.authority.certificate.subject.rfc4514_string().removeprefix("CN=")
    hospital.serve(issue_server(new_authority(name, NOW), "127.0.0.1", NOW, 365), asks=False)
    assert "founded anew" in next(f.remedy for f in hospital.check().findings if f.check == "network.issuer")


def test_the_model_is_that_of_the_approved_study_or_the_default(hospital: Hospital) -> None:
    assert wrong(hospital.check(offline=True)) == set()
    hospital.settings(approved_studies=["0" * 64])
    report = hospital.check(offline=True)
    missing = next(f.detail for f in report.findings if f.check == "data.columns")
    assert wrong(report) == {"data.columns", "studies.waiting"}
    assert all(name in missing for name in set(ModelConfig().names) - {"t1"})


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"- a\n- b\n", b"name: [", b"? [a]\n: b\n", b"name: north\n", b"a: &a [*a]\n", b"{" * 3000],
)
def test_settings_that_cannot_be_read_are_a_finding_and_all_else_is_skipped(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    report = preflight(path, offline=True)
    assert report.findings[0].check == CONFIGURATION and report.findings[0].verdict is Verdict.FAILED
    assert {f.verdict for f in report.findings[1:]} == {Verdict.SKIPPED} and report.exit_code == 2
    assert [f.check for f in report.findings] == IDS


def test_a_table_of_patients_named_as_settings_is_not_quoted(hospital: Hospital) -> None:
    table = hospital.folder / "manifest.csv"
    table.write_text(f"subject_id: {subject(0)}: {subject(1)}\n")
    report = preflight(table, offline=True)
    assert wrong(report) == {CONFIGURATION} and subject(0) not in report.to_json() + shown(report)
    assert subject(0) in report.to_json(with_items=True)


def test_settings_that_do_not_exist_are_named(tmp_path: Path) -> None:
    report = preflight(tmp_path / "site.yaml", offline=True)
    assert str(tmp_path / "site.yaml") in report.findings[0].detail and report.exit_code == 2


def test_a_check_that_stumbles_is_a_finding_and_hides_no_other(hospital: Hospital) -> None:
    def stumble() -> int:
        raise ZeroDivisionError(subject(3))

    hospital.machine(umask=stumble)
    report = hospital.check(offline=True)
    assert wrong(report) == {"machine.umask"} and subject(3) not in report.to_json()


def test_whatever_stops_the_gathering_is_a_finding(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise MemoryError(subject(3))

    monkeypatch.setattr("permmoe_client.preflight.run.gather", stumble)
    report = hospital.check()
    assert wrong(report) == {CONFIGURATION} and "MemoryError" in report.findings[0].detail
    assert subject(3) not in report.to_json()


def test_progress_is_told_of_every_image(hospital: Hospital) -> None:
    told: list[tuple[int, int]] = []
    hospital.check(offline=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, 10) for i in range(10)]


@pytest.mark.parametrize(
    ("environment", "is_exempt"),
    [
        ({"https_proxy": "http://p:1"}, False),
        ({"ALL_PROXY": "socks5://p:1"}, False),
        ({"HTTP_PROXY": "http://p:1"}, True),
        ({"HTTPS_PROXY": ""}, True),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "a.example, 127.0.0.1"}, True),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, True),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "7.0.0.1"}, False),
    ],
)
def test_a_proxy_matters_unless_the_host_is_exempt(
    environment: dict[str, str], is_exempt: bool, hospital: Hospital
) -> None:
    hospital.machine(environment=environment)
    assert ("network.proxy" not in wrong(hospital.check())) == is_exempt


def test_a_clock_may_be_minutes_behind_and_not_ahead(hospital: Hospital) -> None:
    hospital.serve(header=date(NOW))
    for seconds, is_right in ((-400, False), (-200, True), (3, True), (20, False)):
        moment = NOW + timedelta(seconds=seconds)
        hospital.machine(now=lambda moment=moment: moment)
        assert ("machine.clock" not in wrong(hospital.check())) == is_right, seconds


def test_a_key_of_another_curve_is_refused(hospital: Hospital) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (hospital.folder / "node.key").write_bytes(pem)
    assert wrong(hospital.check()) == {"files.key"}


@pytest.mark.parametrize(("is_member", "expected"), [(True, set()), (False, {"network.admitted"})])
def test_the_real_gateway_passes_a_member_and_nobody_else(
    is_member: bool, expected: set[str], hospital: Hospital
) -> None:
    files = hospital.folder.parent
    (files / "server.crt").write_bytes(hospital.kit.server.certificate_pem)
    (files / "server.key").write_bytes(hospital.kit.server.key_pem)
    authority = hospital.folder / "ca.crt"
    gateway = make_gateway("https://127.0.0.1:1", authority, GatewayLimits(), lambda _: is_member)
    server = make_server(gateway, files / "server.crt", files / "server.key", authority, "127.0.0.1", 0)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        hospital.settings(coordinator={"port": listener.getsockname()[1]})
        report = hospital.check()
    finally:
        server.should_exit = True
        thread.join(20)
    assert wrong(report) == expected


@pytest.fixture
def folders(hospital: Hospital) -> Hospital:
    """The hospital with ADNI-like folders in place of a manifest, on which the word SYNTHETIC is written."""
    grid = MODEL.grid
    write_cohort(hospital.folder / "adni", CohortConfig(subjects=30, sites=2, seed=7, grid=grid), workers=1)
    hospital.settings(manifest=None, folders={"tables": "adni/clinical", "images": "adni"})
    hospital.model = ModelConfig.model_validate({**MODEL.model_dump(), "modalities": ADNI_MODALITIES})
    return hospital


def test_folders_of_tables_and_images_are_judged_like_a_manifest(folders: Hospital) -> None:
    report = folders.check(offline=True)
    found = {f.check: f for f in report.findings}
    assert found["data.source"].detail == "tables and images" and found["data.readable"].verdict is Verdict.OK
    assert found["data.synthetic"].verdict is Verdict.WARNING
    assert not re.search(PTID, report.to_json() + shown(report))


def test_a_table_without_its_header_is_found_and_none_of_it_is_quoted(folders: Hospital) -> None:
    (table,) = (folders.folder / "adni" / "clinical").glob("ADNIMERGE*.csv")
    table.write_text("\n".join(table.read_text().splitlines()[1:]))
    report = folders.check(offline=True)
    assert wrong(report) == {"data.readable"}
    assert not re.search(PTID, report.to_json() + shown(report))
    assert "lacks column" in report.to_json(with_items=True)
