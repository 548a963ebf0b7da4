"""Ports for daemons that are started again on the same ones.

A port that the system chooses may be taken by any outgoing connection as soon as its daemon is dead. These lie below
the range from which the system chooses, and each process that runs tests has a block of them to itself: the workers of
one session, and those of another one on the same machine.
"""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import Iterator

__all__ = ["free_port"]

_FIRST, _LAST = 12_000, 32_000
_PER_PROCESS = 500


@functools.cache
def _ports() -> Iterator[int]:
    for first in range(_LAST - _PER_PROCESS, _FIRST, -_PER_PROCESS):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0nsq-trio-tests-ports-{first}")
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        return itertools.cycle(range(first, first + _PER_PROCESS))
    raise OSError("no block of ports is free")


_locks: list[socket.socket] = []
"""Bound to the name of the block that this process has, until it ends."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that no connection will take by chance."""
    for port in itertools.islice(_ports(), _PER_PROCESS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
