"""What the superlink lets in: our own programs' requests, one bundle, and of a site messages in its own name."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullTaskInputResponse
from flwr.supercore.runtime import RuntimeHttpClient
from starlette.types import Receive, Scope, Send

from permmoe_server.coordination import study_process
from permmoe_server.coordination.local_socket import connected, listen, socket_address
from permmoe_server.coordination.pointer import POINTER, is_pointer, pointer
from permmoe_server.coordination.superlink_door import MOST_OBJECTS, PATHS, Refused, SuperlinkDoor, check_reply

NODE = 7
PUSH, START = "/v1/fleet/push-messages", "/v1/control/start-run"


def other_bundle() -> bytes:
    text = POINTER.replace("permmoe_server.app:app", "evil:app").replace('"pyproject.toml"', '"pyproject.toml", "*.py"')
    return bytes(build_fab_from_files({"pyproject.toml": text.encode(), "evil.py": b"raise SystemExit"})[0])


def ask(path: str, body: bytes = b"", method: str = "POST") -> tuple[int, list[bytes]]:
    """The status of a request, and the bodies that reached Flower."""
    reached: list[bytes] = []

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def answer() -> int:
        transport = httpx.ASGITransport(SuperlinkDoor(flower))
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            return (await client.request(method, path, content=body)).status_code

    return asyncio.run(answer()), reached


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/v1/control/create-federation", "/v1/fleet/get-fab", "/v1/fleet/register-node",
             "/v1/runtime/create-task", "/v1/control/start-run/", "/v1/runtime/push-logs", "/", "/v1/control/add-app"],
)  # fmt: skip
def test_what_none_of_our_programs_asks_for_is_refused(path: str) -> None:
    assert ask(path) == (403, [])


def test_what_our_programs_ask_for_passes_and_only_as_a_post() -> None:
    for path in PATHS - {PUSH, START}:
        assert ask(path, b"body") == (200, [b"body"]) and ask(path, method="GET") == (403, [])


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


def honest() -> PushMessagesRequest:
    metadata = Metadata(
        run_id=3, message_id="a" * 64, src_node_id=NODE, dst_node_id=1, reply_to_message_id="b" * 64, group_id="1",
        ttl=60.0, message_type="train", created_at=1.8e9,
    )  # fmt: skip
    array = ObjectTree(object_id="1" * 64, children=[ObjectTree(object_id="2" * 64)])
    content = ObjectTree(object_id="3" * 64, children=[ObjectTree(object_id="4" * 64, children=[array])])
    return PushMessagesRequest(
        node=Node(node_id=NODE),
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[ObjectTree(object_id="a" * 64, children=[content])],
        clientapp_runtime_list=[1.5],
    )


def deep(request: PushMessagesRequest) -> None:
    tree = request.message_object_trees[0]
    for _ in range(20):
        tree = tree.children.add(object_id="c" * 64)


LIES: dict[str, tuple[Callable[[PushMessagesRequest], object], str]] = {
    "another node's name": (lambda r: setattr(r.messages_list[0].metadata, "src_node_id", 8), "own_name"),
    "for another site": (lambda r: setattr(r.messages_list[0].metadata, "dst_node_id", 8), "own_name"),
    "no message": (lambda r: r.ClearField("messages_list"), "reply_shape"),
    "two messages": (lambda r: r.messages_list.add().CopyFrom(r.messages_list[0]), "reply_shape"),
    "no tree": (lambda r: r.ClearField("message_object_trees"), "reply_shape"),
    "another root": (lambda r: setattr(r.message_object_trees[0], "object_id", "f" * 64), "reply_shape"),
    "content outside of objects": (lambda r: r.messages_list[0].content.items.add(key="x"), "reply_shape"),
    "a time that is none": (lambda r: setattr(r.messages_list[0].metadata, "ttl", float("nan")), "reply_shape"),
    "an endless time": (lambda r: setattr(r.messages_list[0].metadata, "created_at", float("inf")), "reply_shape"),
    "a run time that is none": (lambda r: r.clientapp_runtime_list.__setitem__(0, float("nan")), "reply_shape"),
    "a negative run time": (lambda r: r.clientapp_runtime_list.__setitem__(0, -1.0), "reply_shape"),
    "two run times": (lambda r: r.clientapp_runtime_list.append(1.0), "reply_shape"),
    "a long text": (lambda r: setattr(r.messages_list[0].metadata, "group_id", "x" * 2000), "reply_shape"),
    "a deep tree": (deep, "reply_shape"),
    "a wide tree": (
        lambda r: r.message_object_trees[0].children.extend([ObjectTree(object_id="c")] * (MOST_OBJECTS + 1)),
        "reply_shape",
    ),
}


def test_a_message_in_a_sites_own_name_passes() -> None:
    body = honest().SerializeToString()
    assert ask(PUSH, body) == (200, [body])


@pytest.mark.parametrize("lie", LIES)
def test_a_message_that_would_do_harm_before_it_is_read_is_refused(lie: str) -> None:
    change, rule = LIES[lie]
    request = honest()
    change(request)
    with pytest.raises(Refused, match=rule):
        check_reply(request.SerializeToString())
    assert ask(PUSH, request.SerializeToString()) == (403, [])


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
