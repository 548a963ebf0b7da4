"""/topic/limits and /channel/limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nsqd.rules import Settings
from nsqd.testing.faulty_storage import Fail
from nsqkit.options import HOUR

from .fake_daemon import FakeDaemon, assert_error, serving

CHANNEL = "/channel/limits?topic=t&channel=c"
TOPIC = "/topic/limits?topic=t"


@pytest.fixture
def daemon() -> FakeDaemon:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    return daemon


def body(**changes: Any) -> bytes:
    return json.dumps(changes).encode()


async def test_what_is_set_is_shown_with_its_source(daemon: FakeDaemon) -> None:
    async with serving(daemon) as client:
        assert (await client.get(CHANNEL)).json == {"topic": "t", "channel": "c", "limits": {}, "from": {}}
        answer = await client.post(TOPIC, body(max_depth=5, retain=["24h", "1MB"], max_age="1h"))
        limits = {"max_depth": 5, "max_age": "1h0m0s", "retain": ["24h0m0s", "1000000B"]}
        expected = {"topic": "t", "limits": limits, "from": dict.fromkeys(limits, "topic")}
        assert (answer.status, answer.json) == (200, expected)
        assert (await client.get(TOPIC)).json == expected
        await client.post(CHANNEL, body(max_depth=3, policy="drop_oldest"))
        assert (await client.get(CHANNEL)).json == {
            "topic": "t",
            "channel": "c",
            "limits": {"max_depth": 3, "max_age": "1h0m0s", "policy": "drop_oldest"},
            "from": {"max_depth": "channel", "max_age": "topic", "policy": "channel"},
        }
        settings = daemon.broker.existing("t").existing("c").settings
        assert settings == Settings(max_depth=3, max_age=HOUR, policy="drop_oldest")
        await client.post(CHANNEL, body(max_depth=None, policy=None))
        assert (await client.get(CHANNEL)).json["from"] == {"max_depth": "topic", "max_age": "topic"}


@pytest.mark.parametrize(
    ("target", "sent", "reason"),
    [
        (TOPIC, b"", "the body must be a JSON object of settings"),
        (TOPIC, b"[]", "the body must be a JSON object of settings"),
        (TOPIC, b"{", "the body must be a JSON object of settings"),
        (TOPIC, b"[" * 60_000, "the body must be a JSON object of settings"),
        (TOPIC, body(max_dept=1), "unknown key 'max_dept' (did you mean max_depth?)"),
        (TOPIC, body(idle_ttl="5"), "idle_ttl must be a duration"),
        (TOPIC, body(policy="reject"), "policy reject without max_depth or max_bytes"),
        (TOPIC, body(dead_topic="t"), "dead_topic t is the topic itself"),
        (CHANNEL, body(retain="1h"), "retain is a setting of topics"),
        (CHANNEL, body(max_depth=5, max_age=0), "max_age must be"),
    ],
)
async def test_wrong_changes_change_nothing(
    daemon: FakeDaemon, target: str, sent: bytes, reason: str
) -> None:
    async with serving(daemon) as client:
        answer = await client.post(target, sent)
        assert answer.status == 400
        assert answer.json["message"].startswith(f"INVALID_LIMITS: {reason}")
        assert (await client.get(target)).json["limits"] == {}


async def test_refusals(daemon: FakeDaemon) -> None:
    async with serving(daemon) as client:
        for send in (client.get, client.post):
            sent = [b"{}"] if send == client.post else []
            for target, status, code in (
                ("/topic/limits", 400, "MISSING_ARG_TOPIC"),
                ("/topic/limits?topic=!", 400, "INVALID_TOPIC"),
                ("/topic/limits?topic=u", 404, "TOPIC_NOT_FOUND"),
                ("/channel/limits?topic=t", 400, "MISSING_ARG_CHANNEL"),
                ("/channel/limits?topic=u&channel=c", 404, "TOPIC_NOT_FOUND"),
                ("/channel/limits?topic=t&channel=d", 404, "CHANNEL_NOT_FOUND"),
            ):
                assert_error(await send(target, *sent), status, code)
        daemon.storage.fault = lambda operation, path: Fail(28) if operation == "append" else None
        assert_error(await client.post(TOPIC, body(max_depth=1)), 500, "INTERNAL_ERROR")
        assert (await client.get(TOPIC)).json["limits"] == {}
