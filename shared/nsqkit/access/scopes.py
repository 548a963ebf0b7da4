"""Scopes: what a token, or a client without one, may do; and needs: what a request or command requires of them.

| scope | allows |
| --- | --- |
| `publish:TOPIC` | to publish to the topics of this pattern |
| `consume:TOPIC/CHANNEL` | to consume from the channels of these patterns |
| `read` | to read names, figures and states, but no message and no option |
| `operate` | what `read` does, and to create, pause, empty and delete, to drain, and to register at an nsqlookupd |
| `admin` | everything: also options, profiles, and messages of every topic |

In a pattern `*` stands for any characters, none included: `publish:orders.*`. `publish` alone is `publish:*`, `consume`
alone `consume:*/*`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final

import attrs

__all__ = ["EVERYTHING", "NOTHING", "Need", "Scope", "ScopeError", "Scopes", "matches", "parse_pattern"]

MAX_SCOPES: Final = 100
"""Of one token, so that a check of all of them stays short."""
_MAX_PATTERN: Final = 100
_PATTERN: Final = re.compile(r"[.a-zA-Z0-9_*-]+(?:#ephemeral)?")
_REMEMBERED: Final = 1000
"""Names that were found allowed; one more and all are forgotten."""
_WORDS: Final = "publish:TOPIC, consume:TOPIC/CHANNEL, read, operate or admin"


class ScopeError(ValueError):
    """A text is no scope; the message says why."""


class Need(enum.Enum):
    """What a request or a command requires. The values are for the documentation."""

    OPEN = "nothing"
    PUBLISH = "publish"
    """Of the topic."""
    CONSUME = "consume"
    """Of the topic and the channel."""
    CONSUME_ALL = "consume of all channels of the topic"
    """Where a request is about a topic's messages: a `channel` in it has no meaning."""
    FIND = "read, or publish or consume of the topic"
    """To find who has a topic, which clients of the topic do."""
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


@attrs.frozen
class Scope:
    """One scope. `topic` and `channel`: patterns, empty in a scope that has none."""

    word: str
    topic: str = ""
    channel: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """`ScopeError`."""
        word, colon, pattern = text.partition(":")
        if word in ("read", "operate", "admin") and not colon:
            return cls(word)
        if word == "publish":
            return cls(word, parse_pattern(pattern if colon else "*", text))
        if word == "consume":
            topic, slash, channel = (pattern if colon else "*/*").partition("/")
            if not slash:
                raise ScopeError(f"{text[:_MAX_PATTERN]!r} names no channel; for all channels add /*")
            return cls(word, parse_pattern(topic, text), parse_pattern(channel, text))
        raise ScopeError(f"{text[:_MAX_PATTERN]!r} is no scope: it must be {_WORDS}")

    def __str__(self) -> str:
        names = f"{self.topic}/{self.channel}" if self.channel else self.topic
        return f"{self.word}:{names}" if names else self.word

    def allows(self, need: Need, topic: str, channel: str) -> bool:
        """Whether this scope alone is enough."""
        if need not in _ALLOWED[self.word]:
            return False
        if need is Need.CONSUME_ALL:
            channel = _ANY_NAME
        of_channel = need not in _CONSUMING or matches(self.channel or "*", channel)
        return of_channel and matches(self.topic or "*", topic)


_READ: Final = frozenset({Need.FIND, Need.READ})
_CONSUMING: Final = frozenset({Need.CONSUME, Need.CONSUME_ALL})
_ALLOWED: Final = {
    "publish": frozenset({Need.PUBLISH, Need.FIND}),
    "consume": _CONSUMING | {Need.FIND},
    "read": _READ,
    "operate": _READ | {Need.OPERATE},
    "admin": frozenset(Need),
}
"""What a scope is about; those of the first two for topics and channels of their patterns only."""


class Scopes:
    """What one token, or a client without a token, may do."""

    def __init__(self, scopes: Iterable[Scope] = ()) -> None:
        self.scopes = tuple(dict.fromkeys(scopes))
        self._allowed: set[tuple[Need, str, str]] = set()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Scopes:
        """`ScopeError`."""
        scopes = cls(map(Scope.parse, texts))
        if len(scopes.scopes) > MAX_SCOPES:
            raise ScopeError(f"{len(scopes.scopes)} scopes are more than {MAX_SCOPES}")
        return scopes

    def __str__(self) -> str:
        return ",".join(map(str, self.scopes)) or "none"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scopes) and set(self.scopes) == set(other.scopes)

    def __hash__(self) -> int:
        return hash(frozenset(self.scopes))

    def allows(self, need: Need, topic: str = "", channel: str = "") -> bool:
        """Whether they are enough. Names that are empty, or that no topic has, are allowed to those with `*` only."""
        key = need, topic, channel
        if key in self._allowed:
            return True
        if need is not Need.OPEN and not any(each.allows(need, topic, channel) for each in self.scopes):
            return False
        if len(topic) + len(channel) <= 2 * _MAX_PATTERN:  # a client may have sent anything as a name
            if len(self._allowed) >= _REMEMBERED:
                self._allowed.clear()
            self._allowed.add(key)
        return True

    def allow_all(self, need: Need) -> bool:
        """Whether they are enough whatever the names are."""
        return any(each.allows(need, _ANY_NAME, _ANY_NAME) for each in self.scopes) or need is Need.OPEN


_ANY_NAME: Final = "\0"
"""No name, and no part of a pattern: only a pattern that allows everything matches it."""


def parse_pattern(text: str, scope: str = "") -> str:
    """A pattern of names, with one `*` for several. `scope`: that it is a part of. `ScopeError`."""
    if _PATTERN.fullmatch(text) is None or len(text) > _MAX_PATTERN:
        where = f" in {scope[: 2 * _MAX_PATTERN]!r}" if scope else ""
        rule = f"1 to {_MAX_PATTERN} of the characters of names, and *"
        raise ScopeError(f"{text[:_MAX_PATTERN]!r}{where} is no pattern: it has {rule}")
    return re.sub(r"\*+", "*", text)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is of this pattern.

    In time proportional to the length of both: each part is searched for once, after the one before it.
    """
    head, *rest = pattern.split("*")
    if not rest:
        return name == head
    *middle, tail = rest
    at, end = len(head), len(name) - len(tail)
    if at > end or not name.startswith(head) or not name.endswith(tail):
        return False
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


NOTHING: Final = Scopes()
EVERYTHING: Final = Scopes.parse(["publish", "consume", "read", "operate", "admin"])
