"""The line to the coordinator: impostors, proxies, and the real gateway."""

from __future__ import annotations

import socket
import threading

import pytest

from permmoe_client.preflight.report import Verdict
from permmoe_server.gateway.door import make_gateway
from permmoe_server.gateway.server import make_server
from permmoe_server.provisioning.authority import issue_server, new_authority
from permmoe_server.settings import GatewayLimits
from tests.support.preflight_hospital import (
    NOW,
    Hospital,
)
from tests.support.preflight_reports import wrong


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
