"""Responses that no daemon of NSQ sends: real ones with a few things wrong, and some that are nothing but wrong.

    hostile = Hostile(seed=7)
    body = hostile.of({"topics": [...]})      # one response in place of this one

The same seed gives the same responses.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import attrs
import msgspec

__all__ = ["WRONG", "Hostile"]

DEEP = 5_000
WRONG: tuple[bytes, ...] = (
    *(b"null", b"true", b"false", b'""', b"[]", b"{}", b"[null]", b"[[]]", b'{"":{}}', b'{"a":1,"a":2}'),
    *(b"0", b"-0", b"-1", b"1", b"1.0", b"0.5", b"1e3", b"-1e-7", b"1e308", b"-1e308", b"1e400", b"-1e400"),
    *(b"NaN", b"Infinity", b"-Infinity", b"01", b"+1", b"0x1", b"1e", b"."),
    *(
        str(number).encode()
        for limit in (31, 32, 53, 63, 64)
        for number in (2**limit - 1, 2**limit, -(2**limit))
    ),
    *(b"9" * 400, b"9" * 5_000, b"-" + b"9" * 5_000, b"0." + b"9" * 5_000, b"1" + b"0" * 300 + b".5"),
    *(b'"t"', b'"c"', b'"good"', b'"."', b'".."', b'"a/b"', b'"a#ephemeral"', b'"a\\n"', b'"a\\u0000b"'),
    *(b'"<script>alert(1)</script>"', b'"\\"\'&"', b'"javascript:alert(1)"', b'"%s{0}{{7*7}}"'),
    *(
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\ud83d\\ude00"',
        b'"\xff\xfe"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
    ),
    *(b'"\xe2\x80\xae"', b'"\xe2\x80\xa8"', b'"unclosed', b'"\\q"', b'"\\u12"', b"'single'"),
    *(b'"' + b"x" * 65 + b'"', b'"' + b"x" * 3_000 + b'"', b'"' + "\u2603".encode() * 3_000 + b'"'),
    *(
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[{}" + b",{}" * 3_000 + b"]",
    ),
    *(b'"127.0.0.1:4151"', b'"good:4151"', b'"[::1"', b'"a:b@c"', b'"http://x/"', b'"\\r\\nX: y"'),
)
"""Values for any place. Some of them are no JSON."""
_KEYS = (
    *("-node", "-nodes", "-hostname", "-channels", "-clients", "-count", "-average", "-topics", "-topic"),
    *("draining", "topics", "channels", "clients", "producers", "tombstones", "percentiles", "__proto__"),
    *("", "\u2603", "x" * 500, "topic_name", "TOPIC_NAME", "broadcast_address"),
)


@attrs.define
class Hostile:
    """Makes responses."""

    seed: int
    random: random.Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def of(self, real: Any) -> bytes:
        """A response in place of this one."""
        chance = self.random.random()
        if chance < 0.05:
            return self._nothing_but_wrong()
        body = self._changed(real, self.random.choice((0, 1, 1, 1, 2, 4, 8)))
        return self._torn(body) if chance < 0.25 else body

    def _nothing_but_wrong(self) -> bytes:
        return self.random.choice(
            (
                b"",
                b" \r\n",
                b"<html><h1>502 Bad Gateway</h1></html>",
                b"\xef\xbb\xbf{}",
                bytes(self.random.randrange(256) for _ in range(200)),
                self.random.choice(WRONG),
                b"{}{}",
                b'{"topics":' + self.random.choice(WRONG) + b"}",
            )
        )

    def _changed(self, real: Any, changes: int) -> bytes:
        value = {"root": copy.deepcopy(real)}
        for _ in range(changes):
            places = _places(value)
            if not places:
                break
            container, key = self.random.choice(places)
            self.random.choice(self._kinds())(container, key)
        return _encode(value.get("root"))

    def _kinds(self) -> tuple[Callable[[Any, Any], None], ...]:
        return (
            *(self._replace, self._replace, self._replace, self._remove, self._repeat, self._add_key),
            *(self._move, self._negate, self._nest),
        )

    def _replace(self, container: Any, key: Any) -> None:
        container[key] = msgspec.Raw(self.random.choice(WRONG))

    def _remove(self, container: Any, key: Any) -> None:
        del container[key]

    def _repeat(self, container: Any, key: Any) -> None:
        if isinstance(container, list):
            container[key:key] = [container[key]] * self.random.choice((1, 1, 3, 300))

    def _add_key(self, container: Any, key: Any) -> None:
        if isinstance(container, dict):
            container[self.random.choice(_KEYS)] = self.random.choice(
                (container[key], msgspec.Raw(self.random.choice(WRONG)))
            )

    def _negate(self, container: Any, key: Any) -> None:
        """Numbers that another daemon's make 0, or too large, when they are added."""
        if isinstance(container[key], int | float):
            container[key] *= self.random.choice((-1, -1, 10**18, -(10**18)))

    def _nest(self, container: Any, key: Any) -> None:
        """Put an object into itself, as deep as JSON decoders go, under a key that it has not."""
        if isinstance(container[key], dict):
            inside = dict(container[key])
            name = self.random.choice(("-nodes", "-channels", "-clients", "nodes"))
            for _ in range(self.random.choice((1, 400))):
                inside = {**container[key], name: [inside]}
            container[key] = inside

    def _move(self, container: Any, key: Any) -> None:
        """Take a value from somewhere else in the same container, of whatever type."""
        keys = list(container) if isinstance(container, dict) else range(len(container))
        container[key] = container[self.random.choice(list(keys))]

    def _torn(self, body: bytes) -> bytes:
        if not body:
            return body
        place = self.random.randrange(len(body))
        end = min(len(body), place + self.random.choice((1, 1, 2, 20)))
        middle = self.random.choice(
            (
                b"",
                body[place:end] * 2,
                bytes([self.random.randrange(256)]),
                b"\xff",
                self.random.choice(WRONG),
            )
        )
        return self.random.choice((body[:place], body[:place] + middle + body[end:], body[place:]))


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (OverflowError, RecursionError):  # of 64 bits, or of too many changes
        return b"{}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key below this value."""
    found = []
    stack = [value]
    while stack:
        each = stack.pop()
        items = each.items() if isinstance(each, dict) else enumerate(each)
        for key, member in items:
            found.append((each, key))
            if isinstance(member, dict | list):
                stack.append(member)
    return found
