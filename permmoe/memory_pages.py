"""Freed memory kept in the process: feature maps of 100 MB come and go in every step, and the kernel charges for each.

glibc gives a large block back to the kernel when it is freed. The next block of that size is then new pages, which the
kernel clears one by one on first touch: 7 to 15% of a convolutional step's time, measured. Kept, they are used again.
The price is memory: a process keeps the most that it ever had and gaps between blocks, 1.4 to 1.7 times the peak.
"""

from __future__ import annotations

import ctypes
from functools import cache

# From glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER_TRIM = 2**31 - 1


@cache
def keep_freed_pages() -> bool:
    """From now on freed memory stays in this process. False, and nothing happens, where there is no glibc."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl and macOS have no such function
    except (OSError, TypeError, AttributeError):
        return False
    # No block by itself from the kernel: M_MMAP_THRESHOLD would do, but glibc before 2.35 caps it at 32 MB.
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
