"""What a registry is told: present state, what has gone before what has come."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.lookup.announcements import Announcements


@attrs.define
class FakeTopic:
    channels: dict[str, None] = attrs.field(factory=dict)


class World:
    """Topics, a registry that hears of them, and both kept together."""

    def __init__(self, **topics: list[str]) -> None:
        self.topics = {name: FakeTopic(dict.fromkeys(channels)) for name, channels in topics.items()}
        self.announcements = Announcements(self.topics)
        self.announcements.restart()
        self.registry: set[tuple[str, str]] = set()

    def create_topic(self, name: str) -> None:
        if name not in self.topics:
            self.topics[name] = FakeTopic()
            self.announcements.topic_created(name)

    def delete_topic(self, name: str) -> None:
        if self.topics.pop(name, None):
            self.announcements.topic_deleted(name)

    def create_channel(self, topic: str, name: str) -> None:
        self.create_topic(topic)
        if name not in self.topics[topic].channels:
            self.topics[topic].channels[name] = None
            self.announcements.channel_created(topic, name)

    def delete_channel(self, topic: str, name: str) -> None:
        if topic in self.topics and name in self.topics[topic].channels:
            del self.topics[topic].channels[name]
            self.announcements.channel_deleted(topic, name)

    def say(self, limit: int = 1000) -> list[str]:
        """One batch, which the registry takes."""
        commands = [command.decode().rstrip("\n") for command in self.announcements.take(limit)]
        assert len(commands) <= limit
        for command in commands:
            self._hear(*command.split(" "))
        return commands

    def _hear(self, command: str, topic: str, channel: str = "") -> None:
        if command == "REGISTER":
            self.registry |= {(topic, ""), (topic, channel)}
        elif channel:
            self.registry.discard((topic, channel))
        else:
            self.registry = {pair for pair in self.registry if pair[0] != topic}

    @property
    def there_is(self) -> set[tuple[str, str]]:
        return {(name, c) for name, topic in self.topics.items() for c in ["", *topic.channels]}


def test_replay_tells_channels_and_topics_without_any() -> None:
    world = World(a=["x", "y"], b=[])
    assert sorted(world.say()) == ["REGISTER a x", "REGISTER a y", "REGISTER b"]
    assert world.say() == []


def test_replay_after_a_restart_tells_everything_again() -> None:
    world = World(a=["x"])
    world.say()
    world.announcements.restart()
    assert world.say() == ["REGISTER a x"]


def test_after_clear_there_is_nothing_to_say() -> None:
    world = World(a=["x"])
    world.announcements.clear()
    assert world.say() == []


def test_a_topic_and_its_first_channel_are_one_command() -> None:
    world = World()
    world.create_channel("t", "c")
    assert world.say() == ["REGISTER t c"]
    world.create_channel("t", "d")
    assert world.say() == ["REGISTER t d"]


def test_deleted_channel() -> None:
    world = World(t=["c", "d"])
    world.say()
    world.delete_channel("t", "c")
    assert world.say() == ["UNREGISTER t c"]


def test_deleted_topic_takes_its_channels_with_it_one_by_one() -> None:
    world = World(t=["c#ephemeral", "d"])
    world.say()
    world.delete_topic("t")
    *channels, topic = world.say()
    assert sorted(channels) == ["UNREGISTER t c#ephemeral", "UNREGISTER t d"]
    assert topic == "UNREGISTER t"
    assert world.say() == []


def test_a_topic_that_comes_and_goes_before_it_is_announced_is_not_announced() -> None:
    world = World(t=[])
    world.say()
    world.create_channel("t", "c")
    world.delete_channel("t", "c")
    world.create_channel("u", "c")
    world.delete_topic("u")
    assert world.say() == []


def test_topic_made_again_loses_its_old_entry_first() -> None:
    world = World(t=["c"])
    world.say()
    world.delete_topic("t")
    world.create_topic("t")
    assert world.say() == ["UNREGISTER t c", "UNREGISTER t", "REGISTER t"]


def test_channel_made_again_is_told_again() -> None:
    """The registry may have deleted it as well, and only a command brings it back there."""
    world = World(t=["c"])
    world.say()
    world.delete_channel("t", "c")
    world.create_channel("t", "c")
    assert world.say() == ["UNREGISTER t c", "REGISTER t c"]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_batches_keep_to_their_limit(limit: int) -> None:
    world = World(a=list("vwxyz"), b=[], c=["x"])
    while world.say(limit):
        pass
    assert world.registry == world.there_is
    world.delete_topic("a")
    world.create_channel("a", "n")
    while world.say(limit):
        pass
    assert world.registry == world.there_is


_names = st.sampled_from(["a", "b", "c#ephemeral"])
_steps = st.one_of(
    st.tuples(st.sampled_from(["create_topic", "delete_topic"]), _names),
    st.tuples(st.sampled_from(["create_channel", "delete_channel"]), _names, _names),
    st.tuples(st.just("say"), st.integers(1, 4)),
)


@given(st.lists(_steps, max_size=40))
def test_a_registry_ends_with_the_present_topics_after_any_events(steps: list[tuple[str, ...]]) -> None:
    world = World(a=["a", "b"])
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
    while world.say(3):
        pass
    assert world.registry == world.there_is
