"""Log lines of the daemons, in NSQ's form or as JSON, on the standard library's logging.

    [nsqd] 2026/11/22 12:12:19.512345 INFO: TCP: listening on 127.0.0.1:4150
    {"time":"2026-11-22T12:12:19.512345Z","level":"INFO","daemon":"nsqd","logger":"nsqd","message":"TCP: listening ..."}

Rules:

- A module takes its logger with `get_logger(__name__)` and passes arguments, not formatted text:
  `log.info("TCP: listening on %s", address)`. Nothing is formatted below the level.
- One record is one line. Names and errors in it may come from a peer, so control characters in the message
  are escaped: nobody can forge a line. Only a traceback of our own spans lines; as JSON it stands in `exception`.
- No secret in a line: not what a client sent with AUTH, and addresses only without a user's name and password.
- Never a line for each message that the broker carries.

How it works: all loggers of the project hang below one called `nsq`, whose level is the program's. One
handler stands on the root logger, so that warnings of the libraries below come out in the same form, while
their chatter (httpx tells of every request at INFO) stays out. The level can be changed while the program
runs.

What is written before logging is set up (fatal start-up errors) goes through `fatal_line`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import IntEnum
from typing import Final, TextIO

import attrs

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
"""The words of `--log-format`."""

BETWEEN_LINES_S: Final = 1.0
"""Between two lines of a `RateLimitedLogger`."""

_PROJECT = "nsq"


class LogLevel(IntEnum):
    """Levels by their number in `/config/log_level`."""

    DEBUG = 1
    INFO = 2
    WARNING = 3
    ERROR = 4
    FATAL = 5

    @classmethod
    def parse(cls, text: str) -> LogLevel:
        """The level of a word (debug, info, warn, error, fatal; in any case); `ValueError` for others."""
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
    """The logger of the module `name`, under the level that `configure` and `set_level` give."""
    return logging.getLogger(f"{_PROJECT}.{name}")


def configure(level: LogLevel, prefix: str, stream: TextIO | None = None, *, log_format: str = TEXT) -> None:
    """Send all log lines to `stream` (default: stderr as it is now), each beginning with `prefix`.

    `log_format` is one of `LOG_FORMATS`; JSON has the name in the prefix under `daemon`.

    Called once by a program at its start; called again it replaces what it set up before. A library never calls it.
    """
    _leave_out_what_no_line_shows()
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_formatter(prefix, log_format))
    root.addHandler(handler)
    set_level(level)


def set_level(level: LogLevel) -> None:
    """Show lines of this level and above from now on; those of other libraries from WARNING at the lowest."""
    logging.getLogger(_PROJECT).setLevel(level * 10)
    logging.getLogger().setLevel(max(level, LogLevel.WARNING) * 10)


def fatal_line(prefix: str, reason: str, log_format: str = TEXT) -> str:
    """The line, with its newline, that a daemon leaves on stderr when it cannot start."""
    record = logging.LogRecord(_PROJECT, logging.CRITICAL, "", 0, "%s", (reason,), None)
    return _formatter(prefix, log_format).format(record) + "\n"


def stamped_line(text: str) -> str:
    """The line, with its newline, with which a command-line tool ends: `YYYY/MM/DD HH:MM:SS text`."""
    return f"{_seconds_stamp(int(time.time()))} {_on_one_line(text)}\n"


@attrs.define(eq=False)
class RateLimitedLogger:
    """Logs at most one line a second, so that a stream of bad messages does not fill a disk."""

    logger: logging.Logger
    level: int = logging.WARNING
    _next_at: float = attrs.field(default=float("-inf"), init=False)
    _suppressed: int = attrs.field(default=0, init=False)

    def log(self, now: float, text: str, *values: object) -> None:
        """Log a line, or count it: the next line that is logged says how many were left out.

        `now`: seconds of any monotonic clock.
        """
        if now < self._next_at:
            self._suppressed += 1
            return
        if self._suppressed:
            text += " (and %d more since the last such line)"
            values += (self._suppressed,)
        self.logger.log(self.level, text, *values)
        self._next_at, self._suppressed = now + BETWEEN_LINES_S, 0


class _Handler(logging.StreamHandler[TextIO]):
    """A type of its own, so that `configure` finds the handler it has put up before."""


def _formatter(prefix: str, log_format: str) -> logging.Formatter:
    return _JsonFormatter(prefix) if log_format == JSON else _Formatter(prefix)


class _Formatter(logging.Formatter):
    """Writes a record as one line; keeps the text of the current second, which many lines share."""

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
        text = _on_one_line(record.getMessage())
        line = f"{self._prefix}{self._second_stamp}.{micros:06d} {level}: {text}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class _JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object, in ASCII; times are UTC, as RFC 3339 has them."""

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
            "message": _without_surrogates(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = _without_surrogates(self.formatException(record.exc_info))
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


def _leave_out_what_no_line_shows() -> None:
    """The switches that the standard library names in its notes on optimisation."""
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging._srcfile = None  # no walk up the stack to find the caller
    logging.raiseExceptions = False  # a stderr that is gone must not cost more than the line


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
    """Halves of pairs, as file names may have them, are no JSON."""
    return text.encode("utf-8", "backslashreplace").decode()
