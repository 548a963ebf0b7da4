"""The memory of this process, from /proc."""

from __future__ import annotations

import os

__all__ = ["resident_and_data"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_and_data() -> tuple[int, int]:
    """Resident bytes, and reserved bytes of data and stack; zeros without /proc."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            pages = statm.read().split()
    except OSError:
        return 0, 0
    return int(pages[1]) * _PAGE_BYTES, int(pages[5]) * _PAGE_BYTES
