"""What may import what: the daemons meet on the wire only, and the registry and the protocol know no event loop."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.timing import patience


def loaded_by(module: str) -> set[str]:
    """The top-level packages that importing it brings in."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(30), check=True
    )
    return set(done.stdout.split())


def test_no_other_daemon() -> None:
    assert not {"nsqd", "nsqadmin", "nsqtools"} & loaded_by("nsqlookupd.__main__")


@pytest.mark.parametrize("module", ["nsqlookupd.registry", "nsqlookupd.protocol_v1"])
def test_no_event_loop_and_no_socket(module: str) -> None:
    assert not {"trio", "anyio", "asyncio", "socket"} & loaded_by(module)
