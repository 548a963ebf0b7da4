"""The registry: its rules one by one, and all of them together against a model that is the database of the protocol."""

from __future__ import annotations

import contextlib
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nsqlookupd.registry import Full, Producer, ProducerInfo, Registry, RegistryLimits

INACTIVE_AFTER, LIFETIME = 300.0, 45.0


def info(number: int = 1, **changes: Any) -> ProducerInfo:
    values: dict[str, Any] = {
        "remote_address": f"10.0.0.{number}:5000",
        "hostname": f"h{number}",
        "broadcast_address": f"n{number}",
        "tcp_port": 4150,
        "http_port": 4151,
        "version": "1.3.0",
    }
    return ProducerInfo(**{**values, **changes})


@pytest.fixture
def registry() -> Registry:
    return Registry(inactive_after=INACTIVE_AFTER, tombstone_lifetime=LIFETIME)


def found(registry: Registry, topic: str, now: float = 0.0) -> set[str]:
    """The broadcast addresses of the visible producers."""
    answer = registry.lookup(topic, now)
    assert answer is not None
    return {producer.broadcast_address for producer in answer.producers}


def test_a_channel_brings_its_topic(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    assert (registry.topics(), registry.lookup("t", 0.0)) == ([], None)
    registry.register(producer, "t", "c")
    answer = registry.lookup("t", 0.0)
    assert answer is not None
    assert (answer.channels, answer.producers) == (["c"], [info()])
    assert (registry.topics(), registry.channels("t")) == (["t"], ["c"])


def test_unregister_a_channel_leaves_its_key_and_the_topic(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    registry.unregister(producer, "t", "c")
    registry.unregister(producer, "t", "c")
    assert registry.channels("t") == ["c"]
    assert found(registry, "t") == {"n1"}


def test_unregister_a_topic_leaves_its_key_and_all_its_channels(registry: Registry) -> None:
    first, second = registry.identify(info(1), 0.0), registry.identify(info(2), 0.0)
    for producer in (first, second):
        registry.register(producer, "t", "c")
        registry.register(producer, "t", "d#ephemeral")
    registry.unregister(first, "t")
    assert found(registry, "t") == {"n2"}
    assert first.topics == {}
    assert first.channels == {}
    registry.unregister(second, "t")
    assert found(registry, "t") == set()
    assert registry.channels("t") == ["c", "d#ephemeral"]  # an ephemeral one goes when itself is unregistered


def test_ephemeral_keys_go_with_the_last_to_unregister(registry: Registry) -> None:
    first, second = registry.identify(info(1), 0.0), registry.identify(info(2), 0.0)
    for producer in (first, second):
        registry.register(producer, "t#ephemeral", "c#ephemeral")
    registry.unregister(first, "t#ephemeral", "c#ephemeral")
    assert registry.channels("t#ephemeral") == ["c#ephemeral"]
    registry.unregister(second, "t#ephemeral", "c#ephemeral")
    assert registry.channels("t#ephemeral") == []
    registry.unregister(first, "t#ephemeral")
    assert registry.topics() == ["t#ephemeral"]
    registry.unregister(second, "t#ephemeral")
    assert registry.topics() == []
    assert registry.key_count == 0


def test_keys_outlive_a_disconnect_ephemeral_ones_too(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    registry.register(producer, "t#ephemeral", "c#ephemeral")
    registry.disconnect(producer)
    assert registry.topics() == ["t", "t#ephemeral"]
    assert registry.channels("t#ephemeral") == ["c#ephemeral"]
    assert found(registry, "t") == set()
    assert registry.nodes(0.0) == []
    assert (registry.registration_count, registry.key_count) == (0, 4)
    other = registry.identify(info(2), 0.0)
    # Whoever unregisters from a deserted one ends it.
    registry.unregister(other, "t#ephemeral", "c#ephemeral")
    assert registry.channels("t#ephemeral") == []


def test_the_same_nsqd_twice_is_two_producers(registry: Registry) -> None:
    first = registry.identify(info(), 0.0)
    registry.register(first, "t")
    second = registry.identify(info(), 0.0)
    registry.register(second, "t")
    registry.disconnect(first)
    assert found(registry, "t") == {"n1"}


def test_a_removed_producer_cannot_change_anything(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.disconnect(producer)
    for action in (
        lambda: registry.register(producer, "t"),
        lambda: registry.unregister(producer, "t"),
        lambda: registry.ping(producer, 0.0),
    ):
        with pytest.raises(AssertionError, match="disconnected"):
            action()
    with pytest.raises(KeyError):
        registry.disconnect(producer)
    assert registry.topics() == []


def test_inactive_is_hidden_until_a_ping(registry: Registry) -> None:
    producer = registry.identify(info(), 10.0)
    registry.register(producer, "t")
    edge = 10.0 + INACTIVE_AFTER
    assert found(registry, "t", edge) == {"n1"}
    assert registry.nodes(edge) == [producer]
    late = edge + 0.001
    registry.register(producer, "u")  # says nothing of being alive
    assert found(registry, "t", late) == set()
    assert registry.nodes(late) == []
    assert registry.producers() == [producer]
    registry.ping(producer, late)
    assert found(registry, "t", late) == {"n1"}


def test_a_tombstone_hides_one_node_in_one_topic_for_a_while(registry: Registry) -> None:
    first, second = registry.identify(info(1), 0.0), registry.identify(info(2), 0.0)
    for producer in (first, second):
        registry.register(producer, "t", "c")
        registry.register(producer, "u")
    assert registry.tombstone("t", "n1:4151", 5.0) == 1
    assert found(registry, "t", 5.0) == {"n2"}
    assert found(registry, "u", 5.0) == {"n1", "n2"}
    assert registry.nodes(5.0) == [first, second]
    assert registry.is_tombstoned(first, "t", 5.0)
    registry.register(first, "t", "d")  # does not lift it
    assert found(registry, "t", 5.0 + LIFETIME - 0.001) == {"n2"}
    assert found(registry, "t", 5.0 + LIFETIME) == {"n1", "n2"}


def test_a_new_connection_or_registration_has_no_tombstone(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t")
    registry.tombstone("t", "n1:4151", 0.0)
    registry.unregister(producer, "t")
    registry.register(producer, "t")
    assert found(registry, "t") == {"n1"}
    registry.tombstone("t", "n1:4151", 0.0)
    registry.disconnect(producer)
    registry.register(registry.identify(info(), 0.0), "t")
    assert found(registry, "t") == {"n1"}


def test_a_tombstone_that_matches_no_producer(registry: Registry) -> None:
    registry.register(registry.identify(info(), 0.0), "t")
    for topic, node in (("t", "n1:4150"), ("t", "n1"), ("t", ""), ("u", "n1:4151")):
        assert registry.tombstone(topic, node, 0.0) == 0
    assert found(registry, "t") == {"n1"}
    assert registry.tombstone("t", "n1:4151", 0.0) == 1


def test_delete_a_topic_with_all_its_channels(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    registry.register(producer, "u", "c")
    registry.delete_topic("t")
    registry.delete_topic("t")
    assert (registry.topics(), registry.channels("t")) == (["u"], [])
    assert registry.lookup("t", 0.0) is None
    assert registry.channels("u") == ["c"]
    registry.register(producer, "t")
    assert found(registry, "t") == {"n1"}
    registry.disconnect(producer)
    assert registry.registration_count == 0


def test_delete_a_channel(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    assert registry.delete_channel("t", "c")
    assert not registry.delete_channel("t", "c")
    assert not registry.delete_channel("nowhere", "c")
    assert registry.channels("t") == []
    assert found(registry, "t") == {"n1"}


def test_channels_outlive_an_ephemeral_topic_until_it_is_deleted(registry: Registry) -> None:
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t#ephemeral", "c")
    registry.unregister(producer, "t#ephemeral")
    assert registry.topics() == []
    assert registry.channels("t#ephemeral") == ["c"]
    assert registry.lookup("t#ephemeral", 0.0) is None
    registry.delete_topic("t#ephemeral")
    assert registry.channels("t#ephemeral") == []


def test_creating_by_hand(registry: Registry) -> None:
    registry.create_topic("t")
    registry.create_channel("u", "c")
    registry.create_channel("u", "c")
    assert registry.topics() == ["t", "u"]
    assert (registry.channels("t"), registry.channels("u")) == ([], ["c"])
    assert found(registry, "u") == set()


def test_names_are_stored_once(registry: Registry) -> None:
    producers = [registry.identify(info(number), 0.0) for number in range(3)]
    for producer in producers:
        registry.register(producer, "".join(["to", "pic"]), "".join(["chan", "nel"]))
    assert len({id(name) for producer in producers for name in producer.topics}) == 1
    assert len({id(name) for producer in producers for name in producer.channels["topic"]}) == 1


def test_no_more_keys_than_the_limit() -> None:
    registry = Registry(limits=RegistryLimits(keys=3, registrations=100))
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    for action in (
        lambda: registry.register(producer, "u", "c"),  # would be two
        lambda: registry.create_channel("u", "c"),
    ):
        with pytest.raises(Full, match="topics and channels"):
            action()
    assert registry.topics() == ["t"]
    registry.create_topic("u")
    registry.register(producer, "u")  # is there already
    with pytest.raises(Full):
        registry.create_topic("v")
    with pytest.raises(Full):
        registry.register(producer, "v")
    registry.delete_topic("u")
    registry.register(producer, "v")
    assert sorted(registry.topics()) == ["t", "v"]


def test_one_nsqd_has_a_limit_of_its_own() -> None:
    registry = Registry(limits=RegistryLimits(per_producer=3))
    loop, other = registry.identify(info(), 0.0), registry.identify(info(), 0.0)
    registry.register(loop, "t", "c")
    registry.register(loop, "u")
    with pytest.raises(Full, match=r"too many registrations of one nsqd \(3\)"):
        registry.register(loop, "v")
    registry.register(loop, "t", "c")  # is there already
    registry.register(other, "v")
    assert registry.lookup("v", 0.0) is not None
    registry.unregister(loop, "u")
    registry.register(loop, "v")


def test_no_more_registrations_than_the_limit() -> None:
    registry = Registry(limits=RegistryLimits(keys=100, registrations=3))
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    with pytest.raises(Full, match="registrations"):
        registry.register(producer, "u", "c")
    assert (registry.topics(), registry.registration_count) == (["t"], 2)
    registry.register(producer, "u")
    registry.register(producer, "t", "c")  # is registered already
    registry.unregister(producer, "t")
    registry.register(producer, "u", "d")
    assert registry.registration_count == 2


def limited(keys: int = 1_000, registrations: int = 1_000) -> Registry:
    return Registry(limits=RegistryLimits(keys=keys, registrations=registrations))


def test_keys_that_were_left_behind_give_way() -> None:
    """The longest without a producer first; without pressure they stay for ever."""
    registry = limited(keys=4)
    gone = registry.identify(info(1), 0.0)
    for number in range(4):
        registry.register(gone, f"t{number}")
    registry.unregister(gone, "t2")
    registry.disconnect(gone)
    assert registry.topics() == ["t0", "t1", "t2", "t3"]
    producer = registry.identify(info(2), 0.0)
    registry.register(producer, "u")
    assert registry.topics() == ["t0", "t1", "t3", "u"]
    registry.register(producer, "v", "c")
    assert registry.topics() == ["t3", "u", "v"]
    registry.register(producer, "t3")
    with pytest.raises(Full):
        registry.register(producer, "w")


def test_a_key_of_which_a_part_exists_stays() -> None:
    """The topic of a new channel is the key that would have to give way first."""
    registry = limited(keys=2)
    registry.create_topic("t")
    registry.create_topic("u")
    producer = registry.identify(info(), 0.0)
    registry.register(producer, "t", "c")
    assert (registry.topics(), registry.channels("t")) == (["t"], ["c"])
    registry.disconnect(producer)
    registry.create_channel("t", "d")
    assert (registry.topics(), registry.channels("t")) == (["t"], ["d"])


def test_the_address_that_has_left_most_behind_gives_way_first() -> None:
    registry = limited(keys=6)
    honest = registry.identify(info(1), 0.0)
    registry.register(honest, "mine")
    registry.disconnect(honest)
    stranger = registry.identify(info(2), 0.0)
    for number in range(5):
        registry.register(stranger, f"t{number}")
    registry.disconnect(stranger)
    producer = registry.identify(info(3), 0.0)
    for topic in "uvwx":
        registry.register(producer, topic)
    assert sorted(registry.topics()) == ["mine", "t4", "u", "v", "w", "x"]


def test_an_address_with_most_keys_does_not_displace_the_few_of_another() -> None:
    registry = limited(keys=200)
    registry.create_topic("mine")
    registry.create_topic("also mine".replace(" ", "-"))
    stranger = registry.identify(info(1), 0.0)
    for number in range(198):
        registry.register(stranger, f"t{number}")
    with pytest.raises(Full):
        registry.register(stranger, "u")
    registry.unregister(stranger, "t7")
    registry.register(stranger, "u")
    assert {"mine", "also-mine", "u"} < set(registry.topics())
    registry.register(registry.identify(info(2), 0.0), "mine")


@pytest.mark.parametrize(("keys", "registrations"), [(20, 1_000), (1_000, 20)])
def test_the_producer_with_most_is_evicted_for_others(keys: int, registrations: int) -> None:
    """Of another address, and of the same: an address may be that of a NAT."""
    registry, evicted = limited(keys, registrations), []
    for host in (1, 2):
        small = registry.identify(info(1, remote_address="10.0.0.1:1"), 0.0)
        registry.register(small, "small")
        large = registry.identify(info(host), 0.0, lambda: evicted.append("large"))
        for number in range(19):
            registry.register(large, f"t{number}")
        with pytest.raises(Full):
            registry.register(large, "one-more")
        assert not evicted
        registry.register(small, "u", "c")
        assert evicted == ["large"]
        evicted.clear()
        assert found(registry, "u") == {"n1"}
        assert registry.registration_count == 3
        registry.disconnect(small)


def test_equals_do_not_evict_one_another() -> None:
    registry = limited(registrations=20)
    producers = [registry.identify(info(host), 0.0, pytest.fail) for host in (1, 1, 2, 3)]
    for producer in producers:
        for number in range(5):
            registry.register(producer, f"t{number}")
    for producer in producers:
        with pytest.raises(Full):
            registry.register(producer, "u")


def test_an_operator_evicts_nobody() -> None:
    registry = limited(keys=2)
    producer = registry.identify(info(), 0.0, pytest.fail)
    registry.register(producer, "t", "c")
    with pytest.raises(Full):
        registry.create_topic("u")


names = st.sampled_from("abcde")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["identify", "register", "unregister", "disconnect", "create", "delete"]),
            st.integers(0, 20),
            names,
            st.one_of(st.just(""), names),
        ),
        max_size=80,
    ),
    st.sampled_from([(4, 100), (100, 6), (5, 8)]),
)
def test_a_full_registry_is_consistent(
    steps: list[tuple[str, int, str, str]], limits: tuple[int, int]
) -> None:
    """Whatever gives way to whom, no more than the limit is kept, and both directions agree."""
    registry, producers = limited(*limits), dict[int, Producer]()
    for number, (what, pick, topic, channel) in enumerate(steps):
        if what == "identify":
            producers[number] = registry.identify(
                info(pick % 3, remote_address=f"10.0.0.{pick % 3}:{number}"),
                0.0,
                lambda number=number: producers.pop(number),  # type: ignore[misc]
            )
        elif what == "create":
            with contextlib.suppress(Full):
                registry.create_channel(topic, channel) if channel else registry.create_topic(topic)
        elif what == "delete":
            registry.delete_channel(topic, channel) if channel else registry.delete_topic(topic)
        elif producers:
            key = sorted(producers)[pick % len(producers)]
            if what == "register":
                with contextlib.suppress(Full):
                    registry.register(producers[key], topic, channel)
                    assert producers[key].topics.keys() >= {topic}
            elif what == "unregister":
                registry.unregister(producers[key], topic, channel)
            else:
                registry.disconnect(producers.pop(key))
        assert set(registry.producers()) == set(producers.values())
        keys = [
            *registry._topics.values(),
            *[k for each in registry._channels.values() for k in each.values()],
        ]
        assert registry.key_count == len(keys) <= limits[0]
        assert registry.registration_count == sum(len(key.producers) for key in keys) <= limits[1]
        owners = {key.owner for key in keys}
        assert registry._keys_of == {owner: sum(key.owner == owner for key in keys) for owner in owners}
        orphans = {key for each in registry._orphans.values() for key in each}
        assert orphans == {key for key in keys if not key.producers}
        assert all(registry._orphans.values())
        for producer in registry.producers():
            for name in producer.topics:
                assert producer in registry._topics[name].producers
            for name, channels in producer.channels.items():
                assert all(producer in registry._channels[name][each].producers for each in channels)


# --- the model: the database as the protocol describes it, every question answered by looking at all of it

Key = tuple[str, str, str]
CLIENT: Key = ("client", "", "")


@attrs.define(eq=False)
class Entry:
    """A producer under one key."""

    tombstoned_at: float | None = None


class Model:
    def __init__(self) -> None:
        self.keys: dict[Key, dict[int, Entry]] = {}
        self.last_update: dict[int, float] = {}
        self.infos: dict[int, ProducerInfo] = {}

    def add(self, key: Key, producer: int) -> None:
        self.keys.setdefault(key, {}).setdefault(producer, Entry())

    def remove(self, key: Key, producer: int) -> None:
        self.keys.get(key, {}).pop(producer, None)

    def under(self, category: str, topic: str) -> list[Key]:
        return [key for key in self.keys if key[:2] == (category, topic)]

    def unregister(self, producer: int, topic: str, channel: str) -> None:
        if channel:
            key = ("channel", topic, channel)
            self.remove(key, producer)
        else:
            for each in self.under("channel", topic):
                self.remove(each, producer)
            key = ("topic", topic, "")
            self.remove(key, producer)
        if (channel or topic).endswith("#ephemeral") and self.keys.get(key) == {}:
            del self.keys[key]

    def is_active(self, producer: int, now: float) -> bool:
        return now - self.last_update[producer] <= INACTIVE_AFTER

    def is_tombstoned(self, producer: int, topic: str, now: float) -> bool:
        since = self.keys[("topic", topic, "")][producer].tombstoned_at
        return since is not None and now - since < LIFETIME

    def lookup(self, topic: str, now: float) -> set[int] | None:
        entries = self.keys.get(("topic", topic, ""))
        if entries is None:
            return None
        return {p for p in entries if self.is_active(p, now) and not self.is_tombstoned(p, topic, now)}


TOPICS, CHANNELS = ("t", "u", "v#ephemeral"), ("c", "d", "e#ephemeral")
topics = st.sampled_from(TOPICS)
channels = st.sampled_from(CHANNELS)
no_channel_or_one = st.sampled_from(("", *CHANNELS))
picks = st.integers(0, 20)


class RegistryMachine(RuleBasedStateMachine):
    """Any order of events; after each, everything that can be asked is asked."""

    @initialize()
    def start(self) -> None:
        self.registry = Registry(inactive_after=INACTIVE_AFTER, tombstone_lifetime=LIFETIME)
        self.model = Model()
        self.now = 0.0
        self.producers: dict[int, Producer] = {}
        self.number = 0

    def pick(self, pick: int) -> int:
        return sorted(self.producers)[pick % len(self.producers)]

    @rule(seconds=st.sampled_from([1.0, LIFETIME, 200.0, INACTIVE_AFTER]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(host=st.integers(1, 3))
    def identify(self, host: int) -> None:
        self.number += 1
        description = info(host, remote_address=f"10.0.0.1:{self.number}")
        self.producers[self.number] = self.registry.identify(description, self.now)
        self.model.infos[self.number] = description
        self.model.last_update[self.number] = self.now
        self.model.add(CLIENT, self.number)

    @precondition(lambda self: self.producers)
    @rule(pick=picks)
    def ping(self, pick: int) -> None:
        number = self.pick(pick)
        self.registry.ping(self.producers[number], self.now)
        self.model.last_update[number] = self.now

    @precondition(lambda self: self.producers)
    @rule(pick=picks, topic=topics, channel=no_channel_or_one)
    def register(self, pick: int, topic: str, channel: str) -> None:
        number = self.pick(pick)
        self.registry.register(self.producers[number], topic, channel)
        if channel:
            self.model.add(("channel", topic, channel), number)
        self.model.add(("topic", topic, ""), number)

    @precondition(lambda self: self.producers)
    @rule(pick=picks, topic=topics, channel=no_channel_or_one)
    def unregister(self, pick: int, topic: str, channel: str) -> None:
        number = self.pick(pick)
        self.registry.unregister(self.producers[number], topic, channel)
        self.model.unregister(number, topic, channel)

    @precondition(lambda self: self.producers)
    @rule(pick=picks)
    def disconnect(self, pick: int) -> None:
        number = self.pick(pick)
        self.registry.disconnect(self.producers.pop(number))
        for key in self.model.keys:
            self.model.remove(key, number)

    @rule(topic=topics)
    def create_topic(self, topic: str) -> None:
        self.registry.create_topic(topic)
        self.model.keys.setdefault(("topic", topic, ""), {})

    @rule(topic=topics, channel=channels)
    def create_channel(self, topic: str, channel: str) -> None:
        self.registry.create_channel(topic, channel)
        self.model.keys.setdefault(("channel", topic, channel), {})
        self.model.keys.setdefault(("topic", topic, ""), {})

    @rule(topic=topics)
    def delete_topic(self, topic: str) -> None:
        self.registry.delete_topic(topic)
        for key in [*self.model.under("channel", topic), ("topic", topic, "")]:
            self.model.keys.pop(key, None)

    @rule(topic=topics, channel=channels)
    def delete_channel(self, topic: str, channel: str) -> None:
        existed = self.model.keys.pop(("channel", topic, channel), None) is not None
        assert self.registry.delete_channel(topic, channel) == existed

    @rule(topic=topics, host=st.integers(1, 3))
    def tombstone(self, topic: str, host: int) -> None:
        node = f"n{host}:4151"
        count = 0
        for number, entry in self.model.keys.get(("topic", topic, ""), {}).items():
            if self.model.infos[number].node == node:
                entry.tombstoned_at = self.now
                count += 1
        assert self.registry.tombstone(topic, node, self.now) == count

    @invariant()
    def answers_are_the_models(self) -> None:
        registry, model = self.registry, self.model
        assert sorted(registry.topics()) == sorted(key[1] for key in model.keys if key[0] == "topic")
        numbers = {producer: number for number, producer in self.producers.items()}
        assert {numbers[producer] for producer in registry.nodes(self.now)} == {
            number for number in model.keys.get(CLIENT, {}) if model.is_active(number, self.now)
        }
        for topic in TOPICS:
            assert sorted(registry.channels(topic)) == sorted(key[2] for key in model.under("channel", topic))
            answer, expected = registry.lookup(topic, self.now), model.lookup(topic, self.now)
            if expected is None:
                assert answer is None
            else:
                assert answer is not None
                shown = sorted(producer.remote_address for producer in answer.producers)
                assert shown == sorted(model.infos[number].remote_address for number in expected)

    @invariant()
    def every_producer_has_what_the_model_says(self) -> None:
        for number, producer in self.producers.items():
            mine = {key for key, entries in self.model.keys.items() if number in entries} - {CLIENT}
            pairs = {("channel", topic, name) for topic, names in producer.channels.items() for name in names}
            assert mine == {("topic", topic, "") for topic in producer.topics} | pairs
            for topic in producer.topics:
                tombstoned = self.registry.is_tombstoned(producer, topic, self.now)
                assert tombstoned == self.model.is_tombstoned(number, topic, self.now)

    @invariant()
    def counts_and_the_look_inside(self) -> None:
        entries = {key: set(value) for key, value in self.model.keys.items() if value}
        numbers = {producer: number for number, producer in self.producers.items()}
        shown = {key: {numbers[p] for p in producers} for key, producers in self.registry.registered()}
        assert shown == entries
        assert all(self.registry._channels.values())  # what is empty is not kept
        keys = [key for key in self.model.keys if key != CLIENT]
        assert self.registry.key_count == len(keys)
        assert self.registry.registration_count == sum(len(self.model.keys[key]) for key in keys)


RegistryMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
