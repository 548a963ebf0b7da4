"""The board, on a scripted clock: alarms are raised and cleared after some time, and do not flap."""

from __future__ import annotations

from typing import Any

import pytest

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.alarms.board import AlarmBoard, Changes
from nsqadmin.options import AdminOptions
from nsqkit.options import SECOND


def alarm(kind: Kind = Kind.PAUSED, since: float = 100.0, topic: str = "t", **values: Any) -> Alarm:
    return Alarm(kind=kind, subject=Subject(topic=topic), since=since, text="x", advice="y", **values)


def board(**options: int) -> AlarmBoard:
    return AlarmBoard(AdminOptions(**options))


def told(changes: Changes) -> tuple[list[str], list[str]]:
    return [each.id for each in changes.raised], [each.id for each in changes.cleared]


NOTHING: tuple[list[str], list[str]] = ([], [])


def test_an_alarm_is_raised_when_it_has_held_and_cleared_when_it_has_not() -> None:
    shown = board()
    steps = [
        (0, True, NOTHING),
        (29, True, NOTHING),
        (30, True, (["paused:t"], [])),
        (35, True, NOTHING),
        (40, False, NOTHING),
        (94, False, NOTHING),
        (95, False, ([], ["paused:t"])),
        (100, False, NOTHING),
    ]
    for now, present, expected in steps:
        assert told(shown.update([alarm()] if present else [], now)) == expected, now


def test_what_comes_and_goes_is_not_raised() -> None:
    shown = board()
    for now in range(0, 300, 10):
        assert not shown.update([alarm()] if now % 30 else [], now)
    assert shown.alarms == ()


def test_a_raised_alarm_does_not_flap() -> None:
    shown = board()
    changes = [
        shown.update([alarm()] if now <= 40 or now % 50 == 0 else [], now) for now in range(0, 600, 10)
    ]
    assert [told(each) for each in changes if each] == [(["paused:t"], [])]
    assert len(shown.alarms) == 1


def test_it_keeps_its_beginning_and_has_the_last_figures() -> None:
    shown = board()
    shown.update([alarm(since=100.0, figures={"messages": 1})], 0)
    shown.update([alarm(since=130.0, figures={"messages": 9})], 30)
    [raised] = shown.alarms
    assert (raised.since, raised.figures) == (100.0, {"messages": 9})
    shown.update([alarm(since=90.0)], 35)
    assert shown.alarms[0].since == 90.0
    shown.update([], 40)
    assert shown.alarms[0].since == 90.0


@pytest.mark.parametrize(
    ("kind", "after_s"),
    [
        (Kind.DAMAGED, 0),
        (Kind.SILENT, 7),
        (Kind.BEHIND, 7),
        (Kind.STUCK, 11),
        (Kind.NO_CONSUMER, 13),
        (Kind.NO_CHANNEL, 13),
        (Kind.PAUSED, 7),
    ],
)
def test_the_times_are_options(kind: Kind, after_s: int) -> None:
    shown = board(
        alarm_raise_after=7 * SECOND, alarm_stuck_after=11 * SECOND, alarm_no_consumer_after=13 * SECOND
    )
    raised_at = [now for now in range(20) if shown.update([alarm(kind)], now)]
    assert raised_at == [after_s]


def test_they_are_sorted_by_harm() -> None:
    shown = board(alarm_raise_after=0, alarm_stuck_after=0)
    shown.update(
        [
            alarm(Kind.PAUSED),
            alarm(Kind.STUCK, topic="b", figures={"messages": 1}),
            alarm(Kind.STUCK, topic="a", figures={"messages": 1}),
            alarm(Kind.STUCK, topic="c", figures={"messages": 2}),
            alarm(Kind.DAMAGED),
        ],
        0,
    )
    assert [each.id for each in shown.alarms] == ["damaged:t", "stuck:c", "stuck:a", "stuck:b", "paused:t"]
