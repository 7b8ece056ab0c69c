"""The coordinator's Flower app: read the plan, run the rounds, keep everything that a killed run needs to go on.

`run_config` names `plan`, a JSON file of permmoe.federated.plan.RoundPlan, and `out`, a folder that will hold
`last/` (weights and server moments after the newest round), `rounds.jsonl` (a record for each try at a round) and
`model/` for `permmoe predict`: the weights of the round with the least validation error, or of the newest where nothing
is evaluated. Started again on the same folder it goes on. `sites`, where it is given, names a JSON file of
{node: site}, read anew before each exchange: other nodes are not asked, and none may use another's name. `roster` and
`authority`, which a secure study needs, name the signed roster and the certificate that it is verified with.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import inf, isnan
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import mean_squared_error
from permmoe.federated.audit import countersign
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan, read_plan
from permmoe.federated.roster import read_roster, site_keys
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.runtime.provenance import machine, versions
from permmoe.training.trainer import make_model
from permmoe_server.protocol.exchange import MessageGrid, SiteOf
from permmoe_server.protocol.rounds import Countersigner, FederationState, RosterOf, RoundRecord, SiteRecord, run_rounds
from permmoe_server.protocol.secure_rounds import SignedRoster
from permmoe_server.provisioning.authority import load_certificate, read_identity

HTTP_GRID = "flwr.superlink.grid.http_grid"
"""Where Flower's connection to a superlink is defined."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a study to its end. Raises ConfigurationError for a plan that cannot be used or is not the folder's own."""
    plan = read_plan(_path(context, "plan"))
    out = _path(context, "out")
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_pages()
    with _alone(out):
        _run(_prompt(grid), plan, out, _site_reader(context), _countersigner(context), _roster_reader(context))


def _run(
    grid: MessageGrid,
    plan: RoundPlan,
    out: Path,
    site_of: SiteOf,
    countersigner: Countersigner | None,
    roster_of: RosterOf | None,
) -> None:
    model = make_model(plan.model, plan.train.seed)
    layout = ModuleLayout.of(model)
    state = load_state(out, plan, layout) or FederationState(0, layout.flatten_all(model.state_dict()))
    rounds = out / "rounds.jsonl"
    _forget_later_rounds(rounds, state.round)
    best_mse = _best_so_far(out, state.round)
    for state, record in run_rounds(  # noqa: B020
        grid, plan, layout, state, site_of=site_of, countersigner=countersigner, roster_of=roster_of
    ):
        # The record first: a round whose checkpoint was not written is forgotten and run again.
        with rounds.open("a") as file:
            file.write(record_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if not record.is_aggregated:
            if record.is_spent:
                # Its number is used up: a study that goes on from here must not ask for it again.
                save_checkpoint(out / "last", _tensors(state, layout), _card(plan, state))
            continue
        mse = mean_squared_error(record.validation.sums) if record.validation else float("nan")
        # NaN, where nothing was evaluated, compares as not worse: the newest round is kept.
        if plan.train.keep == "last" or not mse >= best_mse:
            best_mse = mse
            card = {**_card(plan, state), "validation_mse": None if isnan(mse) else mse}
            save_checkpoint(out / "model", layout.unflatten(state.judged), card)
        # Last of all: a round counts as done when everything of it is on disk.
        save_checkpoint(out / "last", _tensors(state, layout), _card(plan, state))


def _prompt(grid: Grid) -> MessageGrid:
    """A grid that waits for nobody, where this is Flower's connection to a superlink."""
    # A second to import; where nobody has imported it, the grid is not of its kind.
    if HTTP_GRID not in sys.modules:
        return grid
    from permmoe_server.coordination.nonblocking_grid import prompt

    return prompt(grid)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the study's folder: the process of a run that was given up may still be at its last round."""
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _countersigner(context: Context) -> Countersigner | None:
    """Signs with the server's key where the run names `server-key` and `server-certificate`."""
    if "server-key" not in context.run_config:
        return None
    path = _path(context, "server-certificate")
    server = read_identity(path, _path(context, "server-key"))
    return lambda head: countersign(head, server.key, server.certificate, server.certificate_pem.decode())


