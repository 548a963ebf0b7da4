"""Fixtures for the tests of nsqlookupd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.process.lookup import LookupDaemon


@pytest.fixture
def lookupd() -> Iterator[LookupDaemon]:
    """A real registry, which runs."""
    with LookupDaemon() as lookupd:
        lookupd.start()
        yield lookupd
