"""What the site's own log says of an error: its whole reason, and no patient and no path of data.

The coordinator is told the type alone (permmoe_client.app). Texts of errors may name subjects and files, so that only
those are repeated here whose makers promise that they do not: the site's own refusals, and `PermmoeError.for_log`.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from permmoe.errors import PermmoeError
from permmoe.federated.audit import AuditError
from permmoe.federated.records import MalformedRecord
from permmoe.federated.refusals import Refusal
from permmoe.federated.roster import RosterError
from permmoe_client.site import SiteConfig

SEE_DETAILS = "permmoe-client --check --details names subjects and files"


def reason(error: Exception, site: SiteConfig | None) -> str:
    """One line: the error's type, where in the code it arose, and what happened. `site` names the folders."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}{_what(error, site)}"


def _what(error: Exception, site: SiteConfig | None) -> str:
    match error:
        case MalformedRecord():
            return (
                f": the message breaks the rule {error.rule!r}; are the coordinator's program and this one of the same "
                "version?"
            )
        case AuditError() | RosterError():
            return f": {error}"
        case PermmoeError() if type(error).__name__ in tuple(Refusal):
            return f": {error}"
        case PermmoeError():
            return f": {error.for_log or 'what it says may name subjects or files'}; {SEE_DETAILS}"
        case OSError():
            return f": {error.strerror or 'no reason is given'}, {_place(error, site)}"
        case MemoryError():
            return ": there is not enough memory; --check says how much this site's data take"
        case _:
            return ""


def _place(error: OSError, site: SiteConfig | None) -> str:
    """The setting of the folder that a file lies in, never the file."""
    file = error.filename
    if not isinstance(file, str | Path) or site is None:
        return "in a file that the error does not name"
    folders = {
        "cache": site.cache,
        "ledger": site.ledger,
        "state": site.state,
        "logs": site.logs,
        "folders.tables": site.folders and site.folders.tables,
        "folders.images": site.folders and site.folders.images,
        "manifest": site.manifest,
    }
    path = Path(file).absolute()
    for setting, folder in folders.items():
        if folder and (path == folder.absolute() or folder.absolute() in path.parents):
            return f"in what site.yaml names as {setting!r}"
    return "in a file that site.yaml does not name, such as an image of the manifest"
