"""The health service, asked by a real gRPC client."""

from __future__ import annotations

import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from permmoe.errors import ConfigurationError
from permmoe.runtime.health import serve_health
from tests.support.patience import PATIENCE_SECONDS

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def unix() -> Iterator[str]:
    """A socket's address; a socket's path has room for some hundred characters, and tmp_path may take them all."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"unix:{folder}/health.sock"


def loopback() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def served(address: str, is_serving: Callable[[], bool]) -> Iterator[HealthStub]:
    server = serve_health(address, is_serving)
    try:
        with grpc.insecure_channel(address) as channel:
            yield HealthStub(channel)
    finally:
        server.stop(0).wait()


def ask(stub: HealthStub, service: str = "") -> int:
    return int(stub.Check(HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS, wait_for_ready=True).status)


def raises() -> bool:
    raise OSError("/data/sub-0042/ses-01")


def test_the_answer_follows_the_callable_on_a_unix_socket(unix: str) -> None:
    answers = iter([True, False, True])
    with served(unix, lambda: next(answers)) as stub:
        assert [ask(stub), ask(stub), ask(stub)] == [SERVING, NOT_SERVING, SERVING]


def test_the_answer_follows_the_callable_on_loopback() -> None:
    with served(loopback(), lambda: True) as stub:
        assert ask(stub, "grpc.health.v1.Health") == SERVING


def test_a_callable_that_raises_is_not_serving_and_its_words_stay_here(
    unix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with served(unix, raises) as stub:
        assert ask(stub) == NOT_SERVING
    assert "OSError" in caplog.text
    assert "sub-0042" not in caplog.text


def test_another_service_is_not_found(unix: str) -> None:
    with served(unix, lambda: True) as stub, pytest.raises(grpc.RpcError) as refused:
        ask(stub, "flwr.proto.Fleet")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_only_this_user_can_open_the_unix_socket(unix: str) -> None:
    with served(unix, lambda: True):
        assert stat.S_IMODE(Path(unix.removeprefix("unix:")).stat().st_mode) == 0o600


def test_a_socket_left_by_a_killed_process_is_taken_over(unix: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(unix.removeprefix("unix:"))
    with served(unix, lambda: True) as stub:
        assert ask(stub) == SERVING


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051",
        "[::]:50051",
        "192.0.2.7:50051",
        "localhost:50051",
        "hospital.example:50051",
        ":50051",
        "127.0.0.1",
        "unix:relative.sock",
        "dns:///127.0.0.1:50051",
        "127.0.0.1:50051,0.0.0.0:50052",
        "",
    ],
)
def test_an_address_that_others_could_reach_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="must stay on this machine"):
        serve_health(address, lambda: True)


def test_a_taken_port_is_said_to_be_taken() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigurationError, match="choose a free port"),
    ):
        serve_health(f"127.0.0.1:{taken.getsockname()[1]}", lambda: True)


def test_a_socket_in_a_folder_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a folder that can be written to"):
        serve_health(f"unix:{tmp_path}/missing/health.sock", lambda: True)
