"""Freed memory kept in the process: tensors come and go in every step and message, and the kernel charges for each.

glibc gives a large block back to the kernel when it is freed. The next block of that size is then new pages, which the
kernel clears one by one on first touch, at some 2 microseconds each: more than a small model's copy takes. Kept, they
are used again. The price is memory that is unused for the moment.
"""

from __future__ import annotations

import ctypes

# From glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST_BLOCK = 32 << 20
"""glibc accepts no higher threshold for the blocks that it takes from the kernel one by one."""
MOST_KEPT = 64 << 20
NEVER_TRIM = 2**31 - 1


def keep_freed_pages(*, without_limit: bool = False) -> bool:
    """From now on this process keeps freed memory: up to 64 MB, in blocks of up to 32 MB.

    `without_limit`: as much as it ever had, gaps between blocks included, 1.4 to 1.7 times the peak; for feature maps
    of 100 MB. Returns False, and nothing happens, where there is no glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl and macOS have no such function
    except (OSError, TypeError, AttributeError):
        return False
    if without_limit:
        return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT))
