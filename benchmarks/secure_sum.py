"""What the secure sum costs: masking at a site, work and memory at the server, against a plain sum of the same numbers.

python benchmarks/secure_sum.py [--sites 10] [--parameters 5000000]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.federated.fixed_point import to_fixed_point
from permmoe.federated.secure.secure_sum import Cohort, Rules, ServerSum, Session, SiteSum, threshold
from permmoe.federated.update import ModuleUpdate
from permmoe.runtime.provenance import machine, versions
from permmoe_server.protocol.aggregation import RunningSum, fold

BLOCKS = 54
"""As many modules as the default model has."""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--parameters", type=int, default=5_000_000)
    arguments = parser.parse_args()
    print(f"{machine()}; {versions()}; seed 0; {arguments.parameters:,} parameters in {BLOCKS} blocks; random numbers")
    print("sites  share s  mask s (median, max)  count s  open s  server s  plain s  max |difference|  server peak MB")
    for n in arguments.sites:
        _run(n, arguments.parameters)


def _run(n: int, parameters: int) -> None:
    size = parameters // BLOCKS
    blocks = {f"block/{i}": size + 1 for i in range(BLOCKS)}
    session, rules = Session("benchmark", "training", 1, "model", str(n)), Rules()
    keys = {f"site-{i:03d}": ec.generate_private_key(ec.SECP384R1()) for i in range(n)}
    roster = {name: key.public_key() for name, key in keys.items()}
    sites = {name: SiteSum(session, name, key, roster, rules, blocks) for name, key in keys.items()}
    adverts = [site.advertise() for site in sites.values()]
    t = threshold(rules.threshold_share, n)
    server = ServerSum(Cohort.of(session, adverts, t), blocks, roster)
    seconds: dict[str, list[float]] = {stage: [] for stage in ("share", "mask", "count", "open", "server", "plain")}
    for name, site in sites.items():
        started = time.perf_counter()
        sealed = site.share(adverts, t)
        seconds["share"].append(time.perf_counter() - started)
        server.take_shares(name, sealed)
    running, generator = RunningSum(), torch.Generator().manual_seed(0)
    for name, site in sites.items():
        updates = {block: ModuleUpdate(torch.randn(size, generator=generator), 7.0) for block in blocks}
        started = time.perf_counter()
        numbers = {b: np.append(to_fixed_point(u.weighted_delta)[0].numpy(), 7 << 32) for b, u in updates.items()}
        masked = site.mask(server.shares_for(name), numbers)
        seconds["mask"].append(time.perf_counter() - started)
        started = time.perf_counter()
        server.take_input(masked)
        seconds["server"].append(time.perf_counter() - started)
        started = time.perf_counter()
        running = fold(running, updates, 7.0)
        seconds["plain"].append(time.perf_counter() - started)
    for name, site in sites.items():
        started = time.perf_counter()
        shares = site.count(list(server.bits))
        seconds["count"].append(time.perf_counter() - started)
        server.take_count_shares(name, shares)
    started = time.perf_counter()
    evidence = server.evidence()
    seconds["server"].append(time.perf_counter() - started)
    openings = {}
    for name, site in sites.items():
        started = time.perf_counter()
        openings[name] = site.open(evidence)
        seconds["open"].append(time.perf_counter() - started)
    started = time.perf_counter()
    opened = server.open(evidence, openings, [], rules.min_holders)
    seconds["server"].append(time.perf_counter() - started)
    difference = max(
        int(np.abs(opened.values[block][:-1] - running.modules[block].change.numpy()).max()) for block in blocks
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    middle = {stage: statistics.median(values) for stage, values in seconds.items()}
    print(
        f"{n:5d}  {middle['share']:7.3f}  {middle['mask']:7.3f} {max(seconds['mask']):7.3f}       "
        f"{middle['count']:7.3f}  {middle['open']:6.3f}  {sum(seconds['server']):8.3f}  {sum(seconds['plain']):7.3f}  "
        f"{difference:16d}  {peak:14.0f}"
    )


if __name__ == "__main__":
    main()
