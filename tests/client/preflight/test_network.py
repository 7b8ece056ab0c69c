"""The line to the coordinator: impostors, proxies, and the real gateway."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode

import pytest

from permmoe_client.preflight.report import Verdict
from permmoe_server.gateway.door import make_gateway
from permmoe_server.gateway.server import make_server
from permmoe_server.provisioning.authority import issue_server, new_authority
from permmoe_server.settings import GatewayLimits
from tests.support.connect_proxy import connect_proxy
from tests.support.patience import PATIENCE_SECONDS
from tests.support.preflight_hospital import (
    NOW,
    Hospital,
)
from tests.support.preflight_reports import shown, wrong


def test_an_impostor_is_named_and_sent_nothing(hospital: Hospital) -> None:
    impostor = new_authority("Inspection Authority", NOW)
    server = hospital.serve(issue_server(impostor, "127.0.0.1", NOW, 365), asks=False)
    found = {f.check: f for f in hospital.check().findings}
    assert "'Inspection Authority'" in found["network.issuer"].detail and "inspect" in found["network.issuer"].detail
    assert found["network.health"].verdict is Verdict.SKIPPED and server.received == []


def test_a_founded_anew_federation_is_told_from_a_proxy(hospital: Hospital) -> None:
    name = hospital.kit.authority.certificate.subject.rfc4514_string().removeprefix("CN=")
    hospital.serve(issue_server(new_authority(name, NOW), "127.0.0.1", NOW, 365), asks=False)
    assert "founded anew" in next(f.detail for f in hospital.check().findings if f.check == "network.issuer")


@pytest.mark.parametrize(
    ("environment", "is_exempt"),
    [
        ({"https_proxy": "PROXY"}, False),
        ({"ALL_PROXY": "PROXY"}, False),
        ({"HTTP_PROXY": "PROXY"}, True),
        ({"HTTPS_PROXY": ""}, True),
        ({"HTTPS_PROXY": "PROXY", "no_proxy": "a.example, 127.0.0.1"}, True),
        ({"HTTPS_PROXY": "PROXY", "NO_PROXY": "*"}, True),
        ({"HTTPS_PROXY": "PROXY", "NO_PROXY": "7.0.0.1"}, False),
    ],
)
def test_a_check_goes_through_the_proxy_of_the_environment_unless_the_host_is_exempt(
    environment: dict[str, str], is_exempt: bool, hospital: Hospital
) -> None:
    with connect_proxy() as proxy:
        hospital.machine(environment={name: value.replace("PROXY", proxy.url) for name, value in environment.items()})
        report = hospital.check()
    assert not wrong(report) and (proxy.asked == []) == is_exempt
    way = next(finding.detail for finding in report.findings if finding.check == "network.proxy")
    assert way == "no proxy" if is_exempt else f"the proxy 127.0.0.1:{proxy.port}" in way


def test_a_check_goes_through_the_proxy_of_the_settings_with_its_user_and_shows_no_password(hospital: Hospital) -> None:
    with connect_proxy(credentials=b64encode(b"north:s3c:ret")) as proxy:
        hospital.settings(coordinator={"proxy": proxy.url.replace("//", "//north:s3c%3Aret@")})
        report = hospital.check()
        assert not wrong(report) and proxy.asked and "s3c" not in report.to_json(with_items=True)
        hospital.settings(coordinator={"proxy": proxy.url.replace("//", "//north:wrong@")})
        assert "does not take this user" in next(
            f.detail for f in hospital.check().findings if f.check == "network.proxy"
        )


def test_a_proxy_of_the_environment_is_left_out_where_the_settings_say_so(hospital: Hospital) -> None:
    hospital.machine(environment={"HTTPS_PROXY": "http://127.0.0.1:1"})
    hospital.settings(coordinator={"proxy": "direct"})
    assert wrong(hospital.check()) == set()


@pytest.mark.parametrize(
    ("status", "words"),
    [(407, "asks for a user"), (403, "does not let"), (503, "cannot reach"), (302, "leads nowhere")],
)
def test_a_proxy_that_refuses_is_named_with_what_to_do_and_none_of_its_words(
    status: int, words: str, hospital: Hospital
) -> None:
    with connect_proxy(status) as proxy:
        hospital.settings(coordinator={"proxy": proxy.url})
        report = hospital.check()
    found = next(f for f in report.findings if f.check == "network.proxy")
    assert set(wrong(report)) == {"network.proxy"}
    assert f"status {status}" in found.detail and words in found.detail and "<b>" not in shown(report)


def test_a_dead_proxy_is_named(hospital: Hospital) -> None:
    with connect_proxy() as proxy:
        pass
    hospital.settings(coordinator={"proxy": proxy.url})
    report = hospital.check()
    assert set(wrong(report)) == {"network.connects"}
    assert "the proxy 127.0.0.1" in next(f.detail for f in report.findings if f.check == "network.connects")


@pytest.mark.parametrize("address", ["socks5://p:1", "https://p:1", "http://", "http://p:port", "http://[::1"])
def test_an_address_that_is_no_http_proxy_is_refused_and_not_repeated(address: str, hospital: Hospital) -> None:
    hospital.settings(coordinator={"proxy": address.replace("//", "//user:s3cret@")})
    report = hospital.check()
    assert set(wrong(report)) == {"network.proxy"} and "s3cret" not in shown(report)


@pytest.mark.parametrize(("is_member", "expected"), [(True, set()), (False, {"network.admitted"})])
def test_the_real_gateway_passes_a_member_and_nobody_else(
    is_member: bool, expected: set[str], hospital: Hospital
) -> None:
    files = hospital.folder.parent
    (files / "server.crt").write_bytes(hospital.kit.server.certificate_pem)
    (files / "server.key").write_bytes(hospital.kit.server.key_pem)
    authority = hospital.folder / "ca.crt"
    gateway = make_gateway(str(files / "nobody.sock"), GatewayLimits(), lambda _: is_member)
    server = make_server(gateway, files / "server.crt", files / "server.key", authority, "127.0.0.1", 0)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        hospital.settings(coordinator={"port": listener.getsockname()[1]})
        report = hospital.check()
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
    assert wrong(report) == expected
