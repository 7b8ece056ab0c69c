"""The settings' digest depends on the settings alone, and the machine is not named."""

from __future__ import annotations

import platform

from permmoe_benchmarks.library.machine import described_machine, settings_digest


def test_the_digest_of_the_settings_depends_on_them_alone() -> None:
    assert settings_digest({"a": 1, "b": (2,)}) == settings_digest({"b": [2], "a": 1})
    assert settings_digest({"a": 1, "b": [2]}) != settings_digest({"a": 2, "b": [2]})


def test_the_described_machine_is_not_named() -> None:
    assert platform.node() not in str(described_machine())
