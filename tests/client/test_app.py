"""What a site's app replies, and above all what it does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.app import MessageType
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from permmoe.data.dataset import VisitData
from permmoe_client.participation.running_site import RunningSites
from tests.support.site_messages import ask, instruction
from tests.support.tiny_federation import approve, tiny_plan, write_site


def test_the_received_model_is_verified_before_anything_else(tmp_path: Path) -> None:
    reply = ask(write_site(tmp_path, "north"), instruction(digest="0" * 64))
    assert reply.has_error() and reply.error.reason == "MalformedRecord"


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_an_error_reaches_the_coordinator_as_its_type_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_site(tmp_path, "north")

    def broken(*_: object) -> VisitData:
        raise RuntimeError("cannot read /data/phi/patient-12345.nii")

    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites(broken))
    with caplog.at_level(logging.DEBUG):
        reply = ask(path, instruction(), kind)
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION and reply.error.reason == "RuntimeError"
    assert b"12345" not in reply.deflate()
    assert "12345" not in caplog.text and "RuntimeError in test_app.py, line" in caplog.text


def test_an_unusable_site_file_is_an_error_without_its_path(tmp_path: Path) -> None:
    assert ask(tmp_path / "absent.yaml", instruction()).error.reason == "ConfigurationError"
    assert ask(None, instruction()).error.reason == "ConfigurationError"


def test_no_identifier_leaves_a_site(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north")
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        reply = ask(path, instruction(), kind)
        sent = b"".join(thing.deflate() for thing in get_all_nested_objects(reply.content).values())
        assert b"north" in sent
        assert b"north-" not in sent and str(tmp_path).encode() not in sent


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_a_study_that_is_not_approved_is_refused_before_any_data_is_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = approve(write_site(tmp_path, "north"), tiny_plan())
    changed = tiny_plan(local_epochs=3)
    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites(lambda *_: pytest.fail("the data was read")))
    reply = ask(path, instruction(changed), kind, is_approved=False)
    assert reply.error.reason == "StudyNotApproved"
    assert changed.digest() in caplog.text and "permmoe-client approve" in caplog.text
