"""Which channels the registries know: in parallel, within a limit, whatever they answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest
import trio
import trio.testing

from nsqd.lookup.known_channels import (
    DEFAULT_TIMEOUT,
    MAX_CONCURRENT,
    QUEUE_TIMEOUT,
    SILENT_TIMEOUT,
    TRIAL_INTERVAL,
    KnownChannels,
    Query,
)
from nsqd.lookup.protocol import HttpAddress
from nsqkit.http_client import Answer, HttpFailed, HttpOptions, HttpTimeout
from nsqkit.service.http import json_body
from tests.nsqkit.http_target import Target
from tests.timing import patience

A, B, C = (HttpAddress(f"{name}.example", 4161) for name in "abc")

Said = tuple[int, bytes]
Ask = Callable[[str], Awaitable[Answer]]


@attrs.define
class Lane:
    """The client of one worker."""

    ask_url: Ask
    closed: bool = False

    async def ask(self, url: str) -> Answer:
        assert not self.closed
        return await self.ask_url(url)

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def known_channels(ask: Ask) -> KnownChannels:
    return KnownChannels(lambda: Lane(ask), timeout=7)


async def query(known: KnownChannels, registries: Iterable[HttpAddress], topic: str) -> set[str]:
    """What the registries know of a topic, when all have answered or were given up."""
    registries = list(registries)
    ended = trio.Event()
    asked = Query(topic, lambda _: ended.set(), waiting_for=len(registries))
    async with trio.open_nursery() as nursery:
        for registry in registries:
            known.ask(nursery, registry, asked)
        await ended.wait()
    return asked.channels


def channels(*names: str) -> Said:
    return 200, json.dumps({"channels": names}).encode()


def answer_of(said: Said) -> Answer:
    return Answer(said[0], [], said[1])


def host_and_topic(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    assert (parts.scheme, parts.port, parts.path) == ("http", 4161, "/channels")
    return str(parts.hostname), parse_qs(parts.query)["topic"][0]


def asking(answers: Mapping[str, Said | Exception | float]) -> Ask:
    """By host: an answer, an error, or seconds after which it says that it has `late`."""

    async def ask(url: str) -> Answer:
        answer = answers[host_and_topic(url)[0]]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await trio.sleep(answer)
            return answer_of(channels("late"))
        return answer_of(answer)

    return ask


async def ask(answers: Mapping[str, Said | Exception | float], *registries: HttpAddress) -> set[str]:
    return await query(known_channels(asking(answers)), registries, "t")


async def test_all_are_asked_and_their_answers_united() -> None:
    assert await ask({A.host: channels("x", "y"), B.host: channels("y", "z")}, A, B) == {"x", "y", "z"}


@pytest.mark.parametrize("body", [b'{"channels":[]}', b'{"channels":null}', b"{}"])
async def test_unknown_topic(body: bytes) -> None:
    assert await ask({A.host: (200, body)}, A) == set()


async def test_ephemeral_and_invalid_names_are_dropped() -> None:
    answer = channels("x", "y#ephemeral", "", "no blank", "x" * 65, "a\nb")
    assert await ask({A.host: answer}, A) == {"x"}


@pytest.mark.parametrize(
    ("answer", "logged"),
    [
        ((500, b"{}"), "status 500"),
        ((404, b'{"message":"NOT_FOUND"}'), "status 404"),
        ((200, b""), "Input data was truncated"),
        ((200, b'{"channels":[1]}'), "Expected `str`"),
        ((200, b"[" * 100_000), "LOOKUPD(b.example:4161): channels of t - "),
        ((403, b""), "status 403"),
        (HttpFailed("no route"), "no route"),
        (HttpTimeout("no answer within 5 s"), "no answer within 5 s"),
    ],
)
async def test_failures_are_logged_and_the_others_count(
    answer: Said | Exception, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask({A.host: channels("x"), B.host: answer}, A, B) == {"x"}
    (record,) = caplog.records
    assert record.getMessage().startswith("LOOKUPD(b.example:4161): channels of t - ")
    assert logged in record.getMessage()


@pytest.mark.parametrize("host", ["", "a b", "a/../b", "joe@b"])
async def test_a_host_that_is_none_is_not_asked(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """A registry tells its host itself."""
    assert await ask({}, HttpAddress(host, 4161)) == set()
    assert f"channels of t - not a host: {host!r}" in caplog.text


async def test_registries_are_asked_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    assert await ask({A.host: 5.0, B.host: 5.0, C.host: 4.0}, A, B, C) == {"late"}
    assert trio.current_time() == began + 5


async def test_the_limit_passes(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    began = trio.current_time()
    assert await ask({A.host: 1000.0, B.host: channels("x")}, A, B) == {"x"}
    assert trio.current_time() == began + 7
    assert caplog.messages == ["LOOKUPD(a.example:4161): channels of t - no answer in time"]


@attrs.define
class Slow:
    """Registries that know `x` of every topic. `seconds`: until an answer, by host; what fails is an error instead."""

    seconds: dict[str, float | Exception]
    asked: list[str] = attrs.field(factory=list)
    """Whoever was asked, once for each topic."""
    most: int = 0
    """Questions that were on the way at the same time."""
    _asking: int = 0

    async def ask(self, url: str) -> Answer:
        await trio.lowlevel.checkpoint()
        host, _ = host_and_topic(url)
        self.asked.append(host)
        self._asking += 1
        self.most = max(self.most, self._asking)
        try:
            seconds = self.seconds[host]
            if isinstance(seconds, Exception):
                raise seconds
            await trio.sleep(seconds)
        finally:
            self._asking -= 1
        return answer_of(channels("x"))


async def start_many(known: KnownChannels, count: int, *registries: HttpAddress) -> list[float]:
    """So many topics at once: for each that has its channels the seconds that it took."""
    began = trio.current_time()
    took = []

    async def one(topic: str) -> None:
        if await query(known, registries, topic):
            took.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, f"t{number}")
    return took


async def seconds_for(known: KnownChannels, *registries: HttpAddress) -> float:
    """What one topic waits."""
    began = trio.current_time()
    await query(known, registries, "t")
    return trio.current_time() - began


class TestManyTopicsAtOnce:
    async def test_wait_for_their_turn_at_a_registry_that_answers(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        slow = Slow({A.host: 3.0})
        took = await start_many(known_channels(slow.ask), 6 * MAX_CONCURRENT, A)
        assert len(took) == 6 * MAX_CONCURRENT
        assert (slow.most, max(took)) == (MAX_CONCURRENT, 18)

    async def test_wait_no_longer_than_the_limits(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        slow = Slow({A.host: 6.5})
        turns = int(QUEUE_TIMEOUT / 6.5) + 1
        took = await start_many(known_channels(slow.ask), turns * MAX_CONCURRENT + 1, A)
        assert len(took) == turns * MAX_CONCURRENT
        assert max(took) <= QUEUE_TIMEOUT + 7
        assert len(caplog.messages) == 1
        assert caplog.messages[0].endswith("no answer in time")

    async def test_have_the_channels_of_a_healthy_registry_beside_a_dead_one(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        slow = Slow({A.host: 1000.0, B.host: 0.1})
        began = trio.current_time()
        assert (
            len(await start_many(known_channels(slow.ask), 20 * MAX_CONCURRENT, A, B)) == 20 * MAX_CONCURRENT
        )
        assert slow.asked.count(B.host) == 20 * MAX_CONCURRENT
        assert trio.current_time() - began == 7  # a dead one costs all of them no more than one of them

    async def test_one_lost_question_is_no_silence(self, autojump_clock: trio.testing.MockClock) -> None:
        async def ask(url: str) -> Answer:
            await trio.sleep(1000 if host_and_topic(url)[1] == "t0" else 3)
            return answer_of(channels("x"))

        assert len(await start_many(known_channels(ask), 6 * MAX_CONCURRENT, A)) == 6 * MAX_CONCURRENT - 1

    async def test_share_a_few_connections_which_are_closed_afterwards(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        slow = Slow({A.host: 0.1, B.host: 0.1})
        lanes: list[Lane] = []

        def make() -> Lane:
            lanes.append(Lane(slow.ask))
            return lanes[-1]

        known = KnownChannels(make, timeout=7)
        for lap in (1, 2):
            assert len(await start_many(known, 10 * MAX_CONCURRENT, A, B)) == 10 * MAX_CONCURRENT
            assert len(lanes) == lap * 2 * MAX_CONCURRENT
            assert all(lane.closed for lane in lanes)

    async def test_urgent_ones_are_sent_first(self, autojump_clock: trio.testing.MockClock) -> None:
        slow = Slow({A.host: 1.0})
        known = known_channels(slow.ask)
        ended: list[str] = []
        queries = [
            Query(f"t{number}", lambda query: ended.append(query.topic), waiting_for=1)
            for number in range(5 * MAX_CONCURRENT)
        ]
        async with trio.open_nursery() as nursery:
            for query in queries:
                known.ask(nursery, A, query)
            await trio.sleep(0.5)
            known.hurry(queries[-1])
            known.ask(nursery, A, Query("new", lambda query: ended.append(query.topic), True, waiting_for=1))
            known.hurry(queries[0])  # which has been sent
        assert len(ended) == len(queries) + 1
        assert {queries[-1].topic, "new"} <= set(ended[MAX_CONCURRENT : 2 * MAX_CONCURRENT])


class TestSilentRegistry:
    async def test_later_topics_wait_only_briefly(self, autojump_clock: trio.testing.MockClock) -> None:
        known = known_channels(Slow({A.host: 1000.0}).ask)
        assert await seconds_for(known, A) == 7
        assert [await seconds_for(known, A) for _ in range(2)] == [SILENT_TIMEOUT] * 2
        assert await start_many(known, 5 * MAX_CONCURRENT, A) == []
        assert trio.current_time() == 7 + 3 * SILENT_TIMEOUT

    async def test_has_all_the_time_again_when_it_has_answered(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        slow = Slow({A.host: 1000.0})
        known = known_channels(slow.ask)
        await query(known, [A], "t")
        slow.seconds[A.host] = 0.5
        assert await query(known, [A], "t") == {"x"}
        slow.seconds[A.host] = 6.0
        assert await query(known, [A], "t") == {"x"}

    async def test_that_is_only_slow_is_found_again(self, autojump_clock: trio.testing.MockClock) -> None:
        slow = Slow({A.host: 1000.0})
        known = known_channels(slow.ask)
        await query(known, [A], "t")
        slow.seconds[A.host] = 6.0
        assert await query(known, [A], "t") == set()
        await trio.sleep(TRIAL_INTERVAL)
        assert await query(known, [A], "t") == {"x"}
        assert await query(known, [A], "t") == {"x"}

    async def test_one_topic_in_a_while_tries_it_in_earnest(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        known = known_channels(Slow({A.host: 1000.0}).ask)
        waits = [await seconds_for(known, A) for _ in range(12)]
        assert waits == [7, *[SILENT_TIMEOUT] * 3] * 3

    async def test_an_error_at_once_is_no_silence(self, autojump_clock: trio.testing.MockClock) -> None:
        slow = Slow({A.host: HttpFailed("refused")})
        known = known_channels(slow.ask)
        await query(known, [A], "t")
        slow.seconds[A.host] = 6.0
        assert await query(known, [A], "t") == {"x"}

    async def test_a_late_error_is(self, autojump_clock: trio.testing.MockClock) -> None:
        async def ask(url: str) -> Answer:
            await trio.sleep(2)
            raise HttpFailed("no route")

        known = known_channels(ask)
        assert [await seconds_for(known, A) for _ in range(2)] == [2, SILENT_TIMEOUT]

    async def test_delays_no_question_to_another(self, autojump_clock: trio.testing.MockClock) -> None:
        known = known_channels(Slow({A.host: 1000.0, B.host: 6.0}).ask)
        for _ in range(3):
            assert await query(known, [A, B], "t") == {"x"}

    async def test_silence_is_forgotten_when_a_registry_is_removed(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        known = known_channels(Slow({A.host: 1000.0, B.host: 0.0}).ask)
        await query(known, [A], "t")
        known.keep_only([B])
        assert await seconds_for(known, A) == 7


async def test_connections_are_used_again() -> None:
    with Target(lambda request: json_body({"channels": ["x"]})) as target:
        known = KnownChannels.over_http(HttpOptions(request_timeout=patience(10)))
        count = 5 * MAX_CONCURRENT
        assert len(await start_many(known, count, HttpAddress("127.0.0.1", target.port))) == count
        assert len(target.requests) == count
        assert len({request.remote for request in target.requests}) <= MAX_CONCURRENT


@pytest.mark.parametrize(
    ("connect", "request_", "seconds"), [(2, 5, 7), (0, 5, DEFAULT_TIMEOUT), (2, 0, DEFAULT_TIMEOUT)]
)
def test_the_limit_of_a_query_comes_from_those_of_a_request(
    connect: float, request_: float, seconds: float
) -> None:
    options = HttpOptions(connect_timeout=connect, request_timeout=request_)
    assert KnownChannels.over_http(options).timeout == seconds
