"""The answer of an auth server: what it allows, and which answers are none."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio

from nsqd.auth import AuthFailed, AuthState
from nsqd.auth import state as state_module
from nsqd.auth.pattern import MAX_PATTERNS
from nsqd.auth.state import _REMEMBERED, parse_answer
from nsqkit.yielder import Yielder
from tests.nsqd.auth.answers import parsed

NOW = 100.0


def answer(*authorizations: Any, **fields: Any) -> bytes:
    return json.dumps({"ttl": 60, "authorizations": list(authorizations), **fields}).encode()


def entry(topic: str, channels: list[str], *permissions: str) -> dict[str, Any]:
    return {"topic": topic, "channels": channels, "permissions": permissions or ("subscribe", "publish")}


def state(*authorizations: Any) -> AuthState:
    return parsed(answer(*authorizations), NOW)


def test_identity_and_time_to_live() -> None:
    known = parsed(answer(entry("a", []), identity="joe", identity_url="http://x/joe"), NOW)
    assert (known.identity, known.identity_url, known.permission_count) == ("joe", "http://x/joe", 1)
    assert [known.is_expired(now) for now in (NOW, NOW + 59.9, NOW + 60, NOW + 61)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_very_long_time_is_a_time() -> None:
    assert not parsed(answer(ttl=1 << 62), NOW).is_expired(NOW + 1e8)


def test_no_authorizations() -> None:
    """They are an answer: the client is told that it is authorized to nothing."""
    for body in (answer(), b'{"ttl":1}', b'{"ttl":1,"authorizations":null}'):
        nothing = parsed(body, NOW)
        assert nothing.permission_count == 0
        assert not nothing.allows("t", "c")
        assert not nothing.allows("t", "")


@pytest.mark.parametrize(
    ("channels", "allowed"),
    [([], False), (["^ch$"], False), ([".*"], True), ([""], True), (["x", "^$"], True)],
)
def test_publishing_needs_a_channel_pattern_for_the_empty_name(channels: list[str], allowed: bool) -> None:
    assert state(entry("^t$", channels)).allows("t", "") is allowed


def test_permissions_are_for_channels_or_for_topics() -> None:
    subscriber = state(entry("^t$", [".*"], "subscribe"))
    assert (subscriber.allows("t", "c"), subscriber.allows("t", "")) == (True, False)
    publisher = state(entry("^t$", [".*"], "publish"))
    assert (publisher.allows("t", "c"), publisher.allows("t", "")) == (False, True)
    nobody = state({"topic": "^t$", "channels": [".*"], "permissions": []})
    assert (nobody.allows("t", "c"), nobody.allows("t", "")) == (False, False)


def test_names_are_searched_for() -> None:
    loose = state(entry("ord", ["bill"], "subscribe"))
    assert loose.allows("my_orders", "billing")
    assert not loose.allows("invoices", "billing")
    assert not loose.allows("orders", "mail")


def test_one_entry_must_cover_topic_channel_and_permission() -> None:
    two = state(entry("^a$", ["^x$"], "subscribe"), entry("^b$", ["^y$"], "subscribe"))
    assert [two.allows(t, c) for t, c in (("a", "x"), ("b", "y"), ("a", "y"), ("b", "x"))] == [
        True,
        True,
        False,
        False,
    ]


def test_decisions_are_cached_and_the_cache_is_bounded() -> None:
    client = state(entry("^(a|b)+[0-9]*$", [".*"]))
    assert client.allows("ab", "")
    assert not client.allows("c", "")
    assert client._allowed == {("ab", "")}
    client.authorizations = ()
    assert client.allows("ab", "")
    assert not client.allows("ab", "x")


def test_many_names_cost_no_more_memory() -> None:
    client = state(entry("^t", [".*"]))
    for number in range(3 * _REMEMBERED):
        assert client.allows(f"t{number}", "")
    assert len(client._allowed) <= _REMEMBERED


def test_keys_match_in_any_case() -> None:
    body = (
        b'{"TTL":5,"Identity":"i","Authorizations":[{"Topic":"t","CHANNELS":[""],"Permissions":["publish"]}]}'
    )
    known = parsed(body, NOW)
    assert (known.identity, known.allows("t", ""), known.expires) == ("i", True, NOW + 5)


def test_null_and_missing_are_empty() -> None:
    empty = {"topic": None, "channels": [None], "permissions": ["publish"]}
    known = parsed(answer(None, empty, identity=None), NOW)
    assert (known.identity, known.identity_url, known.permission_count) == ("", "", 2)
    assert known.allows("any", "")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "bad JSON"),
        (b"OK", "bad JSON"),
        (b"null", "bad JSON"),
        (b"[]", "bad JSON"),
        (b'{"ttl":3600.0}', "bad JSON"),
        (b'{"ttl":"3600"}', "bad JSON"),
        (b'{"ttl":true}', "bad JSON"),
        (b'{"ttl":1', "bad JSON"),
        (b'{"ttl":1} x', "bad JSON"),
        (b'{"ttl":1,"identity":7}', "bad JSON"),
        (b'{"ttl":1,"authorizations":{}}', "bad JSON"),
        (b'{"ttl":1,"authorizations":["t"]}', "bad JSON"),
        (b"[" * 100_000, "bad JSON"),
        (b"{}", "invalid TTL 0 (must be >0)"),
        (answer(ttl=0), "invalid TTL 0 (must be >0)"),
        (answer(ttl=-1), "invalid TTL -1 (must be >0)"),
        (answer(entry("t", [], "publish", "admin")), "unknown permission 'admin'"),
        (answer(entry("t", [], "")), "unknown permission ''"),
        (answer(entry("t", [], "Publish")), "unknown permission 'Publish'"),
        (answer(entry("(", [])), "unable to compile topic '(' - missing )"),
        (
            answer(entry("t", ["a", "a**"])),
            "unable to compile channel 'a**' - bad repetition operator",
        ),
        (answer(entry("(?=a)", [])), "unable to compile topic '(?=a)'"),
        (answer(*[entry("a" * 1000, [])] * 200), "regular expressions too large"),
        (answer(entry("", [""] * MAX_PATTERNS)), f"too many regular expressions: more than {MAX_PATTERNS}"),
        (answer(*[entry("", [])] * (MAX_PATTERNS + 1)), "too many regular expressions"),
        (answer(identity="x" * 1025), "identity or its URL too long"),
        (answer(identity_url="x" * 1025), "identity or its URL too long"),
    ],
)
def test_unusable_states_refuse_the_client(body: bytes, reason: str) -> None:
    with pytest.raises(AuthFailed, match=re.escape(reason)) as failed:
        parsed(body, NOW)
    assert len(str(failed.value)) < 300


def test_too_many_patterns_are_refused_before_one_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of 1 MiB can hold 300,000 empty ones, which took seconds and 110 MiB."""
    monkeypatch.setattr(state_module, "compile_pattern", lambda *_: pytest.fail("compiled"))
    with pytest.raises(AuthFailed, match="too many"):
        parsed(answer(entry("", [""] * 300_000)), NOW)


@pytest.mark.parametrize("by_entry", [True, False])
async def test_other_tasks_run_while_patterns_are_compiled(by_entry: bool) -> None:
    count = MAX_PATTERNS - 1
    body = answer(*[entry("a", [])] * count) if by_entry else answer(entry("a", ["a"] * count))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        known = await parse_answer(body, NOW, Yielder(0.0))
        nursery.cancel_scope.cancel()
    assert known.allows("a", "" if by_entry else "a") is not by_entry
    assert turns > count // 2


def test_nested_keys_of_no_meaning_are_not_looked_at() -> None:
    body = b'{"ttl":1,"x":{"TTL":[{"Y":1}]},"authorizations":[{"z":{"Topic":1},"TOPIC":"t"}]}'
    assert parsed(body, NOW).permission_count == 1
