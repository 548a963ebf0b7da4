"""Registries that tell changes are followed; those that cannot, fail or lie cost no more than a poll."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import attrs
import pytest

from nsqkit.client import Consumer, Producer
from nsqkit.discovery import FOLLOW_MARGIN_S, FOLLOW_S, Discovery, Node
from nsqkit.http_client import Answer
from tests.nsqkit.client.fake import fake_nsqd, run_mocked

HEADER = b"X-Nsq-Topic-Version"
Asked = list[tuple[float, bool]]
"""When, and whether with the parameters to wait."""


@attrs.define(eq=False)
class FollowedRegistry:
    """One that holds requests back, as ours does; each of its habits can be changed."""

    hosts: list[str]
    number: int = 1
    asked: Asked = attrs.field(factory=list)
    error: Exception | None = None
    versions: bool = True
    garbage: bytes | None = None
    """Sent as the version."""
    lies: bool = False
    """Says with each answer that all has changed."""
    holds_back: bool = True
    hangs: bool = False
    """With requests to wait."""
    waiting: int = 0
    most_waiting: int = 0
    _changed: anyio.Event = attrs.field(factory=anyio.Event)

    def set(self, *hosts: str) -> None:
        """These nsqds have the topic from now on."""
        self.hosts, self.number = list(hosts), self.number + 1
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def version(self) -> str:
        return f"v-{self.number}"

    async def answer(self, url: str) -> Answer:
        params = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.asked.append((round(anyio.current_time(), 3), "wait" in params))
        if self.lies:
            self.set(f"h{self.number}")
        if "wait" in params:
            await self._wait(params)
        if self.error is not None:
            raise self.error
        version = self.version.encode() if self.garbage is None else self.garbage
        headers = [(HEADER, version)] if self.versions else []
        if not self.hosts:
            return Answer(404, headers, b'{"message":"TOPIC_NOT_FOUND"}')
        producers = [{"broadcast_address": host, "tcp_port": 4150} for host in self.hosts]
        return Answer(200, headers, json.dumps({"producers": producers}).encode())

    async def _wait(self, params: Mapping[str, str]) -> None:
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        try:
            if self.hangs:
                await anyio.sleep_forever()
            if self.holds_back and self.error is None and params["newer_than"] == self.version:
                assert params["wait"].endswith("s")
                with anyio.move_on_after(float(params["wait"][:-1])):
                    await self._changed.wait()
        finally:
            self.waiting -= 1


def discovery_of(*registries: FollowedRegistry, **settings: Any) -> Discovery:
    async def fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
        with anyio.fail_after(timeout_s):
            return await registries[int(urlsplit(url).hostname.removeprefix("r"))].answer(url)  # type: ignore[union-attr]

    addresses = [f"r{number}:4161" for number in range(len(registries))]
    settings = {"jitter": 0.0, **settings}
    return Discovery(addresses, fetch=fetch, random=random.Random(1), **settings)


@attrs.define(eq=False)
class Seen:
    """The lists of a watch, with the seconds since its start; only those that are not the one before."""

    lists: list[tuple[float, list[str]]] = attrs.field(factory=list)
    rounds: int = 0

    async def watch(self, discovery: Discovery, seconds: float) -> None:
        began = anyio.current_time()
        with anyio.move_on_after(seconds):
            async for nodes in discovery.watch("t"):
                self.rounds += 1
                hosts = [node.broadcast_address for node in nodes]
                if not self.lists or hosts != self.lists[-1][1]:
                    self.lists.append((round(anyio.current_time() - began, 2), hosts))


def test_a_change_is_seen_at_once() -> None:
    registry, seen = FollowedRegistry(["a"]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(registry), 300)
            await anyio.sleep(20)
            registry.set("a", "b")
            await anyio.sleep(10)
            registry.set("b")
            await anyio.sleep(100)
            registry.set("b", "c")

    run_mocked(main)
    assert seen.lists == [(0, ["a"]), (20, ["a", "b"]), (30, ["b"]), (130, ["b", "c"])]
    assert registry.most_waiting == 1


def test_a_change_while_it_was_not_asked_is_not_missed() -> None:
    """The next request has the old version, and is answered at once."""
    registry, seen = FollowedRegistry(["a"]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(registry), 100)
            await anyio.sleep(FOLLOW_S + 0.5)
            assert registry.waiting == 0, "between two requests"
            registry.set("b")

    run_mocked(main)
    assert seen.lists == [(0, ["a"]), (FOLLOW_S + 1, ["b"])]


def test_requests_are_held_back_one_after_the_other_and_end_before_the_next_round() -> None:
    registry = FollowedRegistry(["a"])
    run_mocked(lambda: Seen().watch(discovery_of(registry, interval=60), 130))
    began = registry.asked[0][0]
    times = [(round(time - began, 1), waits) for time, waits in registry.asked]
    first = [(0, False), (0, True), (26, True), (52, True)]
    assert times == [(at + round_, waits) for round_ in (0, 60, 120) for at, waits in first][:10]


def test_a_topic_that_nobody_has_yet_is_followed_too() -> None:
    registry, seen = FollowedRegistry([]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(registry), 300)
            await anyio.sleep(145)
            registry.set("a")

    run_mocked(main)
    assert seen.lists == [(0, []), (145, ["a"])]


def test_the_last_nsqd_of_a_topic_that_goes_is_looked_for() -> None:
    registry, seen = FollowedRegistry(["a"]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(registry), 100)
            await anyio.sleep(10)
            registry.set()
            await anyio.sleep(5)
            registry.set("a")

    run_mocked(main)
    assert [hosts for _, hosts in seen.lists] == [["a"], [], ["a"]]
    assert seen.lists[1][0] <= 11
    assert seen.lists[2][0] <= 16


def test_each_registry_is_followed_and_their_answers_are_merged() -> None:
    first, second, seen = FollowedRegistry(["a"]), FollowedRegistry(["b"]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(first, second), 200)
            await anyio.sleep(20)
            second.set("b", "c")
            await anyio.sleep(20)
            first.set("d")

    run_mocked(main)
    assert seen.lists == [(0, ["a", "b"]), (20, ["a", "b", "c"]), (40, ["b", "c", "d"])]
    assert first.most_waiting == second.most_waiting == 1


def test_a_registry_without_versions_is_polled_only() -> None:
    """The original's. Beside it, another one is followed, and its changes do not put off the polls."""
    original, ours, seen = FollowedRegistry(["a"], versions=False), FollowedRegistry(["b"]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(original, ours), 240)
            for number in range(7):
                await anyio.sleep(30)
                ours.set("b", f"c{number}")

    run_mocked(main)
    began = original.asked[0][0]
    assert [(round(time - began), waits) for time, waits in original.asked] == [
        (60 * round_, False) for round_ in range(4)
    ]
    assert len(seen.lists) == 8


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b"a b", b"x" * 65, b"\xff", b"v&topic=other", b"v\x00", b"%2e", "\N{SNOWMAN}".encode()],
)
def test_a_version_that_is_none_is_not_sent_back(value: bytes) -> None:
    registry = FollowedRegistry(["a"], garbage=value)
    run_mocked(lambda: Seen().watch(discovery_of(registry), 100))
    assert [waits for _, waits in registry.asked] == [False, False]


