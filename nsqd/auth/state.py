"""Who a client is, what it may do, and until when: by the answer of an auth server, or by a token."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import attrs

from nsqd.auth.pattern import MAX_PATTERNS, Budget, Pattern, PatternError, compile_pattern
from nsqkit.access import Token
from nsqkit.access.scopes import matches
from nsqkit.decoding import DecodeError, decode_json
from nsqkit.service.typed_json import convert
from nsqkit.yielder import Yielder

__all__ = ["AuthFailed", "AuthState", "Authorization", "parse_answer", "token_state"]

_REMEMBERED = 100  # names of one client; one more and all are forgotten
_LONGEST_SECONDS: Final = 10.0 * 365 * 24 * 3600
_MAX_NAME: Final = 1024  # characters of an identity and of its URL, which are kept and shown
_SHOWN = 100  # characters of the server's text that go into the log


class AuthFailed(Exception):
    """No usable answer. The text says why: for the log, never for the client; it holds no secret."""


@attrs.frozen
class Authorization:
    """One entry of an answer: topics, channels, and what may be done with them."""

    topic: Pattern
    channels: tuple[Pattern, ...]
    subscribe: bool
    publish: bool

    def allows(self, topic: str, channel: str) -> bool:
        """Whether it covers subscribing to the channel or, without one, publishing to the topic.

        Who may publish must have a channel pattern that is found in the empty name, as with the original.
        """
        if not (self.subscribe if channel else self.publish):
            return False
        return self.topic(topic) and any(pattern(channel) for pattern in self.channels)


@attrs.define(eq=False)
class AuthState:
    """A client's authorizations."""

    identity: str
    identity_url: str
    authorizations: tuple[Authorization, ...]
    expires: float
    """On trio's clock. Infinite with a token: the connection is closed when that expires."""
    token: Token | None = None
    """None: an auth server has answered."""
    _allowed: set[tuple[str, str]] = attrs.field(factory=set, init=False, repr=False)
    """Found allowed before: a publisher checks with every command. A denial ends the client anyway."""

    @property
    def permission_count(self) -> int:
        """What the answer to AUTH says; 0: the client is authorized to nothing."""
        return len(self.authorizations)

    def is_expired(self, now: float) -> bool:
        """Whether the server must be asked again; `now` on trio's clock."""
        return now >= self.expires

    def allows(self, topic: str, channel: str) -> bool:
        """Whether the client may subscribe to the channel or, with an empty one, publish to the topic.

        Names are valid ones.
        """
        if (topic, channel) in self._allowed:
            return True
        if not any(entry.allows(topic, channel) for entry in self.authorizations):
            return False
        if len(self._allowed) >= _REMEMBERED:
            self._allowed.clear()
        self._allowed.add((topic, channel))
        return True


def token_state(token: Token) -> AuthState:
    """The state of a client with this token: no authorizations, if that allows neither to publish nor to consume."""
    entries = [
        Authorization(
            topic=functools.partial(matches, scope.topic or "*"),
            channels=(functools.partial(matches, scope.channel or "*"),),
            subscribe=scope.word != "publish",
            publish=scope.word != "consume",
        )
        for scope in token.scopes.scopes
        if scope.word in ("publish", "consume", "admin")
    ]
    return AuthState(token.name, "", tuple(entries), expires=math.inf, token=token)


@attrs.define
class _Entry:
    topic: str | None = ""
    channels: list[str | None] | None = None
    permissions: list[str | None] | None = None


@attrs.define
class _Answer:
    ttl: int | None = 0
    authorizations: list[_Entry | None] | None = None
    identity: str | None = ""
    identity_url: str | None = ""


async def parse_answer(body: bytes, now: float, yielder: Yielder) -> AuthState:
    """The state that an answer received at `now` gives; the list of authorizations may be empty. `AuthFailed`.

    Other tasks run between two patterns: to compile all of an answer may take some tens of milliseconds.
    """
    try:
        answer = convert(_with_small_keys(decode_json(body)), _Answer)
    except (DecodeError, RecursionError) as error:
        raise AuthFailed(f"bad JSON - {_shown(str(error))}") from error
    if not answer.ttl or answer.ttl <= 0:
        raise AuthFailed(f"invalid TTL {answer.ttl or 0} (must be >0)")
    identity, identity_url = answer.identity or "", answer.identity_url or ""
    if max(len(identity), len(identity_url)) > _MAX_NAME:
        raise AuthFailed(f"identity or its URL too long: more than {_MAX_NAME} characters")
    entries = [entry or _Entry() for entry in answer.authorizations or ()]
    if sum(1 + len(entry.channels or ()) for entry in entries) > MAX_PATTERNS:  # before the first is compiled
        raise AuthFailed(f"too many regular expressions: more than {MAX_PATTERNS}")
    budget = Budget()
    return AuthState(
        identity=identity,
        identity_url=identity_url,
        authorizations=tuple([await _authorization(entry, budget, yielder) for entry in entries]),
        expires=now + min(float(answer.ttl), _LONGEST_SECONDS),
    )


def _with_small_keys(value: Any) -> Any:
    """The same with lower-case keys: the original matches them in any case. Nothing deeper than an entry has keys."""
    answer = _lowered(value)
    if isinstance(answer, dict) and isinstance(entries := answer.get("authorizations"), list):
        answer["authorizations"] = [_lowered(entry) for entry in entries]
    return answer


def _lowered(value: Any) -> Any:
    return {key.lower(): item for key, item in value.items()} if isinstance(value, dict) else value


async def _authorization(entry: _Entry, budget: Budget, yielder: Yielder) -> Authorization:
    permissions = set(entry.permissions or ())
    for permission in permissions - {"subscribe", "publish"}:
        raise AuthFailed(f"unknown permission {_shown(permission or '')!r}")
    topic = _pattern("topic", entry.topic, budget)
    await yielder.maybe_yield()
    channels = []
    for channel in entry.channels or ():
        channels.append(_pattern("channel", channel, budget))
        await yielder.maybe_yield()
    return Authorization(
        topic=topic,
        channels=tuple(channels),
        subscribe="subscribe" in permissions,
        publish="publish" in permissions,
    )


def _pattern(of: str, text: str | None, budget: Budget) -> Pattern:
    try:
        return compile_pattern(text or "", budget)
    except PatternError as error:
        raise AuthFailed(f"unable to compile {of} {_shown(text or '')!r} - {error}") from error


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
