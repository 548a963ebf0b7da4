"""Calls of Linux that Python's standard library does not have."""

from __future__ import annotations

import ctypes

__all__ = ["SYNC_FILE_RANGE_WRITE", "libc"]

SYNC_FILE_RANGE_WRITE = 2
libc = ctypes.CDLL(None, use_errno=True)
libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
libc.syncfs.argtypes = [ctypes.c_int]