def _roster_reader(context: Context) -> RosterOf | None:
    """Reads the roster that a secure study needs, where the run names `roster` and `authority`, its signer."""
    if "roster" not in context.run_config:
        return None
    path, authority = _path(context, "roster"), load_certificate(_path(context, "authority"))

    def read() -> SignedRoster:
        signed = path.read_bytes()
        return SignedRoster(signed, site_keys(read_roster(signed, authority)))

    return read


def _site_reader(context: Context) -> SiteOf:
    if "sites" not in context.run_config:
        return lambda: None
    path = _path(context, "sites")
    return lambda: {int(node): site for node, site in json.loads(path.read_text()).items()}


def load_state(out: Path, plan: RoundPlan, layout: ModuleLayout) -> FederationState | None:
    """Where a study in this folder stands; None where it has not begun.

    Raises ConfigurationError where it was begun with another plan; more or fewer rounds are no other plan.
    """
    if not has_checkpoint(out / "last"):
        return None
    tensors, card = load_checkpoint(out / "last")
    if _comparable(RoundPlan.model_validate(card["plan"])) != _comparable(plan):
        raise ConfigurationError(f"{out} holds a study with another plan; name a new folder, or delete this one")
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    average: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, key = name.split(":", 1)
        match kind:
            case "weights":
                weights[key] = tensor
            case "average":
                average[key] = tensor
            case moment:
                moments.setdefault(key, {})[moment] = tensor
    return FederationState(card["round"], layout.flatten_all(weights), moments, average)


def record_json(record: RoundRecord) -> str:
    """A round's record on one line."""
    facts = asdict(record) | {"sites": [_site_facts(site) for site in record.sites]}
    return json.dumps(facts, separators=(",", ":"))


def _site_facts(site: SiteRecord) -> dict[str, Any]:
    """A site's record by key; the figures of its training stand among the other keys, in the place of `figures`."""
    facts: dict[str, Any] = {}
    for name, value in asdict(site).items():
        facts |= site.figures.for_round_log() if name == "figures" else {name: value}
    return facts


def _tensors(state: FederationState, layout: ModuleLayout) -> dict[str, Tensor]:
    weights = {f"weights:{name}": tensor for name, tensor in layout.unflatten(state.weights).items()}
    average = {f"average:{module}": tensor for module, tensor in state.average.items()}
    return (
        weights
        | average
        | {f"{moment}:{module}": tensor for module, named in state.moments.items() for moment, tensor in named.items()}
    )


def _card(plan: RoundPlan, state: FederationState) -> Mapping[str, Any]:
    return {
        "model": plan.model.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "round": state.round,
        "versions": versions(),
        "machine": machine(),
    }


def _best_so_far(out: Path, done: int) -> float:
    """The validation error of the model kept so far; infinite where none is, or only one of a forgotten round."""
    if not has_checkpoint(out / "model"):
        return inf
    _, card = load_checkpoint(out / "model")
    return inf if card["round"] > done or card["validation_mse"] is None else float(card["validation_mse"])


def _comparable(plan: RoundPlan) -> RoundPlan:
    return plan.model_copy(update={"federation": plan.federation.model_copy(update={"rounds": 1})})


def _forget_later_rounds(rounds: Path, done: int) -> None:
    """Drop records of rounds whose checkpoint was not written, and a line that a kill cut short."""
    lines = rounds.read_bytes().splitlines(keepends=True) if rounds.exists() else []
    kept = [line for line in lines if line.endswith(b"\n") and _happened(json.loads(line), done)]
    if kept != lines:
        rounds.write_bytes(b"".join(kept))


def _happened(record: Mapping[str, Any], done: int) -> bool:
    """Whether a round is done; a try that changed nothing stays in the record whatever came after it."""
    return record["round"] <= done or not record["is_aggregated"]


def _path(context: Context, key: str) -> Path:
    if key not in context.run_config:
        raise ConfigurationError(f"the run configuration lacks {key!r}; pass --run-config '{key}=\"/path\"'")
    return Path(str(context.run_config[key]))
