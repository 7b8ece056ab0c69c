"""What pyproject.toml declares is what the code imports: no more, no less."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("permmoe", "server/permmoe_server", "client/permmoe_client", "simulation/permmoe_simulation")
OPTIONAL = {
    "ray": "ray",
    "sksurv": "scikit-survival",
    "dcm2niix": "dcm2niix",
    "deepbet": "deepbet",
    "pydicom": "pydicom",
    "SimpleITK": "simpleitk",
    "mlflow": "mlflow-skinny",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "tensorboard": "tensorboard",
}
"""Imported package -> distribution, for what is imported only where an extra is installed."""

SHIPS_DATA = {"nilearn"}
"""The synthetic cohort reads the template brain that it ships, and imports none of its code, which takes a second."""
LOOKED_FOR_BY_OTHERS = {"sniffio"}
"""httpcore looks for it at every request."""


def declared(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[\[<>=;~! ]", requirement)[0]) for requirement in requirements}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def imported(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every package of others that a file imports, and the file."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and not top.startswith("permmoe") and top not in OPTIONAL:
                    yield top, path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_that_is_imported_is_declared(package: str) -> None:
    providers = packages_distributions()
    missing = {
        (top, str(path.relative_to(ROOT)))
        for top, path in imported(ROOT / package)
        if not {canonical(name) for name in providers.get(top, ())} & declared(PROJECT["dependencies"])
    }
    assert not missing


def test_every_package_that_is_declared_is_imported() -> None:
    providers = packages_distributions()
    used = {
        canonical(name)
        for package in PACKAGES
        for top, _ in imported(ROOT / package)
        for name in providers.get(top, ())
    }
    assert declared(PROJECT["dependencies"]) - SHIPS_DATA - LOOKED_FOR_BY_OTHERS <= used


def test_optional_packages_are_declared_as_extras() -> None:
    extras = declared([requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra])
    # Ray comes with Flower's extra.
    assert set(OPTIONAL.values()) - {"ray"} <= extras and "ray" in PROJECT["optional-dependencies"]
