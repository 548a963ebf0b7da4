"""RDY, redistribution and backoff, without I/O and without a clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nsqkit.client import options as module
from nsqkit.client.flow import Flow


def ClientOptions(**options: Any) -> module.ClientOptions:  # noqa: N802
    """With long pauses of backoff."""
    return module.ClientOptions(**({"backoff_multiplier": 1.0, "max_backoff_duration": 120.0} | options))


@attrs.define(eq=False)
class FakeLink:
    max_rdy: int = 2500
    rdy: int = 0
    rdy_since: float = 0.0
    last_message_at: float = 0.0
    unanswered: int = 0
    transit_s: float = 0.0
    sent: list[int] = attrs.field(factory=list)

    def send_rdy(self, count: int) -> None:
        self.sent.append(count)


def flow_of(count: int, **options: Any) -> tuple[Flow, list[FakeLink]]:
    flow = Flow(ClientOptions(**options), random.Random(1))
    links = [FakeLink() for _ in range(count)]
    for link in links:
        flow.add(link, 0.0)
    return flow, links


def test_one_connection_gets_everything_and_the_same_value_is_not_sent_again() -> None:
    """RDY is a window, not a credit."""
    flow, [link] = flow_of(1, max_in_flight=100)
    flow.succeeded(1.0)
    flow.tick(1.0)
    assert link.sent == [100]


def test_a_new_connection_makes_the_others_give_first() -> None:
    """The sum never exceeds max_in_flight."""
    flow, links = flow_of(3, max_in_flight=10)
    assert [link.sent for link in links] == [[10, 5, 3], [5, 3], [3]]
    flow.remove(links[0], 1.0)
    assert [link.rdy for link in links] == [0, 5, 5]


def test_a_server_s_maximum_is_kept() -> None:
    """Never above max_rdy_count."""
    flow = Flow(ClientOptions(max_in_flight=5000))
    link = FakeLink(max_rdy=2500)
    flow.add(link, 0.0)
    assert link.sent == [2500]


def test_zero_pauses_and_more_resumes() -> None:
    """ChangeMaxInFlight(0)."""
    flow, [link] = flow_of(1, max_in_flight=5)
    flow.change_max_in_flight(0, 1.0)
    flow.change_max_in_flight(3, 2.0)
    assert link.sent == [5, 0, 3]


def test_more_connections_than_in_flight_take_turns() -> None:
    """An idle one gives its RDY to one that had none."""
    flow, links = flow_of(4, max_in_flight=2)
    assert [link.rdy for link in links] == [1, 1, 0, 0]
    assert flow.next_at == 5.0
    links[0].last_message_at = 4.0
    flow.tick(5.0)
    assert [link.rdy for link in links] == [1, 1, 0, 0]
    flow.tick(10.0)
    flow.tick(15.0)  # the second was idle for more than 10 s, the first not yet
    assert links[0].rdy == 0 or links[1].rdy == 0
    assert sum(link.rdy for link in links) == 2
    assert max(link.rdy for link in links[2:]) == 1


def test_a_busy_connection_gives_up_its_turn_after_the_long_time() -> None:
    """low_rdy_timeout."""
    flow, links = flow_of(2, max_in_flight=1)
    for now in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0):
        links[0].last_message_at = now
        flow.tick(now)
        assert [link.rdy for link in links] == [1, 0]
    links[0].last_message_at = 35.0
    flow.tick(35.0)
    assert [link.rdy for link in links] == [0, 1]


def test_a_lost_connection_s_turn_goes_on() -> None:
    """At once: nobody waits for the next redistribution."""
    flow, links = flow_of(3, max_in_flight=1)
    flow.remove(links[0], 1.0)
    assert sum(link.rdy for link in links[1:]) == 1


def test_one_that_comes_and_goes_keeps_nobody_from_their_turn() -> None:
    """Redistribution comes when it is due, whatever happens before."""
    flow, links = flow_of(4, max_in_flight=1)
    flapping = FakeLink()
    for second in range(200):
        now = float(second)
        if flow.next_at <= now:
            flow.tick(now)
        if second % 3 == 0:
            flow.add(flapping, now)
        if second % 3 == 2:
            flow.remove(flapping, now)
    assert min(link.sent.count(1) for link in links) >= 3


def test_backoff_goes_up_and_down() -> None:
    """The sequence of the levels: RDY 0 everywhere, then 1 on one connection."""
    pauses: list[tuple[int, float]] = []
    flow, [link] = flow_of(1, max_in_flight=5)
    flow.on_pause = lambda level, pause_s: pauses.append((level, pause_s))
    flow.failed(0.0)
    flow.failed(1.0)  # was in flight when the pause began: says nothing new
    assert flow.next_at == 2.0
    flow.tick(2.0)
    flow.failed(3.0)
    flow.tick(7.0)
    flow.succeeded(8.0)
    flow.tick(10.0)
    flow.succeeded(11.0)
    assert pauses == [(1, 2.0), (2, 4.0), (1, 2.0)]
    assert link.sent == [5, 0, 1, 0, 1, 0, 1, 5]
    assert flow.level == 0


def test_a_requeue_that_is_no_failure_keeps_the_level() -> None:
    """It neither raises nor lowers it, but the cycle goes on."""
    flow, [link] = flow_of(1, max_in_flight=5)
    flow.neutral(0.0)
    assert (flow.level, link.sent) == (0, [5])
    flow.failed(1.0)
    flow.tick(3.0)
    flow.neutral(4.0)
    assert flow.level == 1
    assert link.sent == [5, 0, 1, 0]


def test_the_level_stops_where_the_pause_would_be_too_long() -> None:
    """max_backoff_duration is 120 s: 64 s is the longest."""
    flow, _ = flow_of(1)
    now = 0.0
    for _ in range(20):
        flow.failed(now)
        now = flow.next_at
        flow.tick(now)
    assert flow.level == 6


def test_no_backoff_when_it_is_off() -> None:
    """max_backoff_duration 0."""
    flow, [link] = flow_of(1, max_in_flight=5, max_backoff_duration=0)
    flow.failed(0.0)
    assert (flow.level, link.sent) == (0, [5])


def test_full_jitter_stays_below_the_exponential_pause() -> None:
    """By chance between 0 and it."""
    pauses: list[float] = []
    flow, _ = flow_of(1, backoff_strategy="full_jitter")
    flow.on_pause = lambda _, pause_s: pauses.append(pause_s)
    now = 0.0
    for _ in range(5):
        flow.failed(now)
        now = flow.next_at
        flow.tick(now)
    assert all(0 <= pause_s < 2.0**level for level, pause_s in enumerate(pauses, 1))
    assert len(set(pauses)) == 5


def test_a_resumption_without_a_connection_waits_a_second_more() -> None:
    """And the next connection is the one that is tried."""
    flow, [link] = flow_of(1, max_in_flight=5)
    flow.failed(0.0)
    flow.remove(link, 1.0)
    flow.tick(2.0)
    assert flow.next_at == 3.0
    other = FakeLink()
    flow.add(other, 2.5)
    assert other.sent == []
    flow.tick(3.0)
    assert other.sent == [1]


def test_the_lost_probe_of_a_backoff_is_replaced() -> None:
    """Otherwise nothing would ever come again."""
    flow, links = flow_of(2, max_in_flight=5)
    flow.failed(0.0)
    flow.tick(2.0)
    probe = next(link for link in links if link.rdy == 1)
    other = links[1 - links.index(probe)]
    flow.remove(probe, 3.0)
    assert other.rdy == 1


def test_in_backoff_only_one_message_is_asked_for_and_it_moves() -> None:
    """Redistribution in backoff keeps the sum at 1."""
    flow, links = flow_of(3, max_in_flight=9)
    flow.failed(0.0)
    flow.tick(2.0)
    first = next(link for link in links if link.rdy == 1)
    for now in (7.0, 12.0, 17.0):
        flow.tick(now)
        assert sum(link.rdy for link in links) == 1
    assert first.rdy == 0


def test_starved_is_a_connection_nearly_at_its_window() -> None:
    """85 percent."""
    flow, links = flow_of(2, max_in_flight=20)
    assert not flow.is_starved
    links[0].unanswered = 8
    assert not flow.is_starved
    links[0].unanswered = 9
    assert flow.is_starved


def test_after_a_stop_nothing_is_sent() -> None:
    """CLS is on its way; RDY would be ignored anyway."""
    flow, links = flow_of(2, max_in_flight=4)
    flow.stop()
    flow.failed(0.0)
    flow.remove(links[0], 1.0)
    flow.tick(100.0)
    assert [link.sent for link in links] == [[4, 2], [2]]


def test_unanswered_messages_count_after_their_connection_gave_its_share() -> None:
    """A second connection gets what the handlers of the first have finished."""
    flow, [first] = flow_of(1, max_in_flight=4)
    first.unanswered = 4
    second = FakeLink()
    flow.add(second, 1.0)
    assert (first.rdy, second.rdy) == (2, 0)
    for left, expected in [(3, 1), (2, 2)]:
        assert flow.holding
        first.unanswered = left
        flow.answered(2.0)
        assert (first.rdy, second.rdy) == (2, expected)
    assert not flow.holding


def test_messages_on_their_way_count() -> None:
    """nsqd may have sent them before it read the lower RDY: that is known when they came, or after `transit_s`."""
    for arrives in (True, False):
        flow = Flow(ClientOptions(max_in_flight=1, low_rdy_timeout=1), random.Random(1))
        links = [FakeLink(transit_s=0.25) for _ in range(2)]
        for link in links:
            flow.add(link, 0.0)
        flow.tick(5.0)
        assert [link.rdy for link in links] == [0, 0]
        assert flow.next_at == 5.25
        if arrives:
            links[0].unanswered = 1
            flow.arrived(links[0], 1, 5.1)
            flow.tick(6.0)
            assert [link.rdy for link in links] == [0, 0]
            links[0].unanswered = 0
            flow.answered(6.1)
        else:
            flow.tick(5.25)
        assert [link.rdy for link in links] == [0, 1]


def test_a_connection_with_a_slow_handler_is_not_idle() -> None:
    """It loses its turn after the long time only, and its message goes on counting."""
    flow, links = flow_of(2, max_in_flight=1)
    links[0].last_message_at, links[0].unanswered = 1.0, 1
    for now in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0):
        flow.tick(now)
        assert [link.rdy for link in links] == [1, 0]
    for now in (35.0, 40.0, 90.0):
        flow.tick(now)
        assert [link.rdy for link in links] == [0, 0]
    links[0].unanswered = 0
    flow.answered(91.0)
    assert [link.rdy for link in links] == [0, 1]


def test_turns_go_round() -> None:
    """Nobody waits for more turns than there are connections."""
    flow, links = flow_of(7, max_in_flight=2)
    turns: list[int] = []
    for _ in range(40):
        now = flow.next_at
        before = [link.rdy for link in links]
        flow.tick(now)
        turns += [n for n, link in enumerate(links) if link.rdy and not before[n]]
    for start in range(len(turns) - 8):  # two begin at the same time: their order says nothing
        assert set(turns[start : start + 8]) == set(range(7))


@attrs.define(eq=False)
class BusyNsqd:
    """An nsqd with as many messages as it may send, at some distance. A `Link` of its client."""

    world: World
    distance_s: float
    max_rdy: int = 2500
    rdy: int = 0
    rdy_since: float = 0.0
    last_message_at: float = 0.0
    unanswered: int = 0
    in_flight: int = 0
    """As nsqd sees it."""
    served: int = 0
    _allowed: int = 0

    @property
    def transit_s(self) -> float:
        return 2 * self.distance_s

    def send_rdy(self, count: int) -> None:
        def read() -> None:
            self._allowed = count
            self._fill()

        self.world.later(self.distance_s, read)

    def _fill(self) -> None:
        while self.in_flight < self._allowed:
            self.in_flight += 1
            self.world.later(self.distance_s, self._receive)

    def _receive(self) -> None:
        world = self.world
        self.unanswered += 1
        self.served += 1
        self.last_message_at = world.now
        if world.flow.holding:
            world.flow.arrived(self, 1, world.now)
        world.later(world.work_s(), self._finish)

    def _finish(self) -> None:
        def read() -> None:
            self.in_flight -= 1
            self._fill()

        world = self.world
        self.unanswered -= 1
        world.later(self.distance_s, read)
        if world.flow.holding:
            world.flow.answered(world.now)


@attrs.define(eq=False)
class World:
    """A client, its nsqds, and the time between them."""

    flow: Flow
    work_s: Callable[[], float]
    now: float = 0.0
    nsqds: list[BusyNsqd] = attrs.field(factory=list)
    _events: list[tuple[float, int, Callable[[], None]]] = attrs.field(factory=list)
    _numbers: Any = attrs.field(factory=itertools.count)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), call))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            while self.flow.next_at <= self._events[0][0]:
                self.now = self.flow.next_at
                self.flow.tick(self.now)
            self.now, _, call = heapq.heappop(self._events)
            call()
            assert sum(nsqd.unanswered for nsqd in self.nsqds) <= self.flow.max_in_flight


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.0001, 0.4), min_size=1, max_size=8),
    st.integers(1, 12),
    st.sampled_from([0.1, 0.5, 4.0, 20.0]),
    st.integers(0, 1000),
)
def test_unanswered_messages_never_exceed_max_in_flight(
    distances: list[float], in_flight: int, work_s: float, seed: int
) -> None:
    """Busy nsqds near and far, fast and slow handlers; and every nsqd is served."""
    chance = random.Random(seed)
    flow = Flow(ClientOptions(max_in_flight=in_flight))
    world = World(flow, lambda: work_s * chance.uniform(0.5, 1.5))
    for number, distance_s in enumerate(distances):
        nsqd = BusyNsqd(world, distance_s)
        world.nsqds.append(nsqd)
        world.later(number * chance.random(), lambda nsqd=nsqd: flow.add(nsqd, world.now))
    world.run(30.0)
    world.run((len(distances) + 1) * (35.0 + 1.5 * work_s) + 10)
    assert all(nsqd.served for nsqd in world.nsqds)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "fail", "succeed", "neutral", "tick", "mif"]), st.integers(0, 7)
    ),
    max_size=60,
)


@settings(max_examples=400)
@example([("add", 0), ("fail", 0), ("tick", 2), ("mif", 0)], 5)
@example([("add", 0), ("add", 0), ("mif", 1)], 2)
@given(EVENTS, st.integers(0, 6))
def test_whatever_happens_the_sum_stays_within_bounds(events: list[tuple[str, int]], in_flight: int) -> None:
    """The sum is never above max_in_flight, never above 1 in backoff, and 0 in a pause."""
    flow = Flow(ClientOptions(max_in_flight=in_flight), random.Random(0))
    links: list[FakeLink] = []
    now = 0.0
    for what, number in events:
        now += number
        if what == "add":
            links.append(FakeLink(last_message_at=now))
            flow.add(links[-1], now)
        elif what == "remove" and links:
            flow.remove(links.pop(number % len(links)), now)
        elif what == "mif":
            flow.change_max_in_flight(number, now)
        elif what == "fail":
            flow.failed(now)
        elif what == "succeed":
            flow.succeeded(now)
        elif what == "neutral":
            flow.neutral(now)
        else:
            flow.tick(now)
        total = sum(link.rdy for link in links)
        bound = 0 if flow.pausing else min(1, flow.max_in_flight) if flow.level else flow.max_in_flight
        assert total <= bound
        if links and not flow.pausing:
            assert total >= min(1, flow.max_in_flight)
