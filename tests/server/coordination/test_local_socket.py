"""Answers of whoever is at the other end of a socket: they end, in bytes and in time."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from socket import AF_UNIX, socket

import httpx
import pytest
from flwr.supercore.runtime import RuntimeHttpClient

from permmoe_server.coordination import local_socket
from permmoe_server.coordination.local_socket import BoundedTransport, connected, listen, socket_address


@contextmanager
def answering(path: Path, answer: Callable[[socket], None]) -> Iterator[httpx.Client]:
    """A client of a server that answers one request so."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            with suppress(OSError):
                answer(connection)

    with listen(path) as listener, httpx.Client(transport=BoundedTransport(str(path))) as client:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield client
        thread.join(10.0)


def head(**headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return ("HTTP/1.1 200 OK\r\n" + "".join(lines) + "\r\n").encode()


def test_a_path_that_is_too_long_leads_to_the_folder_that_is_there_now(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    for word in (b"first", b"second"):
        folder.mkdir()
        with listen(folder / "s") as listener, socket(AF_UNIX) as client:
            client.connect(socket_address(folder / "s"))
            assert socket_address(folder / "s") == socket_address(folder / "s")
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(word)
            assert client.recv(9) == word
        rmtree(folder)
    with pytest.raises(FileNotFoundError):
        socket_address(folder / "s")


def test_an_answer_of_usual_size_arrives(tmp_path: Path) -> None:
    with answering(tmp_path / "s", lambda c: c.sendall(head(content_length="5") + b"whole")) as client:
        assert client.post("http://superlink/").content == b"whole"


def test_attack_an_answer_without_an_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_socket, "ANSWER_BYTES", 100_000)

    def flood(connection: socket) -> None:
        connection.sendall(head())
        while True:
            connection.sendall(bytes(10_000))

    with answering(tmp_path / "s", flood) as client, pytest.raises(httpx.ReadError):
        client.post("http://superlink/")


def test_attack_an_answer_that_drips_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_socket, "ANSWER_SECONDS", 0.2)
    ended = threading.Event()

    def drip(connection: socket) -> None:
        connection.sendall(head())
        while not ended.wait(0.05):
            connection.sendall(b".")

    with answering(tmp_path / "s", drip) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("http://superlink/")
        ended.set()


def test_attack_a_packed_answer_is_not_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(bytes(10_000_000))
    answer = head(content_encoding="gzip", content_length=str(len(packed))) + packed
    with answering(tmp_path / "s", lambda c: c.sendall(answer)) as client, pytest.raises(httpx.ReadError):
        client.post("http://superlink/")


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["idle for too long", "idle for a moment"])
def test_a_connection_is_used_again_only_where_it_was_not_idle_for_long(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_socket, "IDLE_SECONDS", seconds)
    connections = 0

    def serve() -> None:
        nonlocal connections
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections += 1
                threading.Thread(target=answer_all, args=[connection], daemon=True).start()

    def answer_all(connection: socket) -> None:
        with connection, suppress(OSError):
            while connection.recv(65536):
                connection.sendall(head(content_length="5") + b"whole")

    with listen(tmp_path / "s") as listener:
        threading.Thread(target=serve, daemon=True).start()
        client = connected(RuntimeHttpClient, tmp_path / "s", "test")
        for _ in range(3):
            assert client._client.post("http://superlink/").content == b"whole"
        client.close()
    assert connections == (1 if seconds else 3)
