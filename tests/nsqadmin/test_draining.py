"""What the picture makes of nsqds that drain, of those that know no drains, and of garbage where a drain is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nsqadmin.cluster.model import Draining, StuckPlace
from nsqadmin.upstream import answers
from nsqadmin.upstream.draining import MAX_STUCK, read_draining
from tests.nsqadmin.fake_upstream import FakeUpstream, node, topic
from tests.nsqadmin.test_picture import ONE, REGISTRY, TWO, nsqds, registries, stage

SINCE = 1_790_000_000
PAUSED = {"topic": "t", "channel": "c", "messages": 4, "reason": "paused"}


def drain(**values: Any) -> dict[str, Any]:
    return {"since": SINCE, "messages_left": 7, "stuck": [PAUSED], **values}


def read(value: Any) -> Draining | None:
    return read_draining(msgspec.Raw(msgspec.json.encode(value)))


async def test_a_draining_node_is_known_from_the_answer_that_is_asked_for_anyway() -> None:
    async with stage(**registries(REGISTRY)) as it:
        it.upstream.registry(REGISTRY, [node(ONE, "t"), node(TWO, "t")])
        it.upstream.nsqd(ONE, topic("t", depth=2), draining=drain())
        it.upstream.nsqd(TWO, topic("t", depth=3))
        shown = await it.round()
    assert shown.nodes[ONE].draining == Draining(SINCE, 7, (StuckPlace("t", "c", 4, "paused"),))
    assert shown.nodes[TWO].draining is None, "the original does not have the key"
    assert shown.topics["t"].stats.depth == 5
    assert {key: count for key, count in it.upstream.asked.items() if key.startswith(ONE)} == {
        f"{ONE}/stats": 1
    }


async def test_a_node_that_was_started_again_does_not_drain_any_more() -> None:
    async with stage(**nsqds(ONE)) as it:
        it.upstream.nsqd(ONE, draining=drain())
        assert (await it.round()).nodes[ONE].draining is not None
        it.upstream.nsqd(ONE)
        assert (await it.round()).nodes[ONE].draining is None


async def test_a_node_that_fell_silent_is_remembered_as_draining() -> None:
    async with stage(**nsqds(ONE)) as it:
        it.upstream.nsqd(ONE, draining=drain())
        await it.round()
        del it.upstream.answers[ONE]
        view = (await it.round()).nodes[ONE]
    assert view.problem is not None
    assert view.draining is not None


@pytest.mark.parametrize("names", [1, 4_000], ids=["a small answer", "a large one"])
@pytest.mark.parametrize("garbage", [None, False, 7, 1e300, "draining", [PAUSED], {"since": "x"}])
async def test_garbage_costs_nothing_else_of_the_answer(garbage: Any, names: int) -> None:
    upstream = FakeUpstream.make(**nsqds(ONE))
    upstream.nsqd(ONE, *(topic(f"topic-{n:040}") for n in range(names)), draining=garbage)
    stats = await answers.stats(upstream, ONE)
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
def test_a_drain_told_in_other_words_is_one_of_unknown_size(wrong: dict[str, Any]) -> None:
    assert read(drain(**wrong)) == Draining(0, None, (), 0)


def test_white_space_and_unknown_keys_do_no_harm() -> None:
    body = b'{"draining" : \n {"since":1, "messages_left":2, "stuck":null, "more":{}} , "topics":[]}'
    assert answers._decode_sliced(body).draining == Draining(1, 2)


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
def test_places_that_cannot_be_read_are_counted(row: Any) -> None:
    assert read(drain(stuck=[row, PAUSED])) == Draining(SINCE, 7, (StuckPlace("t", "c", 4, "paused"),), 1)


def test_of_many_places_a_few_are_kept_and_the_rest_counted() -> None:
    found = read(drain(stuck=[{**PAUSED, "channel": f"c{n}"} for n in range(20_000)]))
    assert found is not None
    assert [place.channel for place in found.stuck] == [f"c{n}" for n in range(MAX_STUCK)]
    assert found.more_stuck == 20_000 - MAX_STUCK


DEEP = b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize(
    "told", [b'{"x":' + DEEP + b"}", b'{"since":1,"messages_left":1,"stuck":[' + DEEP + b"]}"]
)
def test_mad_nesting_is_a_drain_too(told: bytes) -> None:
    assert read_draining(msgspec.Raw(told)) is not None
