"""`/config/NAME`, whatever the daemon's options are: how each kind of value is shown, and what becomes of a change."""

from __future__ import annotations

import logging

import attrs
import pytest

from nsqkit.options import LogLevel, option
from nsqkit.service.http import Router
from nsqkit.service.http.config import Config, read_addresses, read_log_level
from tests.nsqkit.service.http.http_peer import get, serving

INVALID_OPTION = 400, b'{"message":"INVALID_OPTION"}'
INVALID_VALUE = 400, b'{"message":"INVALID_VALUE"}'
NO_VALUE = 413, b'{"message":"INVALID_VALUE"}'


@attrs.define
class Options:
    name: str = option("<n>", help="")
    shares: list[float] = option(factory=lambda: [1.0, 0.5, 1e-7], help="")
    registries: list[str] = option(factory=list, help="")
    level: LogLevel = option(LogLevel.INFO, help="")
    url: str = option("http://joe:hunter2@h/?k=v", help="")
    urls: list[str] = option(factory=lambda: ["https://joe:hunter2@h/a", "h:1"], help="")


async def answers(*requests: bytes) -> list[tuple[int, bytes]]:
    """Of a daemon with these options, to one request after the other."""
    options = Options()

    def set_level(body: bytes) -> None:
        options.level = read_log_level(body)

    def set_registries(body: bytes) -> None:
        options.registries = read_addresses(body, options.registries)

    config = Config(options, {"level": set_level, "registries": set_registries})
    router = Router()
    router.add("GET", "/config/:opt", config.get)
    router.add("PUT", "/config/:opt", config.put, body_limit=1000)
    async with serving(router) as it:
        client = await it.connect()
        found = [await client.ask(each) for each in requests]
    return [(answer.status, answer.body) for answer in found]


def put(name: str, body: bytes) -> bytes:
    return get(f"/config/{name}", "PUT", body=body)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("name", b"<n>"),
        ("shares", b"[1,0.5,1e-7]"),
        ("registries", b"[]"),
        ("level", b"2"),
        ("url", b"http://h/"),
        ("urls", b'["https://h/a","h:1"]'),
    ],
)
async def test_values_are_shown_by_their_kind(name: str, shown: bytes, autojump_clock: object) -> None:
    assert await answers(get(f"/config/{name}")) == [(200, shown)]


async def test_a_change_is_answered_with_the_new_value_and_logged(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="nsq"):
        found = await answers(put("level", b"error"), get("/config/level"), put("registries", b'["a:1"]'))
    assert found == [(200, b"4"), (200, b"4"), (200, b'["a:1"]')]
    assert "HTTP: level set by 192.0.2.1:5" in caplog.messages


@pytest.mark.parametrize(
    ("name", "body", "answer"),
    [
        ("nonsense", b"", NO_VALUE),
        ("nonsense", b"x", INVALID_OPTION),
        ("name", b"x", INVALID_OPTION),
        ("level", b"\xff", INVALID_VALUE),
        ("registries", b"[1]", INVALID_VALUE),
    ],
)
async def test_a_bad_change_changes_nothing(
    name: str, body: bytes, answer: tuple[int, bytes], autojump_clock: object
) -> None:
    found = await answers(put(name, body), get("/config/level"), get("/config/registries"))
    assert found == [answer, (200, b"2"), (200, b"[]")]


async def test_a_name_that_is_none(autojump_clock: object) -> None:
    assert await answers(get("/config/nonsense")) == [INVALID_OPTION]


@pytest.mark.parametrize(
    ("body", "addresses"),
    [
        (b'["a:1","b:2"]', ["a:1", "b:2"]),
        (b"[]", []),
        (b"null", []),
        (b"[null]", ["old:1"]),
        (b'["a:1",null,null]', ["a:1", "old:2", ""]),
    ],
)
def test_null_among_addresses_is_what_go_makes_of_it(body: bytes, addresses: list[str]) -> None:
    assert read_addresses(body, ["old:1", "old:2"]) == addresses


async def test_a_list_that_was_set_to_null_is_shown_as_null(autojump_clock: object) -> None:
    shown = get("/config/registries")
    found = await answers(put("registries", b" null\n"), shown, put("registries", b"[]"), shown)
    assert found == [(200, b"null"), (200, b"null"), (200, b"[]"), (200, b"[]")]
