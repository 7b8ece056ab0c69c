"""Which sites are in the secure sums that this site's input is in, as its ledger remembers them, restarts included.

It knows the sums that it helped to unmask. Of one that was unmasked after it went silent, or that it had no input in,
it knows nothing: there the other sites' ledgers count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from permmoe.federated.audit import Entry, LedgerHead
from permmoe.federated.release_account import ReleaseAccount
from permmoe_client.release.ledger import Ledger

ABOUT = ("study", "study_name", "round", "purpose", "model_sha256")
"""What the entry of a sum says as the entry of the site's input does."""


def enter_sum(ledger: Ledger, facts: Mapping[str, object], sites: Sequence[str]) -> LedgerHead:
    """Write the entry of a sum that is about to be unmasked. `facts`: of the site's input. Raises LedgerError."""
    return ledger.append("sum", {**{name: facts[name] for name in ABOUT}, "sites": list(sites)})


def account_of_sums(entries: Iterable[Entry], studies: Collection[str]) -> ReleaseAccount:
    """The groups of sites that all sums of these studies leave indistinguishable, whatever model and part they were
    about."""
    account = ReleaseAccount()
    for entry in entries:
        if entry.kind == "sum" and entry.facts.get("study") in studies:
            account = account.after(dict.fromkeys(map(str, entry.facts["sites"]), 1))
    return account
