"""What the secure sum costs: masking at a site, work and memory at the server, against a plain sum of the same numbers.

python benchmarks/secure_sum.py [--sites 10] [--parameters 5000000]
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
from permmoe.federated.secure.session import Participants, Session, threshold
from permmoe.federated.secure.site_sum import Rules, SiteSum
from permmoe.federated.update import ModuleUpdate
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb
from permmoe.runtime.provenance import machine, versions
from permmoe_server.protocol.aggregation import RunningSum, fold

MODULES = 54
"""As many modules as the default model has."""
VISITS = 7


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
    arguments = parser.parse_args()
    print(
        f"{machine()}; {versions()}; seed 0; {arguments.parameters:,} parameters in {MODULES} modules; random numbers"
    )
    print("sites  share s  mask s (median, max)  count s  unmask s  server s  plain s  max |difference|  peak MB")
    for sites in arguments.sites:
        print(secure_sum_line(sites, arguments.parameters))


def secure_sum_line(n: int, parameters: int) -> str:
    """Run one secure sum of `n` sites in this process and return its line of the table."""
    forget_peak_memory()
    size = parameters // MODULES
    blocks = {f"block/{i}": size + 1 for i in range(MODULES)}
    session, rules = Session("benchmark", "training", 1, "model", str(n)), Rules()
    keys = {f"site-{i:03d}": ec.generate_private_key(ec.SECP384R1()) for i in range(n)}
    roster = {name: key.public_key() for name, key in keys.items()}
    sites = {name: SiteSum(session, name, key, roster, rules, blocks) for name, key in keys.items()}
    adverts = [site.advertise() for site in sites.values()]
    t = threshold(rules.threshold_share, n)
    server = ServerSum(Participants.of(session, adverts, t), blocks, roster)
    watch = StageWatch()
    for name, site in sites.items():
        with watch.timing("share"):
            sealed = site.share(adverts, t)
        server.take_shares(name, sealed)
    running, generator = RunningSum(), torch.Generator().manual_seed(0)
    for name, site in sites.items():
        updates = {block: ModuleUpdate(torch.randn(size, generator=generator), float(VISITS)) for block in blocks}
        with watch.timing("mask"):
            numbers = {
                b: np.append(to_fixed_point(u.weighted_delta)[0].numpy(), VISITS << 32) for b, u in updates.items()
            }
            masked = site.mask(server.shares_for(name), numbers)
        with watch.timing("server"):
            server.take_input(masked)
        with watch.timing("plain"):
            running = fold(running, updates, float(VISITS))
    for name, site in sites.items():
        with watch.timing("count"):
            shares = site.count(list(server.bits))
        server.take_count_shares(name, shares)
    with watch.timing("server"):
        lost_keys = server.lost_keys()
    openings = {}
    for name, site in sites.items():
        with watch.timing("unmask"):
            openings[name] = site.unmask(server.evidence_for(name, lost_keys))
    with watch.timing("server"):
        unmasked = server.unmask(lost_keys, openings, [])
    difference = max(
        int(np.abs(unmasked.values[block][:-1] - running.modules[block].change.numpy()).max()) for block in blocks
    )
    middle = {stage: statistics.median(values) for stage, values in watch.seconds.items()}
    server_seconds, plain_seconds = (sum(watch.seconds[stage]) for stage in ("server", "plain"))
    return (
        f"{n:5d}  {middle['share']:7.3f}  {middle['mask']:7.3f} {max(watch.seconds['mask']):7.3f}       "
        f"{middle['count']:7.3f}  {middle['unmask']:8.3f}  {server_seconds:8.3f}  {plain_seconds:7.3f}  "
        f"{difference:16d}  {peak_memory_mb():7.0f}"
    )
