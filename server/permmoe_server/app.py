"""The coordinator's Flower app: it reads the plan and runs the study (permmoe_server.studies.study_run).

Flower hands over `run_config`, of which every value is a text:

| key | names |
|---|---|
| plan | a JSON file of permmoe.federated.plan.RoundPlan |
| out | the study's folder; started again on the same folder a study goes on |
| sites | optional: a JSON file of {node: site}, read anew before each exchange; other nodes are not asked |
| standing | optional: a file in which the study says whom it waits for; with it, it waits for as long as they take |
| stop | goes with `standing`: a file that, where it exists, ends the run after the present round |
| roster, authority | needed by a secure study: the signed roster, and the certificate that it is verified with |
| server-key, server-certificate | optional: with them sites get receipts, and a signed chain of models |
| regions | optional: a folder with the folder of each region, read anew before each exchange |

Over a superlink `sites` and `roster` are needed: what comes counts as a site's where it is signed with the site's key.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import countersign
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan, StudyKind, read_plan
from permmoe.model import PerMMoE
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe_server.coordination.node_homes import NodeHomes
from permmoe_server.coordination.node_keys import NodeKeys
from permmoe_server.protocol.federation import (
    Clock,
    Countersigner,
    Federation,
    MessageGrid,
    RosterSource,
    RoundObserver,
    SignedRoster,
    SiteDirectory,
    no_directory,
)
from permmoe_server.protocol.reply_sizes import LargestReply, largest_replies, survey_replies
from permmoe_server.provisioning.authority import Identity, load_certificate, read_identity
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.roster_file import RosterFile
from permmoe_server.studies.evaluation_run import run_evaluation
from permmoe_server.studies.model_register import MODELS_FILE, ModelRegister
from permmoe_server.studies.standing import StandingFile
from permmoe_server.studies.study_run import locked, run_study
from permmoe_server.studies.survey_run import run_survey

RUN: Mapping[StudyKind, Callable[[Federation, RoundPlan, Path], None]] = {
    "training": run_study,
    "survey": run_survey,
    "evaluation": run_evaluation,
}
"""How a study is brought to its end, by its kind."""
HTTP_GRID = "flwr.superlink.grid.http_grid"
"""The module that defines Flower's connection to a superlink."""


def make_app(observer: RoundObserver | None = None, clock: Clock | None = None) -> ServerApp:
    """Return the app; it calls the observer as its rounds go on, and goes by the clock, by default this machine's."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Run a study to its end.

        Raises ConfigurationError for a plan that cannot be used or is not the folder's own.
        """
        plan = read_plan(_path(context, "plan"))
        out = _path(context, "out")
        out.mkdir(parents=True, exist_ok=True)
        keep_freed_pages()
        standing = _standing_file(context)
        server, roster = _server_identity(context), _roster_source(context)
        with (
            locked(out),
            standing.kept() if standing else nullcontext(),
            _untrusting(grid, plan, roster, context) as sites,
        ):
            federation = Federation(
                sites,
                clock=clock or Clock(),
                directory=without_withdrawn(_site_directory(context), plan),
                roster=roster,
                countersigner=_countersigner(server) if server else None,
                announcer=ModelRegister(out / MODELS_FILE, plan.digest(), server).announce if server else None,
                observer=observer or RoundObserver(),
                on_readiness=standing.tell if standing else None,
                is_to_stop=standing.is_to_stop if standing else lambda: False,
            )
            RUN[plan.kind](federation, plan, out)

    return app


app = make_app()


def _untrusting(
    grid: Grid, plan: RoundPlan, roster: RosterSource | None, context: Context
) -> AbstractContextManager[MessageGrid]:
    """Return a grid that neither waits nor trusts, where `grid` is Flower's connection to a superlink.

    Where the run names a folder for regions, it reaches their sites, too, and those of regions that are added while the
    study runs. Raises ConfigurationError where the run names no `sites` or no `roster`: whose a reply is could not be
    told.
    """
    # Importing the module takes a second. Where no one has imported it, the grid cannot be of its class.
    if HTTP_GRID not in sys.modules:
        return nullcontext(grid)
    from flwr.superlink.grid.http_grid import HttpGrid

    from permmoe_server.coordination.grid_member import Connect
    from permmoe_server.coordination.joined_grid import JoinedGrid
    from permmoe_server.coordination.nonblocking_grid import FewAtOnce, NonblockingGrid
    from permmoe_server.coordination.region_run import region_run

    if not isinstance(grid, HttpGrid):
        return nullcontext(FewAtOnce(grid))
    _path(context, "sites")
    largest, directory, listed = _largest_replies(plan, roster), _site_directory(context), _roster_file(context)
    keys = NodeKeys(directory, listed)
    if "regions" not in context.run_config:
        return nullcontext(NonblockingGrid(grid, largest, keys))
    folder = _path(context, "regions")

    def regions() -> dict[str, Connect]:
        return {region.name: partial(region_run, region) for region in FederationFolder.all_in(folder)}

    return JoinedGrid(grid, regions, largest, NodeHomes(directory, listed), keys)


def _largest_replies(plan: RoundPlan, roster: RosterSource | None) -> LargestReply:
    def n_sites() -> int:
        return len(roster().keys) if roster else 0

    if plan.survey:
        return survey_replies(plan, n_sites)
    return largest_replies(plan, ModuleLayout.of(PerMMoE(plan.model)), n_sites)


def _standing_file(context: Context) -> StandingFile | None:
    """Return the file in which the study says how it stands; None where the run names none."""
    if "standing" not in context.run_config:
        return None
    return StandingFile(_path(context, "standing"), _path(context, "stop"))


def _server_identity(context: Context) -> Identity | None:
    """Return the server's key and certificate; None where the run names no `server-key`."""
    if "server-key" not in context.run_config:
        return None
    return read_identity(_path(context, "server-certificate"), _path(context, "server-key"))


def _countersigner(server: Identity) -> Countersigner:
    """Return a function that signs with the server's key."""
    return lambda head: countersign(head, server.key, server.certificate, server.certificate_pem.decode())


def _roster_source(context: Context) -> RosterSource | None:
    """Return a function that reads the roster for a secure study; None where the run names no `roster`."""
    if "roster" not in context.run_config:
        return None
    listed = _roster_file(context)

    def read() -> SignedRoster:
        found = listed.read()
        return SignedRoster(found.signed, found.keys)

    return read


def _roster_file(context: Context) -> RosterFile:
    """Return the signed roster that the run names."""
    return RosterFile(_path(context, "roster"), load_certificate(_path(context, "authority")))


def _site_directory(context: Context) -> SiteDirectory:
    """Return a function that reads the site of each node, from the file that the run names as `sites`."""
    if "sites" not in context.run_config:
        return no_directory
    path = _path(context, "sites")
    return lambda: {int(node): site for node, site in json.loads(path.read_text()).items()}


def without_withdrawn(directory: SiteDirectory, plan: RoundPlan) -> SiteDirectory:
    """The directory without the hospital that a study forgets: it is not asked, and nobody awaits it."""
    if plan.forgets is None or not plan.forgets.is_whole_site:
        return directory
    gone = plan.forgets.site

    def read() -> Mapping[int, str] | None:
        names = directory()
        if names is None:
            raise ConfigurationError(f"the study is without site {gone}, and nothing says which node that is")
        return {node: name for node, name in names.items() if name != gone}

    return read


def _path(context: Context, key: str) -> Path:
    if key not in context.run_config:
        raise ConfigurationError(f"the run configuration lacks {key!r}; pass --run-config '{key}=\"/path\"'")
    return Path(str(context.run_config[key]))
