"""The state of a drain: in the snapshot, from nsqds without drains, and in other forms."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nsqadmin.model import Draining, StuckPlace
from nsqadmin.upstream import responses
from nsqadmin.upstream.decoding import decode_stats
from nsqadmin.upstream.draining import MAX_STUCK, read_draining
from tests.nsqadmin.cluster.polling import ONE, REGISTRY, TWO, nsqds, polling, registries
from tests.nsqadmin.fake_upstream import FakeUpstream, node, topic

SINCE = 1_790_000_000
PAUSED = {"topic": "t", "channel": "c", "messages": 4, "reason": "paused"}


def drain(**values: Any) -> dict[str, Any]:
    return {"since": SINCE, "messages_left": 7, "stuck": [PAUSED], **values}


def read(value: Any) -> Draining | None:
    return read_draining(msgspec.Raw(msgspec.json.encode(value)))


async def test_a_drain_is_in_the_snapshot_without_further_requests() -> None:
    async with polling(**registries(REGISTRY)) as stage:
        stage.upstream.registry(REGISTRY, [node(ONE, "t"), node(TWO, "t")])
        stage.upstream.nsqd(ONE, topic("t", depth=2), draining=drain())
        stage.upstream.nsqd(TWO, topic("t", depth=3))
        shown = await stage.round()
    assert shown.nodes[ONE].draining == Draining(SINCE, 7, (StuckPlace("t", "c", 4, "paused"),))
    assert shown.nodes[TWO].draining is None, "the original does not have the key"
    assert shown.topics["t"].stats.depth == 5
    assert stage.upstream.requests[f"{ONE}/stats"] == 1
    assert not [key for key in stage.upstream.requests if "drain" in key]


async def test_a_restarted_node_is_not_draining() -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE, draining=drain())
        assert (await stage.round()).nodes[ONE].draining is not None
        stage.upstream.nsqd(ONE)
        assert (await stage.round()).nodes[ONE].draining is None


async def test_a_node_that_stopped_answering_is_still_draining() -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE, draining=drain())
        await stage.round()
        del stage.upstream.responses[ONE]
        view = (await stage.round()).nodes[ONE]
    assert view.problem is not None
    assert view.draining is not None


@pytest.mark.parametrize("names", [1, 4_000], ids=["small", "large"])
@pytest.mark.parametrize("garbage", [None, False, 7, 1e300, "draining", [PAUSED], {"since": "x"}])
async def test_an_invalid_drain_does_not_affect_the_rest_of_the_response(garbage: Any, names: int) -> None:
    upstream = FakeUpstream.make(**nsqds(ONE))
    upstream.nsqd(ONE, *(topic(f"topic-{n:040}") for n in range(names)), draining=garbage)
    stats = await responses.stats(upstream, ONE)
    assert len(stats.topics or ()) == names
    assert stats.draining == (Draining() if isinstance(garbage, dict) else None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"since": -1},
        {"since": 10**15},
        {"since": "today"},
        {"messages_left": -1},
        {"messages_left": 2**64},
        {"messages_left": "many"},
        {"stuck": 3},
    ],
)
def test_a_drain_of_another_form_has_unknown_size(wrong: dict[str, Any]) -> None:
    assert read(drain(**wrong)) == Draining(0, None, (), 0)


def test_white_space_and_unknown_keys_are_ignored() -> None:
    body = b'{"draining" : \n {"since":1, "messages_left":2, "stuck":null, "more":{}} , "topics":[]}'
    assert decode_stats(body, clients=False).draining == Draining(1, 2)


@pytest.mark.parametrize(
    "row",
    [
        7,
        {**PAUSED, "topic": ""},
        {**PAUSED, "topic": "x" * 65},
        {**PAUSED, "channel": "x" * 65},
        {**PAUSED, "channel": None},
        {**PAUSED, "messages": -1},
        {**PAUSED, "reason": "x" * 81},
        {"topic": "t"},
    ],
)
def test_invalid_stuck_places_are_counted(row: Any) -> None:
    assert read(drain(stuck=[row, PAUSED])) == Draining(SINCE, 7, (StuckPlace("t", "c", 4, "paused"),), 1)


def test_a_few_of_many_stuck_places_are_kept_and_the_rest_counted() -> None:
    found = read(drain(stuck=[{**PAUSED, "channel": f"c{n}"} for n in range(20_000)]))
    assert found is not None
    assert [place.channel for place in found.stuck] == [f"c{n}" for n in range(MAX_STUCK)]
    assert found.more_stuck == 20_000 - MAX_STUCK


DEEP = b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize(
    "raw", [b'{"x":' + DEEP + b"}", b'{"since":1,"messages_left":1,"stuck":[' + DEEP + b"]}"]
)
def test_deep_nesting_is_a_drain_of_unknown_size(raw: bytes) -> None:
    assert read_draining(msgspec.Raw(raw)) is not None
