"""Reasons for leaving something out are texts, each with its remedy, and survive the way between processes."""

from __future__ import annotations

import json
import pickle

import pytest

from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason, Remedy


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_its_text(reason: Reason) -> None:
    assert reason == str(reason) == f"{reason}" == reason.value and Reason(reason.value) is reason
    assert json.loads(json.dumps({reason: 1})) == {reason.value: 1}
    assert str(BrokenVolume(reason)) == reason.value


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_keeps_its_remedy_on_the_way_to_another_process(reason: Reason) -> None:
    assert pickle.loads(pickle.dumps(reason)).remedy is reason.remedy
    assert pickle.loads(pickle.dumps(BrokenVolume(reason))).reason is reason


def test_every_remedy_belongs_to_a_reason() -> None:
    assert {reason.remedy for reason in Reason} == set(Remedy)
