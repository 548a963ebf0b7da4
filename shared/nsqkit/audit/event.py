"""What is audited, and its line: one JSON object, of bounded length, in which no secret can be.

    {"time":"2026-12-01T16:05:11.204417Z","level":"AUDIT","daemon":"nsqd","node":"10.0.0.7:4151","who":"ann",
     "means":"token","from":"10.0.0.9:51234","what":"POST /topic/pause","on":{"topic":"orders"},
     "before":{"paused":false},"after":{"paused":true},"result":"ok","status":200}

Keys that say nothing are left out. Every text passes through `shown`: no user and password of a URL, no token, no
control character of a terminal (JSON escapes them), and no more than `MAX_TEXT` characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final, TypeAlias

import attrs

from nsqkit.redact import redacted

__all__ = ["LEVEL", "MAX_LINE", "MAX_TEXT", "NOBODY", "Event", "Means", "Result", "Value", "Who", "shown"]

MAX_TEXT: Final = 200
"""Characters of one text in a line."""
MAX_LINE: Final = 8192
"""Bytes of a line. What does not fit is left out: the values before and after, then the names."""
MAX_ITEMS: Final = 20
"""Texts of a list."""
LEVEL: Final = "AUDIT"
"""By which lines are told from those of a log that goes to the same stream."""

_TOKEN: Final = re.compile(r"nsq_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
"""As `nsqkit.access.new_secret` makes them."""
_UNFINISHED: Final = re.compile(r"[:=]\S*\Z")
_LOOKED_AT: Final = 2 * MAX_TEXT
"""Characters of a text that anybody may have sent: to take secrets out of more takes too long."""

Value: TypeAlias = str | int | bool | Iterable[str] | None
"""What may be a name or a value of a line."""


class Means(Enum):
    """How it is known who somebody is."""

    ANONYMOUS = "anonymous"
    TOKEN = "token"  # noqa: S105
    EXPIRED_TOKEN = "expired token"  # noqa: S105
    CERTIFICATE = "certificate"
    """The common name of a client certificate."""
    UNVERIFIED_CERTIFICATE = "unverified certificate"
    """The client has chosen the name itself."""
    AUTH_SERVER = "auth server"
    HEADER = "header"
    """Of a proxy that is trusted."""
    BASIC = "basic"
    """A user, with the password in the header Authorization."""
    SESSION = "session"
    """A user who has logged in."""
    SIGNAL = "signal"
    """Of the operating system, to the process."""
    ITSELF = "itself"
    """The daemon."""


class Result(Enum):
    """What has become of it."""

    OK = "ok"
    REFUSED = "refused"
    """Whoever wanted it may not do it."""
    FAILED = "failed"


@attrs.frozen
class Who:
    """Somebody. `name`: empty for an anonymous client. `remote`: from where, `ip:port`."""

    name: str = ""
    means: Means = Means.ANONYMOUS
    remote: str = ""


NOBODY: Final = Who(means=Means.ITSELF)
"""Nobody has asked for it: the daemon does it by itself."""


@attrs.frozen(kw_only=True)
class Event:
    """One change, or one refusal."""

    time: float
    """Seconds since 1970."""
    who: Who
    what: str
    """A request (`POST /topic/pause`), a command of the TCP protocol, or a word."""
    on: Mapping[str, Value] = {}
    """The names of what it is done to: topic, channel, id."""
    before: Mapping[str, Value] = {}
    after: Mapping[str, Value] = {}
    result: Result = Result.OK
    error: str = ""
    """Why it was refused or failed."""
    status: int | None = None
    """Of the HTTP response."""
    count: int = 1
    """How many of this kind the line stands for."""

    def line(self, daemon: str, node: str) -> bytes:
        """The line, with its newline. `daemon` and `node`: where it happened."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            "level": LEVEL,
            "daemon": daemon,
            "node": shown(node),
            "who": shown(self.who.name),
            "means": self.who.means.value,
            "from": shown(self.who.remote),
            "what": shown(self.what),
            "on": _shown_values(self.on),
            "before": _shown_values(self.before),
            "after": _shown_values(self.after),
            "result": self.result.value,
            "error": shown(self.error),
            "status": self.status,
            "count": self.count if self.count > 1 else None,
        }
        line = _encoded(fields)
        for too_much in (("before", "after"), ("on",)):
            if len(line) <= MAX_LINE:
                break
            fields = {**fields, **dict.fromkeys(too_much), "cut": True}
            line = _encoded(fields)
        return line


def shown(text: str) -> str:
    """A text as it may be in a line."""
    if len(text) > _LOOKED_AT:
        # Also the beginning of a word that could be a URL: its password may be beyond.
        text = _UNFINISHED.sub("…", text[:_LOOKED_AT])
    text = _TOKEN.sub("nsq_***", redacted(text.encode("utf-8", "backslashreplace").decode()))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _shown_values(values: Mapping[str, Value]) -> dict[str, object]:
    return {shown(name): _shown_value(value) for name, value in values.items() if value not in (None, "")}


def _shown_value(value: Value) -> object:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return shown(value)
    texts = [shown(each) for each in value]
    return texts if len(texts) <= MAX_ITEMS else [*texts[:MAX_ITEMS], f"and {len(texts) - MAX_ITEMS} more"]


def _encoded(fields: Mapping[str, object]) -> bytes:
    given = {name: value for name, value in fields.items() if value not in (None, "", {})}
    line = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    if not line.isprintable():  # JSON leaves some characters that a terminal obeys as they are
        line = "".join(char if char.isprintable() else _escaped(char) for char in line)
    return line.encode() + b"\n"


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
