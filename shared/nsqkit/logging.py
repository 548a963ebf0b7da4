"""Log lines of daemons and tools, in NSQ's format or as JSON, with the standard library's logging.

    [nsqd] 2026/11/22 12:12:19.512345 INFO: TCP: listening on 127.0.0.1:4150
    {"time":"2026-11-22T12:12:19.512345Z","level":"INFO","daemon":"nsqd","logger":"nsqd","message":"TCP: listening ..."}

Rules:

- A module gets its logger from `get_logger(__name__)` and passes arguments instead of formatted text:
  `log.info("TCP: listening on %s", address)`. Records below the level are not formatted.
- One record is one line. Names and errors may come from a peer, so control characters are escaped and a line cannot be
  forged. Only tracebacks have several lines; in JSON they are the field `exception`.
- No secrets: not the data of an AUTH. Every line passes through `redacted`, which takes users and passwords out of
  URLs.
- No line for each message that the broker carries.
- A log that nobody reads stops nobody: the stderr of a program does not block (`nsqkit.standard_streams`).

How it works: all loggers of the project are below one called `nsq`, which has the level of the program. The handler is
on the root logger, so that warnings of other libraries come out in the same format, while their lines below WARNING do
not. The level can be changed while the program runs.

Errors before logging is set up are written with `fatal_line`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import IntEnum
from typing import Final, TextIO

import attrs

from nsqkit.redact import redacted
from nsqkit.standard_streams import BackgroundWriter

__all__ = [
    "JSON",
    "LOG_FORMATS",
    "TEXT",
    "LogLevel",
    "RateLimitedLogger",
    "configure",
    "fatal_line",
    "get_logger",
    "set_level",
    "stamped_line",
]

TEXT: Final = "text"
JSON: Final = "json"
LOG_FORMATS: Final = (TEXT, JSON)
"""The values of `--log-format`."""

BETWEEN_LINES_S: Final = 1.0
"""Minimum time between two lines of a `RateLimitedLogger`."""

_PROJECT = "nsq"
_DROPPED_TEXT = "log: %d lines were dropped, as the reader of stderr did not keep up"


class LogLevel(IntEnum):
    """The levels, with their numbers in `/config/log_level`."""

    DEBUG = 1
    INFO = 2
    WARNING = 3
    ERROR = 4
    FATAL = 5

    @classmethod
    def parse(cls, text: str) -> LogLevel:
        """The level for a word: debug, info, warn, error or fatal, in any case. `ValueError` for others."""
        level = _LEVEL_OF_WORD.get(text.lower())
        if level is None:
            raise ValueError(f"invalid log level '{text}' (debug, info, warn, error, fatal)")
        return level


_LEVEL_OF_WORD = {
    "debug": LogLevel.DEBUG,
    "info": LogLevel.INFO,
    "warn": LogLevel.WARNING,
    "error": LogLevel.ERROR,
    "fatal": LogLevel.FATAL,
}


def get_logger(name: str) -> logging.Logger:
    """The logger of the module `name`. Its level is set by `configure` and `set_level`."""
    return logging.getLogger(f"{_PROJECT}.{name}")


def configure(level: LogLevel, prefix: str, stream: TextIO | None = None, *, log_format: str = TEXT) -> None:
    """Write all log lines to `stream` (default: the current stderr), each with `prefix` in front.

    `log_format`: one of `LOG_FORMATS`. JSON has the name in the prefix as the field `daemon`. For programs, at their
    start; a second call replaces the handler of the first.
    """
    _disable_unused_fields()
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_formatter(prefix, log_format))
    root.addHandler(handler)
    if isinstance(sys.stderr, BackgroundWriter):
        sys.stderr.dropped_line = _DroppedLine(_formatter(prefix, log_format))
    set_level(level)


def set_level(level: LogLevel) -> None:
    """Log this level and above from now on; of other libraries WARNING and above at most."""
    logging.getLogger(_PROJECT).setLevel(level * 10)
    logging.getLogger().setLevel(max(level, LogLevel.WARNING) * 10)


def fatal_line(prefix: str, reason: str, log_format: str = TEXT) -> str:
    """The line for stderr when a daemon cannot start, with its newline."""
    record = logging.LogRecord(_PROJECT, logging.CRITICAL, "", 0, "%s", (reason,), None)
    return _formatter(prefix, log_format).format(record) + "\n"


@attrs.frozen
class _DroppedLine:
    """The line that stands for others, from the thread that writes: with a formatter of its own."""

    formatter: logging.Formatter

    def __call__(self, count: int) -> str:
        values = (count,)
        record = logging.LogRecord(_PROJECT, logging.WARNING, "", 0, _DROPPED_TEXT, values, None)
        return self.formatter.format(record) + "\n"


def stamped_line(text: str) -> str:
    """A last line of a command-line tool, `YYYY/MM/DD HH:MM:SS text` with its newline."""
    return f"{_seconds_stamp(int(time.time()))} {_on_one_line(redacted(text))}\n"


@attrs.define(eq=False)
class RateLimitedLogger:
    """Logs at most one line a second, so that a stream of bad messages does not fill a disk."""

    logger: logging.Logger
    level: int = logging.WARNING
    _next_at: float = attrs.field(default=float("-inf"), init=False)
    _suppressed: int = attrs.field(default=0, init=False)

    def log(self, now: float, text: str, *values: object, error: BaseException | None = None) -> None:
        """Log a line, or count it: the next line that is logged says how many were left out.

        `now`: seconds of any monotonic clock. `error`: its traceback follows the line.
        """
        if now < self._next_at:
            self._suppressed += 1
            return
        if self._suppressed:
            text += " (and %d more since the last such line)"
            values += (self._suppressed,)
        self.logger.log(self.level, text, *values, exc_info=error)
        self._next_at, self._suppressed = now + BETWEEN_LINES_S, 0


class _Handler(logging.StreamHandler[TextIO]):
    """A type of its own, by which `configure` finds the handler of an earlier call."""


def _formatter(prefix: str, log_format: str) -> logging.Formatter:
    return _JsonFormatter(prefix) if log_format == JSON else _Formatter(prefix)


class _Formatter(logging.Formatter):
    """NSQ's format. Keeps the text of the current second, which many lines share."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix
        self._second = -1
        self._second_stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        second, micros = _split(record.created)
        if second != self._second:
            self._second = second
            self._second_stamp = _seconds_stamp(second)
        level = _level_name(record.levelno)
        text = _on_one_line(redacted(record.getMessage()))
        line = f"{self._prefix}{self._second_stamp}.{micros:06d} {level}: {text}"
        if record.exc_info:
            line = f"{line}\n{redacted(self.formatException(record.exc_info))}"
        return line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII. Times are UTC, in the format of RFC 3339."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._daemon = prefix.strip("[] ")

    def format(self, record: logging.LogRecord) -> str:
        second, micros = _split(record.created)
        fields = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{micros:06d}Z",
            "level": _level_name(record.levelno),
            "daemon": self._daemon,
            "logger": record.name.removeprefix(f"{_PROJECT}."),
            "message": _without_surrogates(redacted(record.getMessage())),
        }
        if record.exc_info:
            fields["exception"] = _without_surrogates(redacted(self.formatException(record.exc_info)))
        return json.dumps(fields, separators=(",", ":"))


_LEVEL_NAMES: Final = (
    (logging.CRITICAL, "FATAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARNING"),
    (logging.INFO, "INFO"),
)


def _level_name(number: int) -> str:
    for least, name in _LEVEL_NAMES:
        if number >= least:
            return name
    return "DEBUG"


def _disable_unused_fields() -> None:
    """The switches in the optimisation notes of the standard library's logging."""
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging._srcfile = None  # do not search the stack for the caller
    logging.raiseExceptions = False  # a closed stderr costs the line and no more


def _split(now: float) -> tuple[int, int]:
    second = int(now)
    return second, int((now - second) * 1_000_000)


def _seconds_stamp(second: int) -> str:
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(second))


def _on_one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _without_surrogates(text: str) -> str:
    """Surrogates, which file names may contain, are not valid in JSON."""
    return text.encode("utf-8", "backslashreplace").decode()
