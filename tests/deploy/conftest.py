"""Machines and images for the tests of this folder; where they cannot be had, the tests say why and are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.base import missing_tools
from tests.deploy.machine import Machine


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine that runs systemd, with everything installed by `make install`, and nothing started yet."""
    if reason := missing_tools("systemd-nspawn", "mmdebstrap", "nsenter", "setpriv"):
        pytest.skip(reason)
    with Machine.booted() as machine:
        machine.run("make", "-C", "/src", "install")
        machine.systemctl("daemon-reload")
        yield machine
