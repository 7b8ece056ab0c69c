"""Run a program that ends when its parent does: `python -m permmoe_server.coordination.tether PROGRAM ARGUMENT...`.

A coordinator that is killed must not leave a superlink behind that holds its socket. This works on Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent or parent == 1:
        sys.exit("the parent has ended")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
