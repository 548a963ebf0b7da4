"""The one heap of moments."""

from __future__ import annotations

import math

import attrs

from nsqd.broker.timers import Timers


@attrs.define(eq=False)
class Alarm:
    """Notes when it was called; may ask to be called again."""

    timers: Timers
    again: list[float] = attrs.field(factory=list)
    calls: list[float] = attrs.field(factory=list)
    alarm_at: float = math.inf

    def alarm(self, now: float) -> None:
        self.calls.append(now)
        if self.again:
            self.timers.set(self, self.again.pop(0))


def test_without_alarms_there_is_nothing_to_wait_for() -> None:
    timers = Timers()
    assert timers.next() == math.inf
    timers.fire(1e9)


def test_each_is_called_at_its_moment_in_order() -> None:
    timers = Timers()
    order: list[str] = []

    @attrs.define(eq=False)
    class Named:
        name: str
        alarm_at: float = math.inf

        def alarm(self, now: float) -> None:
            order.append(self.name)

    for name, when in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("also b", 2.0)):
        timers.set(Named(name), when)
    timers.fire(0.99)
    assert order == []
    timers.fire(2.0)
    assert order == ["a", "b", "also b"]
    assert timers.next() == 3.0
    timers.fire(10.0)
    assert order == ["a", "b", "also b", "c"]


def test_an_earlier_moment_takes_the_place_of_a_later_one() -> None:
    timers = Timers()
    alarm = Alarm(timers)
    timers.set(alarm, 5.0)
    timers.set(alarm, 2.0)
    timers.set(alarm, 9.0)
    assert alarm.alarm_at == 2.0
    timers.fire(2.0)
    assert (alarm.calls, alarm.alarm_at) == ([2.0], math.inf)
    timers.fire(100.0)
    assert alarm.calls == [2.0], "the later moments mean nothing any more"


def test_a_moment_set_twice_fires_once() -> None:
    timers = Timers()
    alarm = Alarm(timers)
    timers.set(alarm, 1.0)
    timers.set(alarm, 1.0)
    timers.fire(1.0)
    assert alarm.calls == [1.0]


def test_an_alarm_set_for_the_past_fires_the_next_time() -> None:
    """So nobody can keep the others from their turn."""
    timers = Timers()
    alarm, other = Alarm(timers, again=[1.0, 1.0]), Alarm(timers)
    timers.set(alarm, 1.0)
    timers.set(other, 2.0)
    timers.fire(3.0)
    assert (len(alarm.calls), len(other.calls)) == (1, 1)
    assert timers.next() == 1.0
    timers.fire(3.0)
    timers.fire(3.0)
    assert len(alarm.calls) == 3
    assert timers.next() == math.inf


def test_an_alarm_that_is_set_again_and_cancelled_does_not_fire() -> None:
    timers = Timers()
    alarm, other = Alarm(timers, again=[1.0]), Alarm(timers)
    timers.set(alarm, 1.0)
    timers.fire(3.0)
    timers.set(other, 1.0)
    timers.cancel(alarm)
    timers.fire(3.0)
    assert (len(alarm.calls), len(other.calls)) == (1, 1)
