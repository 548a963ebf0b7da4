"""What the daemon derives from its options, before anything runs."""

from __future__ import annotations

import pytest

from nsqd.daemon import _reachable


@pytest.mark.parametrize(
    ("listen_address", "broadcast_address", "expected"),
    [
        ("", "n1", ""),
        ("10.0.0.1:0", "n1", "10.0.0.1:4159"),
        ("copies.n1:4159", "n1", "copies.n1:4159"),
        ("[fd00::1]:4159", "n1", "[fd00::1]:4159"),
        (":4159", "n1", "n1:4159"),
        ("0.0.0.0:4159", "n1", "n1:4159"),
        ("[::]:4159", "n1", "n1:4159"),
        ("[::]:4159", "fd00::1", "[fd00::1]:4159"),
    ],
)
def test_where_others_reach_a_listener(listen_address: str, broadcast_address: str, expected: str) -> None:
    assert _reachable(listen_address, 4159, broadcast_address) == expected
