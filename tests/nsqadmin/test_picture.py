"""The picture of the cluster: what it shows, what it makes of silence, and how often it asks."""

from __future__ import annotations

import contextlib
import types
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nsqadmin.cluster.history import Kind, Span
from nsqadmin.cluster.picture import Picture
from nsqadmin.cluster.views import Snapshot
from tests.nsqadmin.fake_upstream import FakeUpstream, channel, node, topic

REGISTRY, OTHER = "lookup1:4161", "lookup2:4161"
ONE, TWO = "a:4151", "b:4151"
START = 1_000_000.0


@attrs.define(eq=False)
class Stage:
    """A picture whose rounds the test begins, on trio's mock clock."""

    upstream: FakeUpstream
    picture: Picture
    nursery: trio.Nursery
    wall_s: float | None = None
    """What the wall clock shows; None: it goes as trio's does."""

    async def round(self, after_s: float = 0) -> Snapshot:
        await trio.sleep(after_s)
        await self.picture.round(self.nursery)
        return self.picture.snapshot


@contextlib.asynccontextmanager
async def stage(**options: Any) -> AsyncIterator[Stage]:
    upstream = FakeUpstream.make(**options)
    began = trio.current_time()

    def clock() -> float:
        return made.wall_s if made.wall_s is not None else START + trio.current_time() - began

    async with trio.open_nursery() as nursery:
        made = Stage(upstream, Picture(upstream.options, upstream, clock=clock), nursery)
        yield made
        nursery.cancel_scope.cancel()


def registries(*addresses: str) -> dict[str, list[str]]:
    return {"lookupd_http_addresses": list(addresses)}


def nsqds(*addresses: str) -> dict[str, list[str]]:
    return {"nsqd_http_addresses": list(addresses)}


class TestWhatItShows:
    async def test_sums_over_nodes_and_each_node(self, autojump_clock: trio.testing.MockClock) -> None:
        async with stage(**registries(REGISTRY)) as it:
            it.upstream.registry(REGISTRY, [node(TWO, "t"), node(ONE, "t", "u")], ["t", "u", "idle"])
            it.upstream.nsqd(
                ONE,
                topic("u", depth=2),
                topic(
                    "t", channel("c", depth=3, in_flight_count=1, client_count=2), depth=1, message_count=7
                ),
            )
            it.upstream.nsqd(TWO, topic("t", channel("c", depth=4, deferred_count=5), message_count=1))
            shown = await it.round()
        assert list(shown.topics) == ["idle", "t", "u"]
        view = shown.topics["t"]
        assert (view.stats.depth, view.channel_depth, view.in_flight_count, view.deferred_count) == (
            1,
            7,
            1,
            5,
        )
        assert [part.node for part in view.stats.nodes or ()] == [ONE, TWO]
        assert it.picture.channel("t", "c") is view.channels["c"]
        assert it.picture.channel("t", "none") is it.picture.channel("none", "c") is None
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

    async def test_before_the_first_poll_there_is_an_empty_one(self) -> None:
        async with stage(**nsqds(ONE)) as it:
            assert it.picture.at == 0
            assert it.picture.topics() == it.picture.nodes() == []
            assert it.picture.totals.in_rate is None
            assert it.picture.node(ONE) is None

    async def test_without_registries_nsqds_describe_themselves(self) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE, topic("t", depth=2))
            shown = await it.round()
        [view] = shown.nodes.values()
        assert (view.address, view.node.hostname, view.node.tcp_port) == (ONE, "a", 1)
        assert [each.topic for each in view.node.topics] == ["t"]

    async def test_clients_and_memory_are_not_asked_for_with_every_poll(self) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE)
            await it.round()
        assert it.upstream.params[0] == {"format": "json", "include_clients": "false", "include_mem": "false"}