def test_a_registry_that_answers_at_once_is_asked_less_and_less() -> None:
    registry = FollowedRegistry(["a"], holds_back=False)
    run_mocked(lambda: Seen().watch(discovery_of(registry, interval=60), 1000))
    waits = [time for time, waits in registry.asked if waits]
    assert len(waits) < 30
    pauses = [later - time for time, later in pairwise(waits)]
    assert min(pauses) >= 2
    assert pauses[-1] >= 50


def test_a_registry_with_another_answer_each_time_is_asked_once_a_second() -> None:
    registry, seen = FollowedRegistry(["a"], lies=True), Seen()
    run_mocked(lambda: seen.watch(discovery_of(registry, interval=60), 120))
    times = [time for time, waits in registry.asked if waits]
    assert min(later - time for time, later in pairwise(times)) >= 0.99
    assert 100 <= len(times) <= 121
    assert sum(not waits for _, waits in registry.asked) == 2, "rounds are not put off"


def test_a_registry_that_never_answers_a_request_to_wait_is_polled(caplog: pytest.LogCaptureFixture) -> None:
    registry, seen = FollowedRegistry(["a"], hangs=True), Seen()

    async def main() -> None:
        discovery = discovery_of(registry, interval=60)
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery, 200)
            await anyio.sleep(65)
            registry.hosts = ["b"]
        assert discovery.failures == {}

    run_mocked(main)
    assert seen.lists == [(0, ["a"]), (120, ["b"])]
    assert registry.most_waiting == 1
    held = [time for time, waits in registry.asked if waits]
    assert held[1] - held[0] >= FOLLOW_S + FOLLOW_MARGIN_S + 1
    assert not caplog.records


