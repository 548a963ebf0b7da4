"""The poller: the contents of its snapshots, rates, daemons that do not answer, and how often it polls."""

from __future__ import annotations

import types
from typing import Any

import pytest
import trio
import trio.testing

from nsqadmin.cluster.history import Metric, Resolution
from nsqadmin.cluster.snapshot import ClusterSnapshot
from tests.nsqadmin.cluster.polling import (
    ONE,
    OTHER_REGISTRY,
    REGISTRY,
    START,
    TWO,
    nsqds,
    polling,
    registries,
)
from tests.nsqadmin.fake_upstream import channel, node, topic


class TestSnapshots:
    async def test_a_snapshot_has_sums_over_nodes_and_each_node(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**registries(REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(TWO, "t"), node(ONE, "t", "u")], ["t", "u", "idle"])
            stage.upstream.nsqd(
                ONE,
                topic("u", depth=2),
                topic(
                    "t", channel("c", depth=3, in_flight_count=1, client_count=2), depth=1, message_count=7
                ),
            )
            stage.upstream.nsqd(TWO, topic("t", channel("c", depth=4, deferred_count=5), message_count=1))
            shown = await stage.round()
        assert list(shown.topics) == ["idle", "t", "u"]
        view = shown.topics["t"]
        assert (view.stats.depth, view.channel_depth, view.in_flight_count, view.deferred_count) == (
            1,
            7,
            1,
            5,
        )
        assert [part.node for part in view.stats.nodes or ()] == [ONE, TWO]
        assert shown.channel("t", "c") is view.channels["c"]
        assert shown.channel("t", "none") is shown.channel("none", "c") is None
        assert shown.topics["idle"].stats.nodes == []
        assert list(shown.nodes) == [ONE, TWO]
        first = shown.nodes[ONE]
        assert (first.depth, first.in_flight_count, first.client_count, first.message_count) == (6, 1, 2, 7)
        assert (first.health, first.start_time, first.problem, first.answered_at) == ("OK", 1, None, START)
        assert list(first.topics) == ["t", "u"]
        totals = shown.totals
        assert (totals.topics, totals.channels, totals.nodes, totals.clients) == (3, 1, 2, 2)
        assert (totals.depth, totals.in_flight_count, totals.message_count) == (10, 1, 8)
        assert shown.problems == ()
        assert shown.at == START

    async def test_the_snapshot_is_empty_before_the_first_poll(self) -> None:
        async with polling(**nsqds(ONE)) as stage:
            assert stage.poller.snapshot == ClusterSnapshot()
            assert stage.poller.snapshot.at == 0
            assert stage.poller.snapshot.totals.in_rate is None

    async def test_without_registries_nsqds_describe_themselves(self) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE, topic("t", depth=2))
            shown = await stage.round()
        [view] = shown.nodes.values()
        assert (view.address, view.node.hostname, view.node.tcp_port) == (ONE, "a", 1)
        assert [each.topic for each in view.node.topics] == ["t"]

    async def test_polls_request_neither_clients_nor_memory(self) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE)
            await stage.round()
        asked = [params for params in stage.upstream.params if params]
        stats = {"format": "json", "include_clients": "false", "include_mem": "false"}
        assert sorted(asked, key=len) == [{"include_topics": "false"}, stats]


