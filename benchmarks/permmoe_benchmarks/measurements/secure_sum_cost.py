"""What a secure sum costs: processor seconds of the server by stage, and of a site, also where sites go silent.

    python benchmarks/secure_sum.py [--sites 1000] [--silent 0.1] [--silent-at mask]

It runs a training round of the default study's model with thin sites: the server's own stages, the sites' own session
code, and messages packed and unpacked as between machines (permmoe_benchmarks.library.parcel_grid), without TLS.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from flwr.app import MessageType, RecordDict

from permmoe.federated.instructions import read_instruction
from permmoe.federated.roster import read_roster, site_keys
from permmoe.federated.secure import counting, session, site_sum
from permmoe.federated.secure.blocks import training_blocks, training_numbers
from permmoe.federated.secure.counting import count_holders
from permmoe.federated.secure.messages import read_session_start, write_advertisement
from permmoe.federated.secure.session import Session
from permmoe.federated.secure.signatures import is_signature_of
from permmoe.federated.secure.site_sum import Rules, SiteSum
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.runtime.provenance import machine, versions
from permmoe_benchmarks.library.curve import Curve, at_every_scale
from permmoe_benchmarks.library.parcel_grid import ParcelGrid, Work
from permmoe_benchmarks.library.thin_sites import SiteWatch, ThinSites, round_figures
from permmoe_benchmarks.library.timing import Figures
from permmoe_benchmarks.measurements.protocol_rounds import disk_figures
from permmoe_client.participation import secure_session
from permmoe_client.participation.secure_session import SecureSession, Stage
from permmoe_server.protocol.reply_sizes import largest_replies
from permmoe_server.protocol.secure_stages import COUNT, MASK, OPEN, SHARE

STAGES = {"advertise": MessageType.TRAIN, "share": SHARE, "mask": MASK, "count": COUNT, "open": OPEN}
"""The stages in order, and the type of the message that each begins with."""
WATCHED = 20
"""So many sites do all of their work themselves, and are timed."""


def secure_round(clients: int, rounds: int, silent: float = 0.0, silent_at: str = "mask") -> Figures:
    """Return the figures of a round with the secure sum, in which a share of the sites goes silent at a stage.

    Some sites are watched. The others give the same replies, but take over from them whether a signature is genuine and
    how many holders a block has: with 1,000 sites these checks of the same bytes would otherwise be made a million
    times in one process.
    """
    # As the server's app does.
    keep_freed_pages()
    n_silent = round(silent * clients)
    sites = ThinSites.of(clients, secure=True, rounds=rounds, n_silent=n_silent)
    names = list(sites.names.values())
    # Evenly among all: where a site stands in the order of names must not matter.
    gone = {names[i * clients // n_silent] for i in range(n_silent)}
    left = [name for name in names if name not in gone]
    watched = {left[i * len(left) // WATCHED] for i in range(WATCHED)}
    watch = SiteWatch(watched)
    blocks, numbers = training_blocks(sites.layout), training_numbers(sites.reply)
    rules = Rules(sites.plan.federation.secure_threshold, min_sites=sites.plan.federation.min_sites)
    sessions: dict[str, SecureSession] = {}

    def advertise(content: RecordDict, name: str) -> RecordDict:
        instruction, opening = read_instruction(content), read_session_start(content)
        roster = site_keys(read_roster(opening.roster, sites.authority.public_key()))
        begun = Session(
            instruction.plan.digest(), "training", instruction.round, instruction.model_digest, opening.nonce
        )
        own, head = SiteSum(begun, name, sites.keys[name], roster, rules, blocks), replace(sites.ledger, site=name)
        sessions[name] = SecureSession(own, blocks, numbers, lambda _: head, lambda _: head)
        return write_advertisement(own.advertise())

    def answering(stage: Stage) -> Work:
        def answer(content: RecordDict, name: str) -> RecordDict:
            with found_once(known, is_known=name not in watched):
                return secure_session.answer(stage, content, sessions[name])

        return answer

    known: dict[Any, Any] = {}
    later = (secure_session.share, secure_session.mask, secure_session.count, secure_session.unmask)
    work = dict(zip(STAGES.values(), (advertise, *map(answering, later)), strict=True))
    stage_of = {kind: stage for stage, kind in STAGES.items()}
    grid = ParcelGrid(
        sites.names, sites.keys, work, largest_replies(sites.plan, sites.layout, lambda: clients),
        lambda kind, name: watch.at_site(stage_of[kind], name), gone, STAGES[silent_at],
    )  # fmt: skip
    timed = sites.run(grid, watch)
    by_stage = dict(timed[-1].record.training.stage_seconds)
    by_stage["advertise"] = by_stage.pop(MessageType.TRAIN)
    rest = timed[-1].record.seconds - sum(by_stage.values())
    return {
        **round_figures(timed, clients),
        **disk_figures(timed, sites),
        "server_stage_seconds": by_stage | {"rest": rest},
        "n_silent": n_silent,
    }


@contextmanager
def found_once(known: dict[Any, Any], *, is_known: bool) -> Iterator[None]:
    """Let a site's checks in the block take over what `known` has of the same arguments, if `is_known`; what is found
    is added to it."""

    def is_signature(key: Any, signature: bytes, text: bytes) -> bool:
        if not is_known or (signature, text) not in known:
            known[signature, text] = is_signature_of(key, signature, text)
        return bool(known[signature, text])

    def holders(evidence: Any, seeds: Any, choices: Any, *others: Any) -> dict[str, int]:
        name = (choices.digest, tuple(sorted(evidence.bits)))
        if not is_known or name not in known:
            known[name] = count_holders(evidence, seeds, choices, *others)
        return dict(known[name])

    with (
        patch.object(session, "is_signature_of", is_signature),
        patch.object(counting, "is_signature_of", is_signature),
        patch.object(site_sum, "count_holders", holders),
    ):
        yield


def main() -> None:
    """Print a table with a line for each number of sites."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[1000])
    parser.add_argument("--silent", type=float, nargs="+", default=[0.0, 0.1], help="share of sites that go silent")
    parser.add_argument("--silent-at", choices=list(STAGES), default="mask", help="the stage that they do not answer")
    arguments = parser.parse_args()
    print(f"{machine()}; {versions()}; seed 0; random numbers; processor seconds of a round")
    head = "".join(f"{stage:>10s}" for stage in (*STAGES, "unmask", "rest"))
    print(f"sites silent  server s = {head}   a site's s (most)  its parts: {'  '.join(STAGES)}")
    for clients in arguments.sites:
        for silent in arguments.silent:
            found = secure_round(clients, 1, silent, arguments.silent_at)
            server = "".join(f"{found['server_stage_seconds'].get(s, 0.0):10.3f}" for s in (*STAGES, "unmask", "rest"))
            parts = "  ".join(f"{found['stage_seconds'][stage]:.3f}" for stage in STAGES)
            print(
                f"{clients:5d} {found['n_silent']:6d}  {found['server_seconds']:8.3f}   {server}   "
                f"{found['site_seconds']:8.3f} ({found['site_seconds_most']:.3f})  {parts}",
                flush=True,
            )


def _curve(name: str, silent: float) -> Curve:
    """A curve of rounds in which a share of the sites goes silent before its input."""
    return Curve(
        name, "secure_round", secure_round, "clients",
        {"tiny": (6, 7, 8), "quick": (10, 40, 100, 250), "full": (10, 40, 100, 300, 1000)},
        at_every_scale(rounds=1, silent=silent),
    )  # fmt: skip


CURVES = (_curve("round-secure", 0.0), _curve("round-secure-silent", 0.1))
