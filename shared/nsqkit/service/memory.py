"""How much memory this process takes, as Linux counts it."""

from __future__ import annotations

import os

__all__ = ["resident_and_data"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_and_data() -> tuple[int, int]:
    """Bytes in memory, and bytes of data and stack that are reserved; zeros where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            pages = statm.read().split()
    except OSError:
        return 0, 0
    return int(pages[1]) * _PAGE_BYTES, int(pages[5]) * _PAGE_BYTES