class TestRates:
    async def test_rates_come_from_two_polls(self, autojump_clock: trio.testing.MockClock) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE, topic("t", channel("c", message_count=100, depth=50), message_count=100))
            first = await stage.round()
            stage.upstream.nsqd(
                ONE,
                topic("t", channel("c", message_count=140, depth=60, in_flight_count=10), message_count=140),
            )
            second = await stage.round(after_s=10)
            third = await stage.round(after_s=10)
        assert first.topics["t"].in_rate is first.totals.out_rate is None
        view = second.topics["t"]
        assert (view.in_rate, view.out_rate) == (4.0, 2.0)
        assert (view.channels["c"].in_rate, view.channels["c"].out_rate) == (4.0, 2.0)
        assert (second.totals.in_rate, second.totals.out_rate) == (4.0, 2.0)
        assert (second.nodes[ONE].in_rate, second.nodes[ONE].out_rate) == (4.0, 2.0)
        assert (third.topics["t"].in_rate, third.topics["t"].out_rate) == (0.0, 0.0)

    async def test_rates_with_registries_come_from_two_polls_too(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**registries(REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(ONE, "t")])
            for count in (100, 150):
                stage.upstream.nsqd(ONE, topic("t", message_count=count))
                shown = await stage.round(after_s=10)
            del stage.upstream.responses[ONE]
            failed = await stage.round(after_s=10)
        assert shown.topics["t"].in_rate == 5.0
        assert failed.topics["t"].stats.message_count == 150
        assert failed.problems[0].answered_at == START + 20
        assert stage.upstream.requests[f"{ONE}/info"] == 0, "the registry describes it"

    async def test_a_node_that_does_not_answer_has_no_rate(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE, TWO)) as stage:
            for count in (100, 200):
                for address in (ONE, TWO):
                    stage.upstream.nsqd(
                        address, topic("t", channel("c", message_count=count), message_count=count)
                    )
                busy = await stage.round(after_s=10)
            del stage.upstream.responses[TWO]
            stage.upstream.nsqd(ONE, topic("t", channel("c", message_count=300), message_count=300))
            one_left = await stage.round(after_s=10)
            del stage.upstream.responses[ONE]
            none_left = await stage.round(after_s=10)
        assert (busy.totals.in_rate, one_left.totals.in_rate, none_left.totals.in_rate) == (20.0, 10.0, None)
        assert one_left.nodes[TWO].in_rate is None
        assert one_left.topics["t"].stats.message_count == 500

    async def test_rates_do_not_depend_on_the_wall_clock(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            rates = []
            for number, wall in enumerate((1000.0, 900.0, 901.0, 5000.0)):
                stage.upstream.nsqd(ONE, topic("t", message_count=number * 10))
                stage.wall_s = wall
                rates.append((await stage.round(after_s=10)).totals.in_rate)
        assert rates == [None, 1.0, 1.0, 1.0]

    async def test_rates_after_a_restart_of_an_nsqd_count_from_zero(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(
                ONE, topic("t", channel("c", message_count=9000, depth=100), message_count=9000)
            )
            await stage.round()
            stage.upstream.nsqd(ONE, topic("t", channel("c", message_count=20, depth=100), message_count=20))
            shown = await stage.round(after_s=10)
        assert (shown.topics["t"].in_rate, shown.topics["t"].out_rate) == (2.0, 0.0)

    async def test_requeues_and_timeouts_are_those_of_the_last_minute(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            seen = []
            for requeues in (100, 103, 103, 105, 105, 105, 105, 105, 105):
                stage.upstream.nsqd(
                    ONE, topic("t", channel("c", requeue_count=requeues, timeout_count=requeues * 2))
                )
                view = (await stage.round(after_s=10)).topics["t"]
                assert view.timeouts_per_minute == 2 * view.requeues_per_minute
                assert view.channels["c"].requeues_per_minute == view.requeues_per_minute
                seen.append(view.requeues_per_minute)
        assert seen == [0, 3, 3, 5, 5, 5, 5, 2, 2]

    async def test_requeues_and_timeouts_of_all_nodes_are_summed_and_kept_as_rates(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE, TWO)) as stage:
            for count in (0, 30):
                stage.upstream.nsqd(
                    ONE, topic("t", channel("c", requeue_count=count, timeout_count=2 * count))
                )
                stage.upstream.nsqd(
                    TWO, topic("t", channel("c", requeue_count=3 * count, timeout_count=count))
                )
                shown = await stage.round(after_s=10)
            history = stage.poller.history
        assert (shown.totals.requeues_per_minute, shown.totals.timeouts_per_minute) == (120, 90)
        for name in (("t", "c"), ("t", "")):
            assert list(history.series(Metric.REQUEUE_RATE, *name).values) == [12]
            assert list(history.series(Metric.TIMEOUT_RATE, *name).values) == [9]
        assert list(history.series(Metric.REQUEUE_RATE).values) == [12]
        assert list(history.series(Metric.TIMEOUT_RATE).values) == [9]

    async def test_the_history_has_the_values_of_the_snapshots(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            for count in (10, 30, 30):
                stage.upstream.nsqd(
                    ONE,
                    topic("t", channel("c", message_count=count, depth=count), message_count=count, depth=7),
                )
                await stage.round(after_s=5)
            history = stage.poller.history
        came = history.series(Metric.IN_RATE, "t")
        assert list(came.times) == [START + 10, START + 15], "a rate takes two polls"
        assert list(came.values) == [4.0, 0.0]
        assert list(history.series(Metric.DEPTH, "t", "c").values) == [30.0, 30.0]
        assert list(history.series(Metric.DEPTH, "t").values) == [37.0, 37.0]
        assert list(history.series(Metric.DEPTH).values) == [37.0, 37.0]
        assert list(history.series(Metric.DEPTH, "t", "c", Resolution.MINUTE).values) == []

    async def test_an_outage_of_the_only_nsqd_is_in_the_chart(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Zeros, and not a straight line from the last rate before it to the first one after it."""
        async with polling(**nsqds(ONE)) as stage:
            for count in (0, 500):
                stage.upstream.nsqd(ONE, topic("t", channel("c", message_count=count), message_count=count))
                await stage.round(after_s=5)
            answers = stage.upstream.responses.pop(ONE)
            for _ in range(12):
                await stage.round(after_s=5)
            stage.upstream.responses[ONE] = answers
            stage.upstream.nsqd(ONE, topic("t", channel("c", message_count=7000), message_count=7000))
            await stage.round(after_s=5)
            came = stage.poller.history.series(Metric.IN_RATE, "t")
        pairs = zip(came.times, came.values, strict=True)
        during = [value for at, value in pairs if START + 10 < at < START + 75]
        assert len(during) == 12
        assert max(during) == 0.0


class TestAttention:
    async def test_a_channel_shows_since_when_it_has_no_consumer(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            since = []
            for clients in (0, 0, 1, 0):
                stage.upstream.nsqd(ONE, topic("t", channel("c", client_count=clients)))
                shown = await stage.round(after_s=10)
                since.append(shown.topics["t"].channels["c"].no_consumer_since)
                assert shown.totals.idle_channels == len(shown.topics["t"].idle_channels) == (clients == 0)
        assert since == [START + 10, START + 10, None, START + 40]

    async def test_the_oldest_unfinished_message_of_all_nodes_is_shown(self) -> None:
        async with polling(**nsqds(ONE, TWO)) as stage:
            stage.upstream.nsqd(ONE, topic("t", channel("c", oldest_unfinished_ms=500), channel("d")))
            stage.upstream.nsqd(
                TWO,
                topic("t", channel("c", oldest_unfinished_ms=900), channel("d")),
                topic("u", oldest_unfinished_ms=7),
            )
            shown = await stage.round()
        view = shown.topics["t"]
        assert view.channels["c"].oldest_unfinished_ms == view.oldest_unfinished_ms == 900
        assert shown.totals.oldest_unfinished_ms == 900
        assert shown.topics["u"].oldest_unfinished_ms == 7
        assert view.channels["d"].oldest_unfinished_ms is None, "unknown ages stay unknown"


class TestDaemonsThatDoNotAnswer:
    async def test_an_nsqd_that_refuses_is_named_and_its_last_response_kept(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE, TWO)) as stage:
            stage.upstream.nsqd(ONE, topic("t", depth=5))
            stage.upstream.nsqd(TWO, topic("t", depth=7))
            await stage.round()
            del stage.upstream.responses[TWO]
            await stage.round(after_s=5)
            shown = await stage.round(after_s=5)
            [problem] = shown.problems
            assert (problem.kind, problem.address, problem.since, problem.answered_at) == (
                "nsqd", TWO, START + 5, START,
            )  # fmt: skip
            assert "connection refused" in problem.error
            assert shown.nodes[TWO].problem == problem
            assert shown.nodes[ONE].problem is None
            assert shown.topics["t"].stats.depth == 12
            stage.upstream.nsqd(TWO, topic("t", depth=1))
            await stage.round(after_s=5)
            healed = await stage.round(after_s=5)
        assert healed.problems == ()
        assert healed.topics["t"].stats.depth == 6

    async def test_an_nsqd_that_hangs_delays_only_one_snapshot(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE, TWO)) as stage:
            stage.upstream.nsqd(ONE, topic("t", depth=5))
            stage.upstream.nsqd(TWO, topic("t", depth=7))
            await stage.round()
            stage.upstream.hanging[TWO] = trio.Event()
            began = trio.current_time()
            shown = await stage.round()
            assert trio.current_time() - began == pytest.approx(2.5)  # half an interval
            assert [problem.address for problem in shown.problems] == [TWO]
            assert "no answer within 2.5 s" in shown.problems[0].error
            assert shown.topics["t"].stats.depth == 12
            began = trio.current_time()
            stage.upstream.nsqd(ONE, topic("t", depth=6))
            shown = await stage.round()
            assert trio.current_time() == began
            assert shown.topics["t"].stats.depth == 13
            assert stage.upstream.requests[f"{TWO}/stats"] == 2, "only one request at a time"
            stage.upstream.hanging.pop(TWO).set()
            await trio.testing.wait_all_tasks_blocked()
            assert (await stage.round()).problems == ()

    async def test_a_dead_registry_is_named_and_the_others_are_used(self) -> None:
        async with polling(**registries(OTHER_REGISTRY, REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(ONE, "t")])
            stage.upstream.nsqd(ONE, topic("t"))
            shown = await stage.round()
        assert [(each.kind, each.address, each.answered_at) for each in shown.problems] == [
            ("nsqlookupd", OTHER_REGISTRY, None)
        ]
        assert list(shown.topics) == ["t"]

    async def test_when_all_registries_die_their_last_responses_are_kept(self) -> None:
        async with polling(**registries(REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(ONE, "t")], ["t", "idle"])
            stage.upstream.nsqd(ONE, topic("t"))
            await stage.round()
            del stage.upstream.responses[REGISTRY]
            shown = await stage.round()
        assert list(shown.topics) == ["idle", "t"]
        assert list(shown.nodes) == [ONE]

    async def test_a_node_that_only_a_dead_registry_listed_stays_while_it_answers(self) -> None:
        async with polling(**registries(REGISTRY, OTHER_REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(ONE, "t")])
            stage.upstream.registry(OTHER_REGISTRY, [node(TWO, "t")])
            stage.upstream.nsqd(ONE, topic("t"))
            stage.upstream.nsqd(TWO, topic("t"))
            await stage.round()
            del stage.upstream.responses[OTHER_REGISTRY]
            assert list((await stage.round()).nodes) == [ONE, TWO]
            del stage.upstream.responses[TWO]
            await stage.round()
            assert list((await stage.round()).nodes) == [ONE]

    async def test_an_nsqd_that_is_no_longer_registered_is_removed(self) -> None:
        async with polling(**registries(REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(ONE, "t"), node(TWO, "t")])
            stage.upstream.nsqd(ONE, topic("t"))
            stage.upstream.nsqd(TWO, topic("t"))
            await stage.round()
            stage.upstream.registry(REGISTRY, [node(ONE, "t")])
            shown = await stage.round()
        assert list(shown.nodes) == [ONE]
        assert [part.node for part in shown.topics["t"].stats.nodes or ()] == [ONE]

    async def test_an_nsqd_that_never_answered_has_a_problem_and_no_topics(self) -> None:
        async with polling(**nsqds(ONE)) as stage:
            shown = await stage.round()
        view = shown.nodes[ONE]
        assert (view.answered_at, view.topics, view.in_rate, view.health) == (None, {}, None, "")
        assert view.problem is not None

    async def test_a_deleted_topic_is_removed_with_the_next_poll(self) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE, topic("t"), topic("u"))
            await stage.round()
            stage.upstream.nsqd(ONE, topic("u"))
            assert list((await stage.round()).topics) == ["u"]


class TestPolling:
    async def test_polls_come_once_an_interval_and_on_request(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE)
            stage.run()
            times = []
            for number in range(5):
                times.append((await stage.poller.next_snapshot()).at - START)
                if number == 2:
                    stage.poller.poll_soon()
        assert times == pytest.approx([0, 5, 10, 10.2, 15.2], abs=0.05)

    async def test_a_page_that_is_opened_shows_what_has_just_changed(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE, topic("t"))
            await stage.poller.up_to_date()
            assert not stage.poller.snapshot.topics, "nothing polls: it does not wait"
            stage.run()
            await trio.sleep(1)
            stage.upstream.nsqd(ONE, topic("u"))
            before = trio.current_time()
            await stage.poller.up_to_date()
            assert list(stage.poller.snapshot.topics) == ["u"]
            assert trio.current_time() - before < 0.3
            requests = stage.upstream.requests[f"{ONE}/stats"]
            for _ in range(20):  # many pages at once are one poll
                await stage.poller.up_to_date()
            assert stage.upstream.requests[f"{ONE}/stats"] == requests

    async def test_a_page_does_not_wait_for_a_slow_cluster(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE, topic("t"))
            stage.run()
            await trio.sleep(1)
            stage.poller._round_s = 2.0
            before = trio.current_time()
            await stage.poller.up_to_date()
            assert trio.current_time() == before

    async def test_a_poll_that_crashes_is_logged_and_the_next_one_works(
        self,
        autojump_clock: trio.testing.MockClock,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE)
            with monkeypatch.context() as broken:
                broken.setattr(stage.poller, "_builder", None)
                stage.run()
                await trio.sleep(1)
            assert "the snapshot was not renewed" in caplog.text
            await stage.poller.next_snapshot()
            assert list(stage.poller.snapshot.nodes) == [ONE]

    async def test_names_of_deleted_topics_are_forgotten(self) -> None:
        async with polling(**nsqds(ONE)) as stage:
            known = []
            for number in range(6):
                stage.upstream.nsqd(ONE, *(topic(f"t{number}-{place}", depth=1) for place in range(500)))
                await stage.round()
                known.append(stage.poller.history.known)
        assert known == [500, 1000, 1500, 2000, 500, 1000]

    async def test_polling_survives_unexpected_responses(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(params: object) -> object:
            raise KeyError("unexpected")

        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE, topic("t"))
            stage.run()
            await stage.poller.next_snapshot()
            good, stage.upstream.responses[ONE]["/stats"] = stage.upstream.responses[ONE]["/stats"], broken
            [problem] = (await stage.poller.next_snapshot()).problems
            assert problem.error == "its response cannot be processed"
            stage.upstream.responses[ONE]["/stats"] = {**good, "topics": [topic("t", depth="many")]}
            [problem] = (await stage.poller.next_snapshot()).problems
            assert "unexpected response" in problem.error
            stage.upstream.responses[ONE]["/stats"] = good
            await stage.poller.next_snapshot()
            assert (await stage.poller.next_snapshot()).problems == ()

    async def test_a_slow_poll_does_not_delay_the_next_one(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with polling(**nsqds(ONE, TWO)) as stage:
            stage.upstream.nsqd(ONE)
            stage.upstream.hanging[TWO] = trio.Event()
            stage.run()
            times = [(await stage.poller.next_snapshot()).at - START for _ in range(3)]
        assert times == pytest.approx([2.5, 5, 10], abs=0.05)

    async def test_an_expensive_poll_delays_the_next_one(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with polling(**nsqds(ONE)) as stage:
            stage.upstream.nsqd(ONE)
            build = stage.poller._builder.build

            async def costly(*args: Any) -> ClusterSnapshot:
                args[-1].busy_s += 2
                return await build(*args)

            monkeypatch.setattr(stage.poller, "_builder", types.SimpleNamespace(build=costly))
            stage.run()
            times = [(await stage.poller.next_snapshot()).at - START for _ in range(3)]
        assert times == pytest.approx([0, 20, 40], abs=0.5)

    async def test_registries_can_be_changed_at_run_time(self) -> None:
        async with polling(**registries(REGISTRY)) as stage:
            stage.upstream.registry(REGISTRY, [node(ONE, "t")])
            stage.upstream.registry(OTHER_REGISTRY, [node(TWO, "u")])
            stage.upstream.nsqd(ONE, topic("t"))
            stage.upstream.nsqd(TWO, topic("u"))
            assert list((await stage.round()).nodes) == [ONE]
            stage.upstream.options.lookupd_http_addresses = [OTHER_REGISTRY]
            shown = await stage.round()
        assert (list(shown.nodes), list(shown.topics)) == ([TWO], ["u"])
