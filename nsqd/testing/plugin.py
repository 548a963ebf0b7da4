"""The pytest plugin of this distribution: a broker as a fixture.

pytest loads it by itself (entry point `pytest11`). It imports nothing of the broker before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

__all__ = ["nsq_broker"]


@pytest.fixture
def nsq_broker() -> Iterator[str]:
    """The TCP address, `host:port`, of a broker of the test's own, with its storage in memory."""
    from nsqd.testing.in_process import running_broker

    with running_broker() as address:
        yield address
