"""The end of an audit file: its last lines, or the last of those that somebody looks for.

A file is read backwards, in blocks, and `MAX_EXAMINED` bytes at most: that is some 50,000 lines. What is no line of an
audit trail is left out, whatever it is: a part of a line after a crash, or what others have written into the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from nsqkit.audit.event import MAX_LINE, Result
from nsqkit.decoding import DecodeError, decode_json

__all__ = ["MAX_EXAMINED", "MAX_LINES", "AuditQuery", "AuditTail", "normal_time", "read_tail"]

MAX_LINES: Final = 1000
"""Of one answer."""
MAX_EXAMINED: Final = 16 << 20
"""Bytes."""
_BLOCK: Final = 64 << 10
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@attrs.frozen(kw_only=True)
class AuditQuery:
    """What is looked for. Empty: anything; capital letters do not matter."""

    limit: int = 100
    """Lines, the last ones."""
    since: str = ""
    """The time of a line, as `normal_time` makes it: only lines of that time and later."""
    contains: str = ""
    """Anywhere in the line's JSON."""
    who: str = ""
    """In the name of who did it; so are these two in theirs."""
    what: str = ""
    topic: str = ""
    result: Result | None = None

    def may_match(self, text: str) -> bool:
        """Whether a line's JSON, in small letters, can be one: cheap, as most lines are not."""
        return all(each.lower() in text for each in self._sought())

    def _sought(self) -> Iterator[str]:
        yield self.contains
        if self.result is not None:
            yield f'"result":"{self.result.value}"'
        for each in (self.who, self.what, self.topic):
            if '"' not in each and "\\" not in each:  # these look different in JSON
                yield each

    def matches(self, line: Mapping[str, Any]) -> bool:
        """Whether a line is one."""
        on = line.get("on")
        topic = on.get("topic", "") if isinstance(on, dict) else ""
        return (
            (self.result is None or line.get("result") == self.result.value)
            and _has(line.get("who"), self.who)
            and _has(line.get("what"), self.what)
            and _has(topic, self.topic)
        )


@attrs.frozen(kw_only=True)
class AuditTail:
    """What was found. `lines`: decoded, the latest first. `complete`: there are no more of them in this file."""

    lines: list[dict[str, Any]]
    complete: bool


def normal_time(text: str) -> str:
    """A time of RFC 3339 as lines have it, which sorts as a text. `ValueError`; without a zone it is UTC."""
    time = datetime.fromisoformat(text)
    try:
        time = time.astimezone(UTC) if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    return time.isoformat(timespec="microseconds")[:-6] + "Z"


def read_tail(path: str | Path, query: AuditQuery, max_examined: int = MAX_EXAMINED) -> AuditTail:
    """The last lines of a file. Blocks while it reads. `OSError`."""
    found: list[dict[str, Any]] = []
    with Path(path).open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        for raw in _lines_backwards(file.fileno(), end, max_examined):
            text = raw.decode("utf-8", "replace")
            if not query.may_match(text.lower()):
                continue
            line = _decoded(text)
            if line is None:
                continue
            if line["time"] < query.since:
                return AuditTail(lines=found, complete=True)
            if query.matches(line):
                if len(found) == query.limit:
                    return AuditTail(lines=found, complete=False)
                found.append(line)
    return AuditTail(lines=found, complete=end <= max_examined)


def _lines_backwards(descriptor: int, end: int, max_examined: int) -> Iterator[bytes]:
    """The lines that are no longer than a line can be, the last one first."""
    position, begin = end, max(0, end - max_examined)
    head, too_long = b"", False
    """What follows `position`: the end of a line whose beginning is before it."""
    while position > begin:
        size = min(_BLOCK, position - begin)
        block = os.pread(descriptor, size, position - size)
        if len(block) < size:  # the file was truncated
            return
        position -= size
        first, *others = (block + head).split(b"\n")
        if others and too_long:
            others.pop()
            too_long = False
        for line in reversed(others):
            if 0 < len(line) <= MAX_LINE:
                yield line
        too_long = too_long or len(first) > MAX_LINE
        head = b"" if too_long else first
    if begin == 0 and head and not too_long:
        yield head


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        line = decode_json(text)
    except DecodeError:
        return None
    if not isinstance(line, dict):
        return None
    known = {key: value for key, value in line.items() if key in _FORMS and _FORMS[key](value)}
    return known if _TIME.fullmatch(known.get("time", "")) and "what" in known else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int)


def _are_values(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, (str, int)) or (isinstance(each, list) and all(map(_is_text, each)))
        for each in value.values()
    )


_FORMS: Final[Mapping[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("time", "daemon", "node", "who", "means", "from", "what", "result", "error"), _is_text),
    **dict.fromkeys(("status", "count"), _is_number),
    **dict.fromkeys(("on", "before", "after"), _are_values),
}
"""What a line may have; all else is left out."""


def _has(value: object, part: str) -> bool:
    return not part or (isinstance(value, str) and part.lower() in value.lower())
