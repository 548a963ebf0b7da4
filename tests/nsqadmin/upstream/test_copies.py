"""Copies: in the snapshot, from nsqds without any, and in other forms."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nsqadmin.model import Copies
from nsqadmin.upstream.copies import read_copies
from tests.nsqadmin.cluster.polling import ONE, TWO, nsqds, polling
from tests.nsqadmin.fake_upstream import channel, topic


async def test_copies_and_losses_are_in_the_snapshot() -> None:
    async with polling(**nsqds(ONE, TWO)) as stage:
        lost = topic("t", channel("c", damaged_count=2))
        stage.upstream.nsqd(ONE, lost, copies={"wanted": 3, "in_step": 2})
        stage.upstream.nsqd(TWO, topic("t", channel("c")))
        shown = await stage.round()
    assert shown.nodes[ONE].copies == Copies(3, 2)
    assert shown.nodes[TWO].copies is None, "the original does not have the key"
    found = shown.channel("t", "c")
    assert found is not None
    assert found.stats.damaged_count == 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        {},
        {"wanted": 3},
        {"wanted": -1, "in_step": 0},
        {"wanted": 2.5, "in_step": 1},
        {"wanted": 10**40, "in_step": 1},
    ],
)
def test_another_form_is_unknown(value: Any) -> None:
    raw = msgspec.Raw(json.dumps(value).encode())
    assert read_copies(raw) is None


def test_a_missing_key_is_unknown() -> None:
    assert read_copies(msgspec.Raw()) is None