class TestRates:
    async def test_they_come_from_two_polls(self, autojump_clock: trio.testing.MockClock) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE, topic("t", channel("c", message_count=100, depth=50), message_count=100))
            first = await it.round()
            it.upstream.nsqd(
                ONE,
                topic("t", channel("c", message_count=140, depth=60, in_flight_count=10), message_count=140),
            )
            second = await it.round(after_s=10)
            third = await it.round(after_s=10)
        assert first.topics["t"].in_rate is first.totals.out_rate is None
        view = second.topics["t"]
        assert (view.in_rate, view.out_rate) == (4.0, 2.0)
        assert (view.channels["c"].in_rate, view.channels["c"].out_rate) == (4.0, 2.0)
        assert (second.totals.in_rate, second.totals.out_rate) == (4.0, 2.0)
        assert (second.nodes[ONE].in_rate, second.nodes[ONE].out_rate) == (4.0, 2.0)
        assert (third.topics["t"].in_rate, third.topics["t"].out_rate) == (0.0, 0.0)

    async def test_with_registries_too_a_node_is_remembered_from_poll_to_poll(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**registries(REGISTRY)) as it:
            it.upstream.registry(REGISTRY, [node(ONE, "t")])
            for count in (100, 150):
                it.upstream.nsqd(ONE, topic("t", message_count=count))
                shown = await it.round(after_s=10)
            del it.upstream.answers[ONE]
            silent = await it.round(after_s=10)
        assert shown.topics["t"].in_rate == 5.0
        assert silent.topics["t"].stats.message_count == 150
        assert silent.problems[0].answered_at == START + 20
        assert it.upstream.asked[f"{ONE}/info"] == 0, "the registry tells who it is"

    async def test_a_silent_node_has_no_rate_however_busy_it_was(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            for count in (100, 200):
                for address in (ONE, TWO):
                    it.upstream.nsqd(
                        address, topic("t", channel("c", message_count=count), message_count=count)
                    )
                busy = await it.round(after_s=10)
            del it.upstream.answers[TWO]
            it.upstream.nsqd(ONE, topic("t", channel("c", message_count=300), message_count=300))
            one_left = await it.round(after_s=10)
            del it.upstream.answers[ONE]
            none_left = await it.round(after_s=10)
        assert (busy.totals.in_rate, one_left.totals.in_rate, none_left.totals.in_rate) == (20.0, 10.0, None)
        assert one_left.nodes[TWO].in_rate is None
        assert one_left.topics["t"].stats.message_count == 500

    async def test_a_clock_that_is_set_back_makes_no_mad_rate(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            rates = []
            for number, wall in enumerate((1000.0, 900.0, 901.0, 5000.0)):
                it.upstream.nsqd(ONE, topic("t", message_count=number * 10))
                it.wall_s = wall
                rates.append((await it.round(after_s=10)).totals.in_rate)
        assert rates == [None, 1.0, 1.0, 1.0]

    async def test_a_restart_of_an_nsqd_makes_no_mad_rate(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE, topic("t", channel("c", message_count=9000, depth=100), message_count=9000))
            await it.round()
            it.upstream.nsqd(ONE, topic("t", channel("c", message_count=20, depth=100), message_count=20))
            shown = await it.round(after_s=10)
        assert (shown.topics["t"].in_rate, shown.topics["t"].out_rate) == (2.0, 0.0)

    async def test_requeues_and_timeouts_are_those_of_the_last_minute(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            seen = []
            for requeues in (100, 103, 103, 105, 105, 105, 105, 105, 105):
                it.upstream.nsqd(
                    ONE, topic("t", channel("c", requeue_count=requeues, timeout_count=requeues * 2))
                )
                view = (await it.round(after_s=10)).topics["t"]
                assert view.timeouts_per_minute == 2 * view.requeues_per_minute
                assert view.channels["c"].requeues_per_minute == view.requeues_per_minute
                seen.append(view.requeues_per_minute)
        assert seen == [0, 3, 3, 5, 5, 5, 5, 2, 2]

    async def test_requeues_and_timeouts_of_all_nodes_are_summed_and_kept_as_rates(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            for count in (0, 30):
                it.upstream.nsqd(ONE, topic("t", channel("c", requeue_count=count, timeout_count=2 * count)))
                it.upstream.nsqd(TWO, topic("t", channel("c", requeue_count=3 * count, timeout_count=count)))
                shown = await it.round(after_s=10)
            history = it.picture.history
        assert (shown.totals.requeues_per_minute, shown.totals.timeouts_per_minute) == (120, 90)
        for name in (("t", "c"), ("t", "")):
            assert list(history.series(Kind.REQUEUE_RATE, *name).values) == [12]
            assert list(history.series(Kind.TIMEOUT_RATE, *name).values) == [9]
        assert list(history.series(Kind.REQUEUE_RATE).values) == [12]
        assert list(history.series(Kind.TIMEOUT_RATE).values) == [9]

    async def test_history_has_what_was_shown(self, autojump_clock: trio.testing.MockClock) -> None:
        async with stage(**nsqds(ONE)) as it:
            for count in (10, 30, 30):
                it.upstream.nsqd(
                    ONE, topic("t", channel("c", message_count=count, depth=count), message_count=count)
                )
                await it.round(after_s=5)
            history = it.picture.history
        came = history.series(Kind.IN_RATE, "t")
        assert list(came.times) == [START + 10, START + 15], "a rate takes two looks"
        assert list(came.values) == [4.0, 0.0]
        assert list(history.series(Kind.DEPTH, "t", "c").values) == [30.0, 30.0]
        assert list(history.series(Kind.DEPTH).values) == [30.0, 30.0]
        assert list(history.series(Kind.DEPTH, "t", "c", Span.HOURS).values) == []

    async def test_an_outage_of_the_only_nsqd_is_in_the_chart(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Not a straight line from the last rate before it to the first one behind it."""
        async with stage(**nsqds(ONE)) as it:
            for count in (0, 500):
                it.upstream.nsqd(ONE, topic("t", channel("c", message_count=count), message_count=count))
                await it.round(after_s=5)
            answers = it.upstream.answers.pop(ONE)
            for _ in range(12):
                await it.round(after_s=5)
            it.upstream.answers[ONE] = answers
            it.upstream.nsqd(ONE, topic("t", channel("c", message_count=7000), message_count=7000))
            await it.round(after_s=5)
            came = it.picture.history.series(Kind.IN_RATE, "t")
        pairs = zip(came.times, came.values, strict=True)
        during = [value for at, value in pairs if START + 10 < at < START + 75]
        assert len(during) == 12
        assert max(during) == 0.0


class TestWhatPagesPeople:
    async def test_since_when_a_channel_has_no_consumer(self, autojump_clock: trio.testing.MockClock) -> None:
        async with stage(**nsqds(ONE)) as it:
            since = []
            for clients in (0, 0, 1, 0):
                it.upstream.nsqd(ONE, topic("t", channel("c", client_count=clients)))
                shown = await it.round(after_s=10)
                since.append(shown.topics["t"].channels["c"].no_consumer_since)
                assert shown.totals.idle_channels == len(shown.topics["t"].idle_channels) == (clients == 0)
        assert since == [START + 10, START + 10, None, START + 40]

    async def test_the_age_of_the_oldest_unfinished_message(self) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            it.upstream.nsqd(ONE, topic("t", channel("c", oldest_unfinished_ms=500), channel("d")))
            it.upstream.nsqd(
                TWO,
                topic("t", channel("c", oldest_unfinished_ms=900), channel("d")),
                topic("u", oldest_unfinished_ms=7),
            )
            shown = await it.round()
        view = shown.topics["t"]
        assert view.channels["c"].oldest_unfinished_ms == view.oldest_unfinished_ms == 900
        assert shown.totals.oldest_unfinished_ms == 900
        assert shown.topics["u"].oldest_unfinished_ms == 7
        assert view.channels["d"].oldest_unfinished_ms is None, "nothing is made up"


class TestSilence:
    async def test_an_nsqd_that_refuses_keeps_its_last_answer_and_is_named(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            it.upstream.nsqd(ONE, topic("t", depth=5))
            it.upstream.nsqd(TWO, topic("t", depth=7))
            await it.round()
            del it.upstream.answers[TWO]
            await it.round(after_s=5)
            shown = await it.round(after_s=5)
            [problem] = shown.problems
            assert (problem.kind, problem.address, problem.since, problem.answered_at) == (
                "nsqd", TWO, START + 5, START,
            )  # fmt: skip
            assert "connection refused" in problem.error
            assert shown.nodes[TWO].problem == problem
            assert shown.nodes[ONE].problem is None
            assert shown.topics["t"].stats.depth == 12
            it.upstream.nsqd(TWO, topic("t", depth=1))
            await it.round(after_s=5)
            healed = await it.round(after_s=5)
        assert healed.problems == ()
        assert healed.topics["t"].stats.depth == 6

    async def test_an_nsqd_that_hangs_delays_the_rest_once_and_then_nobody(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            it.upstream.nsqd(ONE, topic("t", depth=5))
            it.upstream.nsqd(TWO, topic("t", depth=7))
            await it.round()
            it.upstream.hanging[TWO] = trio.Event()
            began = trio.current_time()
            shown = await it.round()
            assert trio.current_time() - began == pytest.approx(2.5)  # half an interval
            assert [problem.address for problem in shown.problems] == [TWO]
            assert "no answer within 2.5 s" in shown.problems[0].error
            assert shown.topics["t"].stats.depth == 12
            began = trio.current_time()
            it.upstream.nsqd(ONE, topic("t", depth=6))
            shown = await it.round()
            assert trio.current_time() == began
            assert shown.topics["t"].stats.depth == 13
            assert it.upstream.asked[f"{TWO}/stats"] == 2, "never asked twice at a time"
            it.upstream.hanging.pop(TWO).set()
            await trio.testing.wait_all_tasks_blocked()
            assert (await it.round()).problems == ()

    async def test_a_dead_registry_is_named_and_the_others_tell(self) -> None:
        async with stage(**registries(OTHER, REGISTRY)) as it:
            it.upstream.registry(REGISTRY, [node(ONE, "t")])
            it.upstream.nsqd(ONE, topic("t"))
            shown = await it.round()
        assert [(each.kind, each.address, each.answered_at) for each in shown.problems] == [
            ("nsqlookupd", OTHER, None)
        ]
        assert list(shown.topics) == ["t"]

    async def test_when_all_registries_die_what_they_told_stays(self) -> None:
        async with stage(**registries(REGISTRY)) as it:
            it.upstream.registry(REGISTRY, [node(ONE, "t")], ["t", "idle"])
            it.upstream.nsqd(ONE, topic("t"))
            await it.round()
            del it.upstream.answers[REGISTRY]
            shown = await it.round()
        assert list(shown.topics) == ["idle", "t"]
        assert list(shown.nodes) == [ONE]

    async def test_a_node_that_only_a_dead_registry_knew_stays_as_long_as_it_answers(self) -> None:
        async with stage(**registries(REGISTRY, OTHER)) as it:
            it.upstream.registry(REGISTRY, [node(ONE, "t")])
            it.upstream.registry(OTHER, [node(TWO, "t")])
            it.upstream.nsqd(ONE, topic("t"))
            it.upstream.nsqd(TWO, topic("t"))
            await it.round()
            del it.upstream.answers[OTHER]
            assert list((await it.round()).nodes) == [ONE, TWO]
            del it.upstream.answers[TWO]
            await it.round()
            assert list((await it.round()).nodes) == [ONE]

    async def test_an_nsqd_that_has_left_the_registries_is_gone(self) -> None:
        async with stage(**registries(REGISTRY)) as it:
            it.upstream.registry(REGISTRY, [node(ONE, "t"), node(TWO, "t")])
            it.upstream.nsqd(ONE, topic("t"))
            it.upstream.nsqd(TWO, topic("t"))
            await it.round()
            it.upstream.registry(REGISTRY, [node(ONE, "t")])
            shown = await it.round()
        assert list(shown.nodes) == [ONE]
        assert [part.node for part in shown.topics["t"].stats.nodes or ()] == [ONE]

    async def test_an_nsqd_that_never_answered_shows_as_such(self) -> None:
        async with stage(**nsqds(ONE)) as it:
            shown = await it.round()
        view = shown.nodes[ONE]
        assert (view.answered_at, view.topics, view.in_rate, view.health) == (None, {}, None, "")
        assert view.problem is not None

    async def test_a_deleted_topic_is_gone_with_the_next_poll(self) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE, topic("t"), topic("u"))
            await it.round()
            it.upstream.nsqd(ONE, topic("u"))
            assert list((await it.round()).topics) == ["u"]


class TestClients:
    @staticmethod
    def with_clients(params: dict[str, str]) -> dict[str, Any]:
        clients = (
            None if params.get("include_clients") == "false" else [{"client_id": "x"}, {"client_id": "y"}]
        )
        return {"topics": [topic("t", channel("c", client_count=2, clients=clients))]}

    async def test_they_are_asked_for_when_somebody_looks_once_for_all(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            for address in (ONE, TWO):
                it.upstream.nsqd(address)
                it.upstream.answers[address]["/stats"] = self.with_clients
            it.nursery.start_soon(it.picture.run)
            await it.picture.next()
            before = it.upstream.asked.copy()
            found: list[list[str]] = []

            async def look() -> None:
                clients = await it.picture.channel_clients("t", "c")
                found.append([f"{client.node} {client.client_id}" for client in clients])

            async with trio.open_nursery() as lookers:
                for _ in range(5):
                    lookers.start_soon(look)
            assert found == [[f"{ONE} x", f"{ONE} y", f"{TWO} x", f"{TWO} y"]] * 5
            assert it.upstream.asked[f"{ONE}/stats"] == before[f"{ONE}/stats"] + 1
            on_node = await it.picture.node_clients(TWO)
            assert [client.client_id for client in on_node["t", "c"]] == ["x", "y"]
            assert await it.picture.channel_clients("t", "none") == []
            assert await it.picture.node_clients("nowhere:1") == {}

    async def test_after_an_interval_they_are_asked_for_again(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE)
            it.upstream.answers[ONE]["/stats"] = self.with_clients
            it.nursery.start_soon(it.picture.run)
            await it.picture.next()
            assert len(await it.picture.channel_clients("t", "c")) == 2
            del it.upstream.answers[ONE]
            assert len(await it.picture.channel_clients("t", "c")) == 2
            await trio.sleep(5.5)
            assert await it.picture.channel_clients("t", "c") == [], "nobody answers any more"


class TestPolling:
    async def test_once_an_interval_and_at_once_when_something_was_changed(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE)
            it.nursery.start_soon(it.picture.run)
            times = []
            for number in range(5):
                times.append((await it.picture.next()).at - START)
                if number == 2:
                    it.picture.poll_soon()
        assert times == pytest.approx([0, 5, 10, 10.2, 15.2], abs=0.05)

    async def test_a_round_that_crashes_is_logged_and_the_next_one_comes(
        self,
        autojump_clock: trio.testing.MockClock,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE)
            with monkeypatch.context() as broken:
                broken.setattr(it.picture, "_builder", None)
                it.nursery.start_soon(it.picture.run)
                await trio.sleep(1)
            assert "the picture was not renewed" in caplog.text
            await it.picture.next()
            assert list(it.picture.snapshot.nodes) == [ONE]

    async def test_names_that_are_gone_are_not_kept_for_ever(self) -> None:
        async with stage(**nsqds(ONE)) as it:
            known = []
            for number in range(6):
                it.upstream.nsqd(ONE, *(topic(f"t{number}-{place}", depth=1) for place in range(500)))
                await it.round()
                known.append(it.picture.history.known)
        assert known == [500, 1000, 1500, 2000, 500, 1000]

    async def test_an_answer_of_a_kind_that_nobody_thought_of_does_not_end_it(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(params: object) -> object:
            raise KeyError("nobody thought of this")

        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE, topic("t"))
            it.nursery.start_soon(it.picture.run)
            await it.picture.next()
            good, it.upstream.answers[ONE]["/stats"] = it.upstream.answers[ONE]["/stats"], broken
            [problem] = (await it.picture.next()).problems
            assert problem.error == "its answer cannot be worked with"
            it.upstream.answers[ONE]["/stats"] = {**good, "topics": [topic("t", depth="many")]}
            [problem] = (await it.picture.next()).problems
            assert "not the answer of an nsqd" in problem.error
            it.upstream.answers[ONE]["/stats"] = good
            await it.picture.next()
            assert (await it.picture.next()).problems == ()

    async def test_a_slow_round_does_not_put_off_the_next_one(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with stage(**nsqds(ONE, TWO)) as it:
            it.upstream.nsqd(ONE)
            it.upstream.hanging[TWO] = trio.Event()
            it.nursery.start_soon(it.picture.run)
            times = [(await it.picture.next()).at - START for _ in range(3)]
        assert times == pytest.approx([2.5, 5, 10], abs=0.05)

    async def test_a_round_that_costs_much_puts_off_the_next_one(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with stage(**nsqds(ONE)) as it:
            it.upstream.nsqd(ONE)
            build = it.picture._builder.build

            async def costly(*args: Any) -> Snapshot:
                args[-1].busy_s += 2
                return await build(*args)

            monkeypatch.setattr(it.picture, "_builder", types.SimpleNamespace(build=costly))
            it.nursery.start_soon(it.picture.run)
            times = [(await it.picture.next()).at - START for _ in range(3)]
        assert times == pytest.approx([0, 20, 40], abs=0.5)

    async def test_registries_can_be_changed_while_it_runs(self) -> None:
        async with stage(**registries(REGISTRY)) as it:
            it.upstream.registry(REGISTRY, [node(ONE, "t")])
            it.upstream.registry(OTHER, [node(TWO, "u")])
            it.upstream.nsqd(ONE, topic("t"))
            it.upstream.nsqd(TWO, topic("u"))
            assert list((await it.round()).nodes) == [ONE]
            it.upstream.options.lookupd_http_addresses = [OTHER]
            shown = await it.round()
        assert (list(shown.nodes), list(shown.topics)) == ([TWO], ["u"])
