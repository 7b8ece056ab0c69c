"""All checks, in the order in which someone would mend what they find."""

from __future__ import annotations

from pathlib import Path

from permmoe.config import ModelConfig
from permmoe.errors import ConfigurationError
from permmoe.plain_text import plain, plain_lines
from permmoe.preparation import progress as preparing
from permmoe_client.preflight import data, federation, files, images, machine, network, preparation, studies
from permmoe_client.preflight.cohort import Progress
from permmoe_client.preflight.facts import Check, Facts, gather
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok
from permmoe_client.preflight.report import Finding, Report, Verdict
from permmoe_client.preflight.surroundings import Surroundings
from permmoe_client.site import SiteConfig, read_site

CONFIGURATION, CONFIGURATION_TITLE = "configuration.readable", "The settings can be read and name nothing unknown"
CHECKS: tuple[Check, ...] = (
    *files.CHECKS,
    *machine.CHECKS,
    *federation.CHECKS,
    *network.CHECKS,
    *data.CHECKS,
    *images.CHECKS,
    *preparation.CHECKS,
    *studies.CHECKS,
)


def preflight(
    path: Path,
    *,
    offline: bool = False,
    images: bool = True,
    model: ModelConfig | None = None,
    world: Surroundings | None = None,
    progress: Progress | None = None,
    preparation_progress: preparing.Progress = preparing.unseen,
) -> Report:
    """Check a site's settings, files, machine, line, data and studies; `path` is its YAML file.

    Raises nothing for bad input: whatever is wrong is a finding. Writes nothing, and sends nothing but `GET /health`
    to a server that has proved itself; while `offline` not even that. Without `images` no image is opened. The data
    are checked against `model`, by default that of an approved study. `progress` is called for every image that has
    been read, `preparation_progress` for every step of raw images that are prepared for a try.
    """
    site = _settings(path)
    if not isinstance(site, SiteConfig):
        return _stopped(site)
    try:
        facts = gather(
            path,
            site,
            offline=offline,
            images=images,
            model=model,
            world=world or Surroundings(),
            progress=progress,
            preparation_progress=preparation_progress,
        )
    except Exception as error:
        return _stopped(_stumbled(error))
    good = _finding(CONFIGURATION, CONFIGURATION_TITLE, ok(f"{path}: site {site.name}"))
    return Report((good, *(_finding(check.id, check.title, _outcome_of(check, facts)) for check in CHECKS)))


def _settings(path: Path) -> SiteConfig | Outcome:
    remedy = "mend the file; the kit's site.yaml shows every setting with its meaning"
    try:
        return read_site(path)
    except ConfigurationError as error:
        # The error quotes the file, which could be a table of patients that was named by mistake.
        if path.suffix not in (".yaml", ".yml"):
            return failed(f"{path} is not a YAML file of settings", "name the site's YAML file", (str(error),))
        return failed(str(error), remedy)
    except (OSError, ValueError, RecursionError) as error:
        return failed(f"{path} cannot be read ({type(error).__name__})", remedy)


def _stopped(outcome: Outcome) -> Report:
    skipped = (Finding(c.id, c.title, Verdict.SKIPPED, f"needs {CONFIGURATION}") for c in CHECKS)
    return Report((_finding(CONFIGURATION, CONFIGURATION_TITLE, outcome), *skipped))


def _outcome_of(check: Check, facts: Facts) -> Outcome:
    try:
        return check.judge(facts)
    except Skip as skip:
        return Outcome(Verdict.SKIPPED, str(skip), skip.remedy)
    # A check that stumbles must not hide what the others found.
    except Exception as error:
        return _stumbled(error)


def _stumbled(error: Exception) -> Outcome:
    """A path or a text of an error may name a subject, so it is shown on request only."""
    text = (str(error),)
    if isinstance(error, OSError):
        return failed(
            f"something that it looks at cannot be read ({error.strerror})",
            "run the check with --details to see what; let this account read it",
            text,
        )
    return failed(
        f"the check itself ended with {type(error).__name__}",
        "report this check, with the version of permmoe, to its makers",
        text,
    )


def _finding(check: str, title: str, outcome: Outcome) -> Finding:
    # Certificates, rosters and studies are other parties' words; files have names of any characters.
    detail, remedy, items = plain_lines(outcome.detail), plain_lines(outcome.remedy), tuple(map(plain, outcome.items))
    return Finding(check, title, outcome.verdict, detail, remedy, items)
