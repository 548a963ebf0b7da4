"""What is set for topics and channels: who wins, and what survives."""

from __future__ import annotations

import logging

import pytest

from nsqd.broker import NotFound, Refused
from nsqd.rules import NOTHING_SET, Settings, parse_rules
from tests.nsqd.broker.harness import Harness

RULES = parse_rules([{"topic": "t", "max_depth": 9, "policy": "drop_oldest"}])


def test_without_rules_nothing_is_set() -> None:
    harness = Harness()
    assert harness.create().settings is NOTHING_SET
    assert harness.topic().settings is NOTHING_SET


def test_rules_hold_for_new_and_for_recovered_channels() -> None:
    harness = Harness(rules=RULES)
    expected = Settings(max_depth=9, policy="drop_oldest")
    assert harness.create().settings == expected
    assert harness.create("e#ephemeral").settings == expected
    assert harness.topic().settings == expected
    assert harness.create(topic="other").settings is NOTHING_SET
    harness.kill()
    assert harness.channel().settings == harness.topic().settings == expected


@pytest.mark.parametrize("how", ["kill", "restart", "snapshot", "snapshot between"])
def test_what_operators_set_survives(how: str) -> None:
    harness = Harness(rules=RULES)
    harness.create()
    harness.create("d")
    topic = harness.topic()
    topic.set_limits({"max_depth": 5, "max_attempts": 3, "retain": (7, None)})
    topic.set_channel_limits("c", {"max_depth": 2})
    topic.set_channel_limits("d", {"max_depth": 1})
    if how == "snapshot between":
        harness.snapshot()
    topic.set_channel_limits("d", {})

    def check() -> None:
        assert harness.topic().settings == Settings(
            max_depth=5, max_attempts=3, retain=(7, None), policy="drop_oldest"
        )
        of_channel = Settings(max_depth=2, max_attempts=3, policy="drop_oldest")
        assert harness.channel("c").settings == of_channel
        assert harness.channel("d").settings == Settings(max_depth=5, max_attempts=3, policy="drop_oldest")

    check()
    if how == "snapshot":
        harness.snapshot()
    if how == "restart":
        harness.restart()
    else:
        harness.kill()
    check()


def test_a_channel_that_is_made_again_has_none() -> None:
    harness = Harness()
    harness.create()
    harness.topic().set_channel_limits("c", {"max_depth": 2})
    harness.topic().delete_channel("c")
    assert harness.create().settings is NOTHING_SET
    harness.kill()
    assert harness.channel().settings is NOTHING_SET


def test_those_in_memory_have_theirs_in_memory() -> None:
    harness = Harness()
    harness.create("e#ephemeral")
    harness.create("c", topic="u#ephemeral")
    harness.topic().set_channel_limits("e#ephemeral", {"max_depth": 2})
    harness.topic("u#ephemeral").set_limits({"max_depth": 3})
    assert harness.channel("e#ephemeral").settings == Settings(max_depth=2)
    assert harness.channel("c", "u#ephemeral").settings == Settings(max_depth=3)
    assert harness.topic().settings is NOTHING_SET


def test_what_cannot_be_written_is_not_set() -> None:
    harness = Harness()
    harness.create()
    harness.fail("append")
    with pytest.raises(Refused):
        harness.topic().set_limits({"max_depth": 2})
    with pytest.raises(Refused):
        harness.topic().set_channel_limits("c", {"max_depth": 2})
    assert harness.topic().settings is harness.channel().settings is NOTHING_SET
    with pytest.raises(NotFound):
        harness.topic().set_channel_limits("d", {})


def test_a_rule_that_matches_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(rules=RULES)
    assert not caplog.records, "there are no topics yet"
    harness.create(topic="u")
    with caplog.at_level(logging.WARNING):
        harness.restart()
    assert [record.getMessage() for record in caplog.records] == [
        "rule 1: matches none of the 1 topics here (topic t, channel *); is it misspelt?"
    ]