def test_a_registry_that_restarts_is_followed_again_within_seconds() -> None:
    registry, seen = FollowedRegistry(["a"]), Seen()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(seen.watch, discovery_of(registry, interval=60), 59)
            await anyio.sleep(10)
            registry.error = OSError("refused")
            registry.set("a")
            await anyio.sleep(3)
            registry.error = None
            await anyio.sleep(5)
            registry.set("a", "b")

    run_mocked(main)
    assert seen.lists == [(0, ["a"]), (18, ["a", "b"])], "it was asked after 12, 16 and 17 s"


def test_failures_of_requests_to_wait_fall_back_to_polls() -> None:
    registry = FollowedRegistry(["a"])

    async def main() -> None:
        discovery = discovery_of(registry, interval=60)
        async with anyio.create_task_group() as group:
            group.start_soon(Seen().watch, discovery, 1000)
            await anyio.sleep(1)
            registry.error = OSError("refused")
            registry.set("a")
        assert list(discovery.failures) == ["r0:4161"]

    run_mocked(main)
    waits = [time for time, waits in registry.asked if waits]
    assert len(waits) < 30


def test_pauses_have_jitter() -> None:
    """Many consumers are answered by the same change; they do not come back together."""
    registry = FollowedRegistry(["a"])
    run_mocked(lambda: Seen().watch(discovery_of(registry, interval=60, jitter=0.3), 55))
    [_, first, second, *_] = [time for time, _ in registry.asked]
    assert FOLLOW_S + 1 < second - first <= FOLLOW_S + 1.3


def test_lists_of_all_nsqds_are_not_followed() -> None:
    registry = FollowedRegistry(["a"])

    async def main() -> None:
        with anyio.move_on_after(100):
            async for nodes in discovery_of(registry).watch():
                assert nodes == [Node("a", 4150)]

    run_mocked(main)
    assert [waits for _, waits in registry.asked] == [False, False]


def test_a_consumer_connects_to_a_new_nsqd_at_once() -> None:
    registry = FollowedRegistry(["a"])

    async def main() -> None:
        async with (
            fake_nsqd(heartbeat_s=20) as nsqd,
            Consumer("t", "c", discovery=discovery_of(registry), connect=nsqd.connect),
        ):
            await nsqd.peer()
            await anyio.sleep(10)
            registry.set("a", "b")
            began = anyio.current_time()
            assert (await nsqd.peer()).address.host == "b"
            assert anyio.current_time() - began < 0.1

    run_mocked(main)


def test_a_producer_follows_nothing() -> None:
    registry = FollowedRegistry(["a"])

    async def main() -> None:
        async with (
            fake_nsqd(heartbeat_s=20) as nsqd,
            Producer(discovery=discovery_of(registry), connect=nsqd.connect),
        ):
            await anyio.sleep(10)

    run_mocked(main)
    assert [waits for _, waits in registry.asked] == [False]
