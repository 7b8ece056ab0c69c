"""The machine: software, memory, device, limits, clock."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from permmoe.data.dataset import MEMORY_BUDGET_BYTES
from permmoe.errors import ConfigurationError
from permmoe.runtime.device_errors import in_words, is_device_failure
from permmoe.runtime.devices import AUTO
from permmoe.runtime.text import size_text
from permmoe_client.connection.clock import AHEAD_SECONDS, clock_text, is_clock_right
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.files import cache_bytes
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning
from permmoe_client.preflight.surroundings import DISTRIBUTION

BASE_MEMORY_BYTES = 2 * 2**30
"""What PyTorch, Flower and a model's training take beside the data."""
OPEN_FILES = 256
"""Connections, log, ledger, and the images that several readers have open at once."""
MEND_GPU = "mend the GPU, its driver, or what fills it: nvidia-smi shows them"
SET_CLOCK = "let the machine follow a time server: timedatectl set-ntp true"
REINSTALL = "install the release again into an environment of its own: pip install permmoe"


def python(facts: Facts) -> Outcome:
    """The package declares the versions of Python that it runs on."""
    try:
        wanted = metadata(DISTRIBUTION)["Requires-Python"]
    except PackageNotFoundError:
        raise Skip("permmoe is not installed as a package") from None
    version = facts.world.python()
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return failed(f"Python {version}; permmoe needs {wanted}", "install permmoe with such a Python")
    return ok(f"Python {version}")


def packages(facts: Facts) -> Outcome:
    """Every requirement that permmoe's package declares, extras left out."""
    wrong: list[str] = []
    count = 0
    for text in facts.world.requirements():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        version = facts.world.installed(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is absent")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        return failed("; ".join(wrong), REINSTALL)
    return ok(f"{count} packages, each in a version that permmoe was made for")


def memory(facts: Facts) -> Outcome:
    """Memory holds the software and all inputs, up to the size from which they stay on disk."""
    needed = BASE_MEMORY_BYTES + min(cache_bytes(facts), MEMORY_BUDGET_BYTES)
    free = facts.world.memory_bytes()
    detail = f"{size_text(float(free))} free, {size_text(float(needed))} needed"
    if free < needed:
        return warning(detail, "end other programs, or give the machine more memory")
    return ok(detail)


def threads(facts: Facts) -> Outcome:
    """More threads than processors slow a training down."""
    wanted, there = facts.site.threads, facts.world.threads()
    if wanted > there:
        return warning(f"'threads' is {wanted}, but {there} processors may be used", f"set 'threads' to {there} or 0")
    return ok(f"{wanted or 'as many as PyTorch likes'} of {there}")


def device(facts: Facts) -> Outcome:
    """A product is computed there."""
    name = facts.site.device
    try:
        return ok(f"{name}: {facts.world.compute(name)}")
    except (ConfigurationError, RuntimeError, AssertionError) as error:
        reason = in_words(error) if is_device_failure(error) else str(error).partition("\n")[0] or type(error).__name__
        if name == AUTO:
            return warning(f"{name}: {reason}; rounds are computed on the CPU", MEND_GPU)
        return failed(f"{name}: {reason}", f"set 'device' to cpu or auto, or {MEND_GPU}")


def account(facts: Facts) -> Outcome:
    """Nothing here needs an administrator's rights."""
    if facts.world.user() == 0:
        return warning(
            "this is root; permmoe-client needs no such rights",
            "make an account for it that may read the data: useradd --system permmoe",
        )
    return ok("not root")


def umask(facts: Facts) -> Outcome:
    """Files that the client makes are as open as this mask lets them be."""
    mask = facts.world.umask()
    if mask & 0o022 != 0o022:
        return warning(f"umask {mask:03o}: others may write new files", "umask 077, or UMask=0077 in the systemd unit")
    return ok(f"umask {mask:03o}")


def core_dumps(facts: Facts) -> Outcome:
    """A crashed program's memory, written to a file, holds patients' data."""
    if facts.world.core_bytes() != 0:
        return warning(
            "a crash would write the program's memory, patients' data in it, to a file",
            "ulimit -c 0, or LimitCORE=0 in the systemd unit",
        )
    return ok("a crash leaves no copy of memory")


def open_files(facts: Facts) -> Outcome:
    """Each connection and each image takes one."""
    limit = facts.world.open_files()
    if 0 <= limit < OPEN_FILES:
        return warning(f"{limit} files may be open at once", "ulimit -n 1024, or LimitNOFILE=1024 in the systemd unit")
    return ok(f"{limit} files may be open at once" if limit >= 0 else "no limit")


def clock_plausible(facts: Facts) -> Outcome:
    """A certificate is made before it is used."""
    start = facts.credentials.certificate.need("files.certificate").not_valid_before_utc
    now = facts.world.now()
    if now < start:
        return failed(f"it is {now:%Y-%m-%d %H:%M} here, before the site's certificate was made", SET_CLOCK)
    return ok(f"{now:%Y-%m-%d %H:%M} UTC")


def clock(facts: Facts) -> Outcome:
    """The clock agrees with the server's `Date`; without one, the system says whether it follows a time server."""
    answer = facts.line.answer.result
    if answer is not None and answer.ahead_seconds is not None:
        ahead = answer.ahead_seconds
        if not is_clock_right(ahead):
            return failed(f"{clock_text(ahead)}: it refuses such requests", SET_CLOCK)
        return ok(clock_text(ahead))
    match facts.world.is_clock_synchronised():
        case True:
            return ok("the machine follows a time server")
        case False:
            return warning(
                "the machine follows no time server; the coordinator refuses requests of a clock that is "
                f"{AHEAD_SECONDS:.0f} s ahead",
                SET_CLOCK,
            )
    raise Skip("neither the server nor the system says how right the clock is", "timedatectl shows it")


CHECKS = (
    Check("machine.python", "Python is of a version that permmoe runs on", python),
    Check("machine.packages", "The packages are of versions that permmoe was made for", packages),
    Check("machine.memory", "There is memory for the data and a training", memory),
    Check("machine.threads", "There are as many processors as threads", threads),
    Check("machine.device", "The device computes", device),
    Check("machine.account", "The account is no administrator's", account),
    Check("machine.umask", "New files cannot be written by others", umask),
    Check("machine.core_dumps", "A crash leaves no copy of memory", core_dumps),
    Check("machine.open_files", "Enough files may be open at once", open_files),
    Check("machine.clock_plausible", "The date is not before the site's certificate", clock_plausible),
    Check("machine.clock", "The clock is right", clock),
)
