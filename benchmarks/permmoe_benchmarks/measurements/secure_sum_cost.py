"""What the secure sum costs: each stage's work at a site, work and memory at the server, against a plain sum.

python benchmarks/secure_sum.py [--sites 10] [--parameters 5000000] [--silent 0]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.federated.fixed_point import to_fixed_point
from permmoe.federated.secure.server_sum import ServerSum
from permmoe.federated.secure.session import Participants, Session
from permmoe.federated.secure.site_sum import Rules, SiteSum
from permmoe.federated.update import ModuleUpdate
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb
from permmoe.runtime.provenance import machine, versions
from permmoe_server.protocol.aggregation import RunningSum, fold

MODULES = 54
"""As many modules as the default model has."""
VISITS = 7
STAGES = ("share", "mask", "count", "unmask")


class StageWatch:
    """The seconds of every call, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage].append(time.perf_counter() - started)


def main() -> None:
    """Print a table with a line for each number of sites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--parameters", type=int, default=5_000_000)
    parser.add_argument("--silent", type=float, default=0.0, help="share of sites that go silent before their input")
    arguments = parser.parse_args()
    print(
        f"{machine()}; {versions()}; seed 0; {arguments.parameters:,} parameters in {MODULES} modules; random numbers"
    )
    print(
        "sites  keepers (threshold)  share s  mask s   count s  unmask s  a site's s (most)  server s  plain s  "
        "max |difference|  peak MB"
    )
    for sites in arguments.sites:
        print(secure_sum_line(sites, arguments.parameters, arguments.silent), flush=True)


def secure_sum_line(n: int, parameters: int, silent: float = 0.0) -> str:
    """Run one secure sum of `n` sites in this process, of which a share is lost, and return its line of the table."""
    forget_peak_memory()
    size = parameters // MODULES
    blocks = {f"block/{i}": size + 1 for i in range(MODULES)}
    session, rules = Session("benchmark", "training", 1, "model", str(n)), Rules()
    keys = {f"site-{i:04d}": ec.generate_private_key(ec.SECP384R1()) for i in range(n)}
    roster = {name: key.public_key() for name, key in keys.items()}
    sites = {name: SiteSum(session, name, key, roster, rules, blocks) for name, key in keys.items()}
    adverts = [site.advertise() for site in sites.values()]
    watch = StageWatch()
    with watch.timing("server"):
        server = ServerSum(Participants.of(session, adverts, rules.threshold_share), blocks, roster)
    for name, site in sites.items():
        with watch.timing("share"):
            sealed = site.share(adverts)
        with watch.timing("server"):
            server.take_shares(name, sealed)
    with watch.timing("server"):
        server.close_shares(list(sites))
    running, generator = RunningSum(), torch.Generator().manual_seed(0)
    for name in list(sites)[int(silent * n) :]:
        updates = {block: ModuleUpdate(torch.randn(size, generator=generator), float(VISITS)) for block in blocks}
        with watch.timing("server"):
            shares = server.shares_for(name)
        with watch.timing("mask"):
            numbers = {
                b: np.append(to_fixed_point(u.weighted_delta)[0].numpy(), VISITS << 32) for b, u in updates.items()
            }
            masked = sites[name].mask(shares, server.choices, numbers)
        with watch.timing("server"):
            server.take_input(masked)
        with watch.timing("plain"):
            running = fold(running, updates, float(VISITS))
    for name in server.bits:
        with watch.timing("count"):
            count_shares = sites[name].count(list(server.bits))
        with watch.timing("server"):
            server.take_count_shares(name, count_shares)
    with watch.timing("server"):
        lost_keys = server.lost_keys()
        evidence = server.evidence(lost_keys)
    openings = {}
    for name in server.bits:
        with watch.timing("server"):
            count_keys = server.keys_for(name)
        with watch.timing("unmask"):
            sites[name].open(evidence, count_keys)
            openings[name] = sites[name].unmask()
    with watch.timing("server"):
        unmasked = server.unmask(lost_keys, openings, [])
    difference = max(
        int(np.abs(unmasked.values[block][:-1] - running.modules[block].change.numpy()).max()) for block in blocks
    )
    middle = {stage: statistics.median(watch.seconds[stage]) for stage in STAGES}
    most = sum(max(watch.seconds[stage]) for stage in STAGES)
    server_seconds, plain_seconds = (sum(watch.seconds[stage]) for stage in ("server", "plain"))
    keepers = f"{server.participants.neighbourhood.keepers} ({server.participants.neighbourhood.threshold})"
    return (
        f"{n:5d}  {keepers:19s}  {middle['share']:7.3f}  {middle['mask']:7.3f}  {middle['count']:7.3f}  "
        f"{middle['unmask']:8.3f}  {sum(middle.values()):8.3f} {most:8.3f}  {server_seconds:8.3f}  "
        f"{plain_seconds:7.3f}  {difference:16d}  {peak_memory_mb():7.0f}"
    )
