"""Scopes: how they are written, and what they allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.access import EVERYTHING, NOTHING, Need, Scope, ScopeError, Scopes, anonymous_scopes
from nsqkit.access.scopes import MAX_SCOPES, matches


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("publish:orders", "publish:orders"),
        ("publish:or**ders.*", "publish:or*ders.*"),
        ("publish", "publish:*"),
        ("consume:orders/tail*#ephemeral", "consume:orders/tail*#ephemeral"),
        ("consume", "consume:*/*"),
        ("read", "read"),
        ("operate", "operate"),
        ("admin", "admin"),
    ],
)
def test_a_scope_is_shown_as_it_is_written(text: str, shown: str) -> None:
    assert str(Scope.parse(text)) == shown
    assert Scope.parse(shown) == Scope.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no scope: it must be publish:TOPIC, consume:TOPIC/CHANNEL, read, operate or admin"),
        ("write", "'write' is no scope"),
        ("Read", "'Read' is no scope"),
        ("read:orders", "'read:orders' is no scope"),
        ("admin:", "'admin:' is no scope"),
        (" read", "' read' is no scope"),
        ("publish:", "'' in 'publish:' is no pattern"),
        ("publish:a/b", "'a/b' in 'publish:a/b' is no pattern"),
        ("publish:a b", "'a b' in 'publish:a b' is no pattern"),
        ("publish:" + "a" * 101, "is no pattern"),
        ("consume:orders", "'consume:orders' names no channel; for all channels add /*"),
        ("consume:orders/", "'' in 'consume:orders/' is no pattern"),
        ("consume:/c", "'' in 'consume:/c' is no pattern"),
        ("consume:a/b/c", "'b/c' in 'consume:a/b/c' is no pattern"),
    ],
)
def test_what_is_no_scope(text: str, reason: str) -> None:
    with pytest.raises(ScopeError) as error:
        Scope.parse(text)
    assert reason in str(error.value)


def test_too_many_scopes() -> None:
    with pytest.raises(ScopeError, match="101 scopes are more than 100"):
        Scopes.parse(f"publish:t{n}" for n in range(MAX_SCOPES + 1))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("orders", ["orders"], ["orders2", "order", ""]),
        ("*", ["", "a", "x#ephemeral"], []),
        ("a*", ["a", "ab", "a.b"], ["", "ba"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
        ("a*b*c", ["abc", "axbxc", "abbc"], ["acb", "ab", "ac"]),
        ("*.*.*", ["a.b.c", ".."], ["a.b"]),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [name for name in yes + no if matches(pattern, name)] == yes


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_pattern_matches_as_its_definition_says(pattern: str, name: str) -> None:
    def defined(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return defined(pattern[1:], name) or (bool(name) and defined(pattern, name[1:]))
        return name[:1] == pattern[0] and defined(pattern[1:], name[1:])

    assert matches(pattern, name) == defined(pattern, name)


def test_a_hostile_pattern_is_not_tried_in_every_way() -> None:
    """Which would not end."""
    assert not matches("a*" * 50 + "b", "a" * 10_000)


def test_every_scope_allows_what_its_word_says_and_what_that_contains() -> None:
    allowed = {word: {need for need in Need if Scopes.parse([word]).allow_all(need)} for word in ALL_WORDS}
    assert allowed == {
        "publish": {Need.OPEN, Need.PUBLISH, Need.FIND},
        "consume": {Need.OPEN, Need.CONSUME, Need.CONSUME_ALL, Need.FIND},
        "read": {Need.OPEN, Need.FIND, Need.READ},
        "operate": {Need.OPEN, Need.FIND, Need.READ, Need.OPERATE},
        "admin": set(Need),
    }
    assert {need for need in Need if NOTHING.allow_all(need)} == {Need.OPEN}
    assert all(map(EVERYTHING.allow_all, Need))


ALL_WORDS = ("publish", "consume", "read", "operate", "admin")


def test_patterns_do_not_allow_all() -> None:
    scopes = Scopes.parse(["publish:a*", "consume:*/a*", "consume:a*/*"])
    assert not scopes.allow_all(Need.PUBLISH)
    assert not scopes.allow_all(Need.CONSUME)
    assert scopes.allows(Need.CONSUME, "t", "a1")
    assert scopes.allows(Need.CONSUME, "a1", "c")
    assert not scopes.allows(Need.CONSUME, "t", "c")
    assert not scopes.allows(Need.PUBLISH, "")
    assert not Scopes.parse(["publish:a*"]).allows(Need.FIND, "")


def test_one_channel_is_not_all_of_them() -> None:
    """A request about a whole topic may have the name of a channel in it."""
    for text, allowed in (
        ("consume:t/c", False),
        ("consume:t/c*", False),
        ("consume:t/*", True),
        ("consume:u/*", False),
    ):
        assert Scopes.parse([text]).allows(Need.CONSUME_ALL, "t", "c") is allowed


def test_answers_are_the_same_the_second_time_and_when_they_are_many() -> None:
    scopes = Scopes.parse(["publish:a*"])
    for _ in range(2):
        assert all(scopes.allows(Need.PUBLISH, f"a{n}") for n in range(1500))
        assert not any(scopes.allows(Need.PUBLISH, f"b{n}") for n in range(1500))
    assert len(scopes._allowed) <= 1000
    assert scopes.allows(Need.PUBLISH, "a" * 10_000)
    assert ("a" * 10_000) not in {topic for _, topic, _ in scopes._allowed}


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("none", NOTHING),
        ("publish,consume,read,operate,admin", EVERYTHING),
        ("read,publish:metrics.*", Scopes.parse(["publish:metrics.*", "read"])),
    ],
)
def test_what_is_open_to_all(text: str, scopes: Scopes) -> None:
    assert anonymous_scopes(text) == scopes
    assert hash(anonymous_scopes(text)) == hash(scopes)


@pytest.mark.parametrize("text", ["", "none,read", "read,", "read, publish", "all"])
def test_what_is_no_list_of_scopes(text: str) -> None:
    with pytest.raises(ScopeError):
        anonymous_scopes(text)
