"""Ports for daemons that are started again on the same ones.

A port that the system chooses may be taken by any outgoing connection as soon as its daemon is dead. These lie below
the range from which the system chooses, and each worker of the test runner has its own.
"""

from __future__ import annotations

import itertools
import os
import socket

__all__ = ["free_port"]

_FIRST = 12_000
_PER_WORKER = 2_000
_WORKERS = 10

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_ports = itertools.cycle(range(_FIRST + _worker * _PER_WORKER, _FIRST + (_worker + 1) * _PER_WORKER))


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that no connection will take by chance."""
    for port in itertools.islice(_ports, _PER_WORKER):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
