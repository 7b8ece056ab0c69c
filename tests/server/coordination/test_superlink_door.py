"""What the superlink lets in: our own programs' requests, and one bundle."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import PullTaskInputResponse
from flwr.supercore.runtime import RuntimeHttpClient
from starlette.types import Receive, Scope, Send

from permmoe.federated.message_paths import REPLY, REPLY_OBJECTS, SITE_PATHS
from permmoe_server.coordination import study_process
from permmoe_server.coordination.local_socket import connected, listen, socket_address
from permmoe_server.coordination.message_desk import DESK_PATHS
from permmoe_server.coordination.pointer import POINTER, is_pointer, pointer
from permmoe_server.coordination.reply_announcement import Refused
from permmoe_server.coordination.superlink_door import FLOWER_PATHS, MOST_ASKING_BYTES, MOST_BODY_BYTES, SuperlinkDoor
from permmoe_server.provisioning.region_papers import PAPERS_PATH

START = "/v1/control/start-run"


def other_bundle() -> bytes:
    text = POINTER.replace("permmoe_server.app:app", "evil:app").replace('"pyproject.toml"', '"pyproject.toml", "*.py"')
    return bytes(build_fab_from_files({"pyproject.toml": text.encode(), "evil.py": b"raise SystemExit"})[0])


async def repeat(scope: Scope, read: Callable[[], Awaitable[bytes]], receive: Receive) -> tuple[int, bytes]:
    """Answer a message with itself."""
    return 299, await read()


def take(papers: bytes) -> bytes:
    """Take papers that are signed."""
    if papers != b"signed":
        raise Refused("papers")
    return b"news"


def ask(path: str, body: bytes = b"", method: str = "POST") -> tuple[int, list[bytes]]:
    """The status of a request, and the bodies that reached Flower."""
    reached: list[bytes] = []

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def answer() -> int:
        transport = httpx.ASGITransport(SuperlinkDoor(flower, repeat, take))
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            return (await client.request(method, path, content=body)).status_code

    return asyncio.run(answer()), reached


@pytest.mark.parametrize(
    "path",
    ["/docs", "/openapi.json", "/v1/control/create-federation", "/v1/control/start-run/", "/", "/v1/control/add-app",
     "/v1/fleet/get-fab", "/v1/fleet/register-node", "/v1/fleet/pull-object", "/v1/runtime/push-messages",
     "/v1/runtime/create-task", "/v1/runtime/push-logs"],
)  # fmt: skip
def test_what_none_of_our_programs_asks_for_is_refused(path: str) -> None:
    assert ask(path) == (403, [])


def test_what_our_programs_ask_for_passes_and_only_as_a_post() -> None:
    for path in FLOWER_PATHS - {START}:
        assert ask(path, b"body") == (200, [b"body"]) and ask(path, method="GET") == (403, [])
    for path in DESK_PATHS:
        assert ask(path, b"body") == (299, []) and ask(path, method="GET") == (403, [])


def test_papers_reach_the_regions_desk_and_what_it_refuses_is_refused() -> None:
    assert ask(PAPERS_PATH, b"signed") == (200, []) and ask(PAPERS_PATH, b"signed", method="GET") == (403, [])
    assert ask(PAPERS_PATH, b"forged") == (403, [])


def test_a_body_that_is_too_long_is_refused_before_it_is_whole() -> None:
    for path in (START, REPLY):
        assert ask(path, bytes(MOST_BODY_BYTES + 1)) == (403, [])
    for path in SITE_PATHS - {REPLY, REPLY_OBJECTS}:
        assert ask(path, bytes(MOST_ASKING_BYTES)) == (299, []) and ask(path, bytes(MOST_ASKING_BYTES + 1)) == (403, [])


def test_a_run_of_our_bundle_passes_and_its_body_reaches_flower_whole() -> None:
    ours = pointer()
    body = StartRunRequest(fab=Fab(hash_str=ours.hash_str, content=ours.content)).SerializeToString()
    assert ask(START, body) == (200, [body])


def test_a_run_of_another_bundle_or_of_an_app_that_flower_would_fetch_is_refused() -> None:
    ours, evil = pointer(), other_bundle()
    for request in (
        StartRunRequest(fab=Fab(hash_str=ours.hash_str, content=evil)),
        StartRunRequest(fab=Fab(hash_str=ours.hash_str)),
        StartRunRequest(),
        StartRunRequest(fab=Fab(hash_str=ours.hash_str, content=ours.content), app_spec="@someone/app"),
    ):
        assert ask(START, request.SerializeToString()) == (403, [])
    assert ask(START, b"\xff\xff") == (403, [])


def test_the_studys_process_runs_no_other_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: object) -> None:
        raise AssertionError("the app ran")

    monkeypatch.setattr(study_process, "app", never)
    task = PullTaskInputResponse()
    task.fab.content, task.fab.hash_str = other_bundle(), pointer().hash_str
    client = connected(RuntimeHttpClient, tmp_path / "nobody.sock", "test")
    with pytest.raises(study_process.OtherBundle):
        study_process.run(client, task, "token")


def test_our_bundle_is_the_same_in_every_process_and_no_other_is_it() -> None:
    pointer.cache_clear()
    first = pointer()
    pointer.cache_clear()
    assert pointer().content == first.content and is_pointer(first.content)
    assert not is_pointer(other_bundle()) and not is_pointer(b"") and not is_pointer(first.content + b"\0")


@pytest.mark.parametrize("folder", ["short", "long" * 40])
def test_a_socket_is_for_its_user_alone_however_long_its_path_is(folder: str, tmp_path: Path) -> None:
    path = tmp_path / folder / "superlink.sock"
    path.parent.mkdir(mode=0o700)
    path.write_text("left by a killed process")
    with listen(path) as listener, httpx.Client(transport=httpx.HTTPTransport(uds=socket_address(path))) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(socket_address(path)) < 108
        listener.setblocking(False)
        with pytest.raises(httpx.TimeoutException):
            client.get("http://superlink/", timeout=0.2)
        listener.accept()[0].close()
