"""The rules: each kind of alarm is found, and is not found on the near miss."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.alarms.memory import Memory
from nsqadmin.cluster.snapshot import ClusterSnapshot, NodeSnapshot, Usage
from nsqadmin.model import Copies, Draining, Follower, HeldCopy, Idle
from nsqkit.options import MINUTE
from tests.nsqadmin.alarms.looking import FakeMinutes, kinds, look, minutes
from tests.nsqadmin.pages.cluster import NODE, NOW, channel, held_copy, node, problem, snapshot, topic

OTHER = "10.0.0.2:4151"
GROWING = minutes([1000, 1300, 1600, 1900, 2200])
DAY = 86_400.0
BODIES = {"message_count": 1000, "message_bytes": 960_000}
"""Bodies of 960 bytes take 1000 on disk: `GROWING` writes 5000 bytes a second."""


def cluster(
    *, free_bytes: float | None = None, topic_stats: dict[str, Any] | None = None, **stats: Any
) -> ClusterSnapshot:
    """One channel on one node."""
    held = topic("t", [channel("t", "c", **stats)], **(topic_stats or {}))
    return snapshot(held, nodes=[with_room(node(NODE, [held]), free_bytes)])


def with_room(view: NodeSnapshot, free_bytes: float | None) -> NodeSnapshot:
    """The node, with so much free space on its disk."""
    return msgspec.structs.replace(view, usage=Usage(disk_free_bytes=free_bytes))


def one(alarms: list[Alarm], kind: Kind) -> Alarm:
    """The only alarm, which is of this kind."""
    [alarm] = alarms
    assert alarm.kind is kind
    assert alarm.advice.endswith(".")
    return alarm


@pytest.mark.parametrize(
    "healthy",
    [
        snapshot(),
        cluster(client_count=1, depth=900, in_flight_count=10, out_rate=5.0),
        cluster(no_consumer_since=NOW - DAY),
        cluster(no_consumer_since=NOW - DAY, paused=True),
        cluster(no_consumer_since=NOW - DAY, deferred_count=3, oldest_unfinished_ms=10**9),
        snapshot(topic("t", paused=True), topic("empty")),
    ],
    ids=["empty", "busy", "idle", "idle-and-paused", "deferred-only", "topics-without-messages"],
)
def test_a_healthy_cluster_has_no_alarm(healthy: ClusterSnapshot) -> None:
    assert look(healthy) == []


class TestBehind:
    def test_a_backlog_that_grows_minute_by_minute(self) -> None:
        alarm = one(look(cluster(depth=2400, client_count=1, out_rate=1.0), GROWING), Kind.BEHIND)
        assert alarm.text == "2,400 messages waiting, 5 a second more"
        assert alarm.since == NOW - 300
        assert alarm.figures == {"messages": 2400, "messages_per_second": 5}
        assert alarm.subject == Subject(topic="t", channel="c")

    @pytest.mark.parametrize(
        ("depth", "history"),
        [
            (2100, GROWING),
            (2400, minutes([1300, 1600, 1900, 2200])),
            (2400, minutes([1000, 1300, 1300, 1900, 2200])),
            (100_400, minutes([100_000, 100_100, 100_200, 100_300, 100_350])),
            (999, minutes([100, 200, 300, 400, 500])),
        ],
        ids=[
            "shrinks-now",
            "short-history",
            "a-minute-without-growth",
            "up-and-down-of-a-large-one",
            "small",
        ],
    )
    def test_other_backlogs_are_not_behind(self, depth: int, history: FakeMinutes) -> None:
        assert look(cluster(depth=depth, client_count=1, out_rate=1.0), history) == []

    def test_the_thresholds_are_options(self) -> None:
        small = cluster(depth=60, client_count=1, out_rate=1.0)
        history = minutes([10, 30, 50])
        options = {"alarm_backlog": 50, "alarm_behind_after": 3 * MINUTE}
        assert kinds(look(small, history, **options)) == [Kind.BEHIND]
        assert look(small, history, **{**options, "alarm_backlog": 61}) == []

    def test_a_clock_that_was_set_back_is_no_growth_rate(self) -> None:
        rows = [(NOW - 60 * number, values) for number, (_, values) in enumerate(GROWING.rows)]
        assert look(cluster(depth=2400, client_count=1, out_rate=1.0), FakeMinutes(rows)) == []


class TestDisk:
    def test_a_backlog_that_fills_the_disk_soon(self) -> None:
        shown = cluster(depth=2400, client_count=1, out_rate=1.0, free_bytes=5000 * 7200, topic_stats=BODIES)
        alarm = one(look(shown, GROWING), Kind.DISK_FULL)
        assert alarm.text == (
            f"2,400 messages waiting, 5 a second more; the disk of {NODE} is full in 2 h at this rate"
        )
        assert alarm.figures["disk_full_in_seconds"] == 7200
        assert alarm.since == NOW - 300

    def test_a_disk_with_room_for_days_is_only_mentioned(self) -> None:
        shown = cluster(
            depth=2400, client_count=1, out_rate=1.0, free_bytes=5000 * 90_000, topic_stats=BODIES
        )
        alarm = one(look(shown, GROWING), Kind.BEHIND)
        assert alarm.text.endswith(f"; the disk of {NODE} is full in 1 d 1 h at this rate")

    @pytest.mark.parametrize(
        ("stats", "advice"),
        [({"paused": True}, "Unpause"), ({}, "Start a consumer"), ({"client_count": 1}, "Add consumers")],
    )
    def test_the_advice_names_the_cause(self, stats: dict[str, Any], advice: str) -> None:
        shown = cluster(depth=2400, free_bytes=1, topic_stats=BODIES, **stats)
        assert one(look(shown, GROWING), Kind.DISK_FULL).advice.startswith(advice)

    @pytest.mark.parametrize("free_bytes", [None, -1.0, float("nan"), float("inf")])
    def test_free_space_that_is_not_known(self, free_bytes: float | None) -> None:
        shown = cluster(depth=2400, client_count=1, out_rate=1.0, free_bytes=free_bytes, topic_stats=BODIES)
        assert "disk" not in one(look(shown, GROWING), Kind.BEHIND).text

    def test_the_fullest_disk_counts(self) -> None:
        held = topic("t", [channel("t", "c", nodes=[NODE, OTHER], depth=2400, client_count=1)], **BODIES)
        nodes = [with_room(node(NODE, [held]), 10**9), with_room(node(OTHER, [held]), 10**6)]
        alarm = one(look(snapshot(held, nodes=nodes), GROWING), Kind.DISK_FULL)
        assert f"the disk of {OTHER} " in alarm.text


class TestStuck:
    def test_messages_in_flight_of_which_none_is_finished(self) -> None:
        alarm = one(look(cluster(client_count=1, in_flight_count=3)), Kind.STUCK)
        assert alarm.text == "3 messages in flight, and none finished"

    @pytest.mark.parametrize(
        "stats",
        [{"in_flight_count": 3, "out_rate": 0.1}, {"in_flight_count": 3, "out_rate": None}, {"depth": 3}],
        ids=["finishes", "rate-unknown", "nothing-in-flight"],
    )
    def test_others_are_not_stuck(self, stats: dict[str, Any]) -> None:
        assert look(cluster(client_count=1, **stats)) == []

    def test_what_a_silent_node_had_in_flight_is_not_known_to_be_stuck(self) -> None:
        held = topic("t", [channel("t", "c", client_count=1, in_flight_count=3)])
        shown = snapshot(held, nodes=[node(NODE, [held], trouble=problem())])
        assert kinds(look(shown)) == [Kind.SILENT]


class TestShares:
    def test_time_outs_above_their_share(self) -> None:
        shown = cluster(client_count=1, timeouts_per_minute=6)
        alarm = one(look(shown, minutes([0] * 3, finished=0.9, timed_out=0.1)), Kind.TIMEOUTS)
        assert alarm.text == "10 % of the deliveries time out"
        assert alarm.figures == {"percent": 10.0, "per_minute": 6.0}

    def test_requeues_above_their_share(self) -> None:
        shown = cluster(client_count=1, requeues_per_minute=18)
        alarm = one(look(shown, minutes([0] * 3, finished=0.7, requeued=0.3)), Kind.REQUEUES)
        assert alarm.text == "30 % of the deliveries are requeued"

    @pytest.mark.parametrize(
        ("stats", "history"),
        [
            ({"timeouts_per_minute": 3}, minutes([0] * 3, finished=0.96, timed_out=0.04)),
            ({"requeues_per_minute": 6}, minutes([0] * 3, finished=0.92, requeued=0.08)),
            ({"timeouts_per_minute": 1}, minutes([0] * 3, timed_out=2 / 180)),
            ({}, minutes([0] * 3, requeued=1, timed_out=1)),
            ({"timeouts_per_minute": 9, "requeues_per_minute": 9}, FakeMinutes()),
        ],
        ids=["few-time-outs", "few-requeues", "only-two", "none-in-the-last-minute", "no-history"],
    )
    def test_shares_that_are_not_above_are_no_alarm(
        self, stats: dict[str, Any], history: FakeMinutes
    ) -> None:
        assert look(cluster(client_count=1, **stats), history) == []


class TestIdle:
    def idle(self, **changes: Any) -> Idle:
        given = {"idle_ms": 7_200_000, "ttl_ms": 9_000_000, "action": "delete", "alarm": True, **changes}
        return Idle(**given)

    def test_a_channel_that_is_deleted_soon(self) -> None:
        """Whether or not messages wait in it."""
        alarm = one(look(cluster(deferred_count=3, idle=self.idle())), Kind.IDLE)
        assert alarm.text == (
            f"{NODE} deletes it in 30 min, as it has had no consumer for 2 h; 3 messages waiting"
        )
        assert alarm.figures == {"messages": 3, "seconds_left": 1800}
        assert kinds(look(cluster(idle=self.idle()))) == [Kind.IDLE]

    def test_one_that_is_paused_soon(self) -> None:
        alarm = one(look(cluster(idle=self.idle(action="pause", idle_ms=9_000_001))), Kind.IDLE)
        assert alarm.text.startswith(f"{NODE} pauses it in ")
        assert alarm.figures["seconds_left"] == 0

    def test_it_is_the_nsqd_that_says_when(self) -> None:
        assert look(cluster(idle=self.idle(alarm=False))) == []


class TestWaiting:
    def test_messages_without_a_consumer(self) -> None:
        alarm = one(look(cluster(depth=50, no_consumer_since=NOW - 9)), Kind.NO_CONSUMER)
        assert alarm.text == "50 messages waiting, no consumer"
        assert alarm.figures == {"messages": 50}

    def test_messages_on_one_node_that_has_no_consumer(self) -> None:
        held = topic(
            "t", [channel("t", "c", nodes=[NODE, OTHER], depth=5, client_count=1)], nodes=[NODE, OTHER]
        )
        view = held.channels["c"].stats.nodes
        assert view is not None
        view[1].client_count = 0
        alarm = one(look(snapshot(held)), Kind.NO_CONSUMER)
        assert alarm.text == f"5 messages waiting, no consumer on {OTHER}"

    def test_messages_in_a_paused_channel(self) -> None:
        alarm = one(look(cluster(depth=1, paused=True)), Kind.PAUSED)
        assert alarm.text == "1 message waiting in a paused channel"

    def test_messages_in_a_paused_topic(self) -> None:
        shown = snapshot(topic("t", depth=7, paused=True))
        alarm = one(look(shown), Kind.PAUSED)
        assert alarm.subject == Subject(topic="t")

    def test_messages_in_a_topic_without_a_channel(self) -> None:
        alarm = one(look(snapshot(topic("t", depth=4))), Kind.NO_CHANNEL)
        assert alarm.text == "4 messages waiting, no channel"

    def test_messages_on_a_node_where_the_topic_has_no_channel(self) -> None:
        held = topic("t", [channel("t", "c", client_count=1)], nodes=[NODE, OTHER], depth=4)
        assert held.stats.nodes is not None
        held.stats.nodes[0].depth = 0
        alarm = one(look(snapshot(held)), Kind.NO_CHANNEL)
        assert alarm.text == f"4 messages waiting, no channel on {OTHER}"

    def test_an_old_message(self) -> None:
        old = {"client_count": 1, "out_rate": 1.0, "oldest_unfinished_ms": 900_000}
        alarm = one(look(cluster(in_flight_count=1, **old)), Kind.OLD)
        assert alarm.text == "the oldest message is 15 min old"
        assert look(cluster(in_flight_count=1, **{**old, "oldest_unfinished_ms": 899_999})) == []

    def test_one_cause_is_one_alarm(self) -> None:
        shown = cluster(depth=2400, paused=True, no_consumer_since=NOW, oldest_unfinished_ms=10**9)
        assert kinds(look(shown, GROWING)) == [Kind.PAUSED]
        shown = cluster(depth=2400, no_consumer_since=NOW, oldest_unfinished_ms=10**9)
        assert kinds(look(shown, GROWING)) == [Kind.NO_CONSUMER]


class TestNodes:
    def test_a_node_that_does_not_answer(self) -> None:
        held = topic("t", [channel("t", "c", client_count=1, depth=8)])
        shown = snapshot(held, nodes=[node(NODE, [held], trouble=problem())])
        alarm = one(look(shown), Kind.SILENT)
        assert alarm.text == "it does not answer (no answer within 5 s), 8 messages out of reach"
        assert (alarm.since, alarm.subject) == (NOW - 60, Subject(node=NODE))

    def test_the_exit_after_a_drain_is_expected(self) -> None:
        assert look(snapshot(nodes=[node(trouble=problem(), draining=Draining())])) == []

    def test_a_registry_that_does_not_answer(self) -> None:
        trouble = problem("10.9.0.1:4161", kind="nsqlookupd")
        alarm = one(look(snapshot(problems=[trouble])), Kind.SILENT)
        assert alarm.subject == Subject(registry="10.9.0.1:4161")
        assert alarm.id == "silent:nsqlookupd:10.9.0.1:4161"

    @pytest.mark.parametrize(
        ("left", "text"),
        [
            (14 * DAY + 1, None),
            (14 * DAY, "its certificate expires in 14 d"),
            (3600, "its certificate expires in 1 h"),
            (-2 * DAY, "its certificate has expired 2 d ago"),
        ],
    )
    def test_a_certificate_that_expires_soon(self, left: float, text: str | None) -> None:
        of_node = msgspec.structs.replace(node(), usage=Usage(certificate_expiry=NOW + left))
        of_registry = msgspec.structs.replace(snapshot(), certificates={"10.9.0.1:4161": NOW + left})
        for shown, subject in (
            (snapshot(nodes=[of_node]), Subject(node=of_node.address)),
            (of_registry, Subject(registry="10.9.0.1:4161")),
        ):
            if text is None:
                assert look(shown) == []
            else:
                alarm = one(look(shown), Kind.CERTIFICATE)
                assert (alarm.text, alarm.subject) == (text, subject)
                assert alarm.figures == {"expires_in_seconds": left}

    @pytest.mark.parametrize(
        ("health", "kind", "text"),
        [
            ("NOK - no space left on device: 5 bytes free", Kind.REFUSES, "no space left"),
            ("NOK - Input/output error", Kind.REFUSES, "Input/output error"),
            ("NOK - 1 of at least 2 copies are in step", Kind.REFUSES, "1 of at least 2 copies"),
            ("OK - topic t is refused: No such file or directory", Kind.DAMAGED, "topic t is refused"),
        ],
    )
    def test_a_node_that_reports_trouble(self, health: str, kind: Kind, text: str) -> None:
        assert text in one(look(snapshot(nodes=[node(health=health)])), kind).text

    def test_the_advice_fits_the_reason_of_a_refusal(self) -> None:
        health = "NOK - 1 of at least 2 copies are in step"
        assert "--min-copies" in one(look(snapshot(nodes=[node(health=health)])), Kind.REFUSES).advice
        health = "NOK - cut off from a follower and from half of the nsqlookupds or more"
        assert "--fence" in one(look(snapshot(nodes=[node(health=health)])), Kind.REFUSES).advice

    @pytest.mark.parametrize("health", ["OK", "", "OK - draining", "OK - 1 of 2 copies"])
    def test_a_node_that_reports_none(self, health: str) -> None:
        assert look(snapshot(nodes=[node(health=health)])) == []

    def test_a_node_whose_messages_lack_copies(self) -> None:
        """As nsqd reports it: its own copy is always in step, and counted."""
        away = Follower("10.0.0.2:4159", False, "not connected")
        full = Follower("10.0.0.3:4159", False, "refused: full: copies may take 5 bytes here")
        followers = (Follower("10.0.0.4:4159", True, "in step", 0), away, full)
        alarm = one(look(snapshot(nodes=[node(copies=Copies(4, 2, followers))])), Kind.UNDER_REPLICATED)
        assert alarm.text == (
            "2 of 4 copies of its messages are in step, its own included; out of step: 10.0.0.2:4159 (not connected), "
            "10.0.0.3:4159 (refused: full: copies may take 5 bytes here)"
        )
        assert alarm.figures == {"missing": 2, "wanted": 4}

    def test_of_many_followers_some_are_named(self) -> None:
        followers = tuple(Follower(f"10.0.0.{n}:4159", False, "not connected") for n in range(5))
        alarm = one(look(snapshot(nodes=[node(copies=Copies(6, 1, followers))])), Kind.UNDER_REPLICATED)
        assert alarm.text.endswith("10.0.0.2:4159 (not connected) and 2 more")

    def test_a_copy_that_waits_for_a_decision(self) -> None:
        held = (
            msgspec.structs.replace(held_copy("10.0.0.9:4150"), undecided="1 of its 3 nsqlookupds agree"),
            msgspec.structs.replace(held_copy("10.0.0.8:4150"), undecided="2 of 4 nodes are silent"),
        )
        alarm = one(look(snapshot(nodes=[node(copies=Copies(1, 1, held=held))])), Kind.NOT_ADOPTED)
        assert alarm.text == (
            "10.0.0.9:4150 is silent, and its copy here is not served: 1 of its 3 nsqlookupds agree, and 1 more"
        )
        assert alarm.figures == {"copies": 2}

    @pytest.mark.parametrize("changes", [{"undecided": ""}, {"adopted": True}, {"connected": True}])
    def test_a_copy_that_waits_for_nothing(self, changes: dict[str, Any]) -> None:
        held = msgspec.structs.replace(
            held_copy("10.0.0.9:4150"), **{"undecided": "it was removed", **changes}
        )
        assert look(snapshot(nodes=[node(copies=Copies(1, 1, held=(held,)))])) == []

    def test_a_node_that_nobody_could_take_over(self) -> None:
        copies = Copies(2, 2, obstacle="2 nsqlookupds are configured, and that needs 3")
        alarm = one(look(snapshot(nodes=[node(copies=copies)])), Kind.NO_TAKEOVER)
        assert alarm.text.endswith("by itself: 2 nsqlookupds are configured, and that needs 3")

    @pytest.mark.parametrize(
        "copies", [Copies(3, 3), Copies(1, 1, held=(held_copy(),))], ids=["in-step", "a-follower-only"]
    )
    def test_a_node_whose_messages_lack_no_copies(self, copies: Copies) -> None:
        assert look(snapshot(nodes=[node(copies=copies)])) == []

    def test_a_node_that_cannot_write_its_audit_file(self) -> None:
        failing = node(health="OK - audit file cannot be written: No space left on device")
        alarm = one(look(snapshot(nodes=[failing])), Kind.NOT_AUDITED)
        assert alarm.text == "its audit file cannot be written: No space left on device"

    def test_damage_that_the_copies_could_not_mend(self) -> None:
        copies = Copies(2, 2, unmended=("topic-t/1.log", "topic-t/2.log"), more_unmended=5)
        alarm = one(look(snapshot(nodes=[node(copies=copies)])), Kind.DAMAGED)
        assert alarm.text == (
            "damage that its followers' copies could not mend, in topic-t/1.log, topic-t/2.log and 5 more"
        )
        assert alarm.figures == {"segments": 7}
        refused = node(health="OK - topic t is refused: No such file or directory", copies=copies)
        assert one(look(snapshot(nodes=[refused])), Kind.DAMAGED).text.startswith("topic t is refused")

    def test_the_advice_about_a_silent_node_names_who_has_its_copy(self) -> None:
        silent = node(NODE, trouble=problem(NODE))
        holder = node(OTHER, copies=Copies(1, 1, held=(held_copy(silent.node.tcp_address),)))
        alarm = one(look(snapshot(nodes=[silent, holder])), Kind.SILENT)
        assert alarm.advice.endswith(f"{OTHER} has a copy, which can be adopted there.")

    def test_the_advice_about_a_node_that_is_gone_names_who_has_its_copy(self) -> None:
        memory, gone = Memory(DAY), node(NODE)
        holder = node(OTHER, copies=Copies(1, 1, held=(held_copy(gone.node.tcp_address),)))
        look(snapshot(nodes=[gone, holder]), memory=memory)
        alarm = one(look(snapshot(nodes=[holder]), memory=memory), Kind.SILENT)
        assert alarm.advice.endswith(f"{OTHER} has a copy, which can be adopted there.")

    @pytest.mark.parametrize(
        "copy", [held_copy(adopted=True), held_copy(complete=False), held_copy("10.0.0.7:4150")]
    )
    def test_other_copies_are_no_advice(self, copy: HeldCopy) -> None:
        shown = [node(NODE, trouble=problem(NODE)), node(OTHER, copies=Copies(1, 1, held=(copy,)))]
        assert "adopted" not in one(look(snapshot(nodes=shown)), Kind.SILENT).advice


class TestDamage:
    def test_lost_messages_are_an_alarm_for_a_day(self) -> None:
        memory = Memory(DAY)
        alarm = one(look(cluster(client_count=1, damaged_count=5), memory=memory), Kind.DAMAGED)
        assert alarm.text == f"5 messages lost to damage on the disk of {NODE}"
        for at, expected in ((NOW + DAY - 1, [Kind.DAMAGED]), (NOW + DAY, [])):
            held = topic("t", [channel("t", "c", client_count=1, damaged_count=5)])
            assert kinds(look(snapshot(held, at=at), memory=memory)) == expected

    def test_a_further_loss_is_an_alarm_again(self) -> None:
        memory = Memory(DAY)
        look(cluster(client_count=1, damaged_count=5), memory=memory)
        held = topic("t", [channel("t", "c", client_count=1, damaged_count=6)])
        alarm = one(look(snapshot(held, at=NOW + 3 * DAY), memory=memory), Kind.DAMAGED)
        assert (alarm.since, alarm.figures) == (NOW + 3 * DAY, {"messages": 6})


def test_the_worst_comes_first() -> None:
    held = [
        topic("a", [channel("a", "paused", paused=True, depth=9)]),
        topic("b", [channel("b", "few", depth=2), channel("b", "many", depth=200)]),
        topic("c", [channel("c", "stuck", client_count=1, in_flight_count=1)]),
    ]
    nodes = [node(NODE, held, health="NOK - full"), node(OTHER, trouble=problem(OTHER), copies=Copies(2, 1))]
    assert [(each.kind, each.subject.text) for each in look(snapshot(*held, nodes=nodes))] == [
        (Kind.SILENT, OTHER),
        (Kind.REFUSES, NODE),
        (Kind.STUCK, "c / stuck"),
        (Kind.NO_CONSUMER, "b / many"),
        (Kind.NO_CONSUMER, "b / few"),
        (Kind.PAUSED, "a / paused"),
    ]
