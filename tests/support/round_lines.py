"""Lines of a coordinator's record of rounds, as a study of two or three sites writes them."""

from __future__ import annotations

import json
from typing import Any


def _site(name: str, node: int, rejected: str | None = None) -> dict[str, Any]:
    modules = ["head", "encoder/t1"] if rejected is None else []
    return {"node": node, "site": name, "bytes_down": 11, "bytes_up": 7, "modules": modules, "rejected": rejected}


def secure_round_line(number: int, released: tuple[str, ...], withheld: tuple[str, ...]) -> str:
    """Return the line of a secure round."""
    record = json.loads(round_line(number)) | {"is_secure": True, "released": released, "withheld": withheld}
    for site in record["sites"]:
        site["modules"] = []
    return json.dumps(record) + "\n"


def private_round_line(number: int) -> str:
    """Return the line of a private round, whose sums are estimates; of one combination there are none."""
    record = json.loads(round_line(number))
    del record["validation"]["sums"]["t1+tau"]
    record["validation"]["bounds"] = {"t1": {"visits": [3, 23], "mae": [0.7, 1.9], "rmse": [1.25, 3.5]}}
    return json.dumps(record) + "\n"


def round_line(number: int, *, is_aggregated: bool = True, rmse: float = 2.0) -> str:
    """Return the line of a round in which the site north alone sent a reply that was accepted."""
    sums = {"t1": {"n": 13, "squared": 13 * rmse**2}, "t1+tau": {"n": 5, "squared": 5 * rmse**2}}
    record = {
        "round": number,
        "is_aggregated": is_aggregated,
        "seconds": 3.0,
        "train_loss": 1.5,
        "sites": [_site("north", 17), _site("south", 19, "not_finite"), _site("west", 23, "PatientError12345")],
        "validation": {"sums": sums, "rejected": {}} if is_aggregated else None,
        "test": None,
    }
    return json.dumps(record) + "\n"
