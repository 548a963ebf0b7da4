"""Which channels the registries know: in parallel, within a limit, whatever they answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

import pytest
import trio
import trio.testing

from nsqd.lookup.known_channels import ASKING, WITHOUT_LIMIT, KnownChannels, query_bound
from nsqd.lookup.protocol import HttpAddress

A, B, C = (HttpAddress(f"{name}.example", 4161) for name in "abc")

Answer = tuple[int, bytes]


def channels(*names: str) -> Answer:
    return 200, json.dumps({"channels": names}).encode()


def fetching(
    answers: Mapping[str, Answer | Exception | float],
) -> Callable[[str, HttpAddress, str], Awaitable[Answer]]:
    """By host, or `https:host:port`: an answer, an error, or seconds after which it says that it has `late`."""

    async def fetch(scheme: str, registry: HttpAddress, topic: str) -> Answer:
        key = registry.host if scheme == "http" else f"{scheme}:{registry.host}:{registry.port}"
        answer = answers[key]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await trio.sleep(answer)
            return channels("late")
        return answer

    return fetch


async def ask(answers: Mapping[str, Answer | Exception | float], *registries: HttpAddress) -> set[str]:
    return await KnownChannels(fetching(answers), bound=7).ask(registries, "t")


async def test_all_are_asked_and_their_answers_united() -> None:
    assert await ask({A.host: channels("x", "y"), B.host: channels("y", "z")}, A, B) == {"x", "y", "z"}


async def test_nobody_to_ask() -> None:
    assert await ask({}) == set()


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
        ((403, b'{"https_port":0}'), "status 403"),
        ((403, b'{"https_port":70000}'), "status 403"),
        ((403, b'{"https_port":' + b"[" * 100_000), "status 403"),
        (OSError("no route"), "no route"),
        (trio.TooSlowError(), "TooSlowError"),
    ],
)
async def test_failures_are_logged_and_the_others_count(
    answer: Answer | Exception, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask({A.host: channels("x"), B.host: answer}, A, B) == {"x"}
    (record,) = caplog.records
    assert record.getMessage().startswith("LOOKUPD(b.example:4161): channels of t - ")
    assert logged in record.getMessage()


async def test_a_failure_without_words_is_logged_with_those_of_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = OSError()
    error.__cause__ = ValueError("certificate verify failed")
    assert await ask({A.host: error}, A) == set()
    assert "channels of t - certificate verify failed" in caplog.text


async def test_sent_on_to_https() -> None:
    answers = {A.host: (403, b'{"https_port":4443}'), f"https:{A.host}:4443": channels("x")}
    assert await ask(answers, A) == {"x"}


async def test_sent_on_only_once(caplog: pytest.LogCaptureFixture) -> None:
    refused = (403, b'{"https_port":4443}')
    assert await ask({A.host: refused, f"https:{A.host}:4443": refused}, A) == set()
    assert "status 403" in caplog.text


async def test_they_are_asked_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    assert await ask({A.host: 5.0, B.host: 5.0, C.host: 4.0}, A, B, C) == {"late"}
    assert trio.current_time() == began + 5


async def test_the_limit_passes(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    began = trio.current_time()
    assert await ask({A.host: 1000.0, B.host: channels("x")}, A, B) == {"x"}
    assert trio.current_time() == began + 7
    assert caplog.messages == ["TOPIC(t): not all registries told its channels in time"]


async def test_many_topics_take_turns_within_the_same_limit(autojump_clock: trio.testing.MockClock) -> None:
    asking, most, asked = 0, 0, 0

    async def fetch(scheme: str, registry: HttpAddress, topic: str) -> Answer:
        nonlocal asking, most, asked
        asking, asked = asking + 1, asked + 1
        most = max(most, asking)
        try:
            await trio.sleep(3)
        finally:
            asking -= 1
        return channels("x")

    known = KnownChannels(fetch, bound=7)
    found: list[set[str]] = []

    async def one(topic: str) -> None:
        found.append(await known.ask([A], topic))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(4 * ASKING):
            nursery.start_soon(one, f"t{number}")
    assert trio.current_time() == began + 7
    assert (most, asked) == (ASKING, 3 * ASKING)
    assert sum(map(bool, found)) == 2 * ASKING


def test_bound() -> None:
    assert query_bound(2, 5) == 7
    assert query_bound(0, 5) == query_bound(2, 0) == WITHOUT_LIMIT
