"""The form of log lines, and what is shown at which level."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from nsqkit.logging import JSON, LogLevel, configure, fatal_line, get_logger, set_level, stamped_line

LINE = re.compile(r"\[nsqd\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)\.(\d{6}) ([A-Z]+): (.*)")


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Everything logged, at INFO with the prefix of nsqd; the standard library is put back as it was."""
    switches = ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile", "raiseExceptions")
    before = {name: getattr(logging, name) for name in switches}
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure(LogLevel.INFO, "[nsqd] ", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("nsq").setLevel(logging.NOTSET)
    for name, value in before.items():
        setattr(logging, name, value)


def _shown(output: io.StringIO) -> list[tuple[str, str]]:
    lines = [LINE.fullmatch(line) for line in output.getvalue().splitlines()]
    return [(match[3], match[4]) for match in lines if match is not None]


def _log_at_every_level(log: logging.Logger) -> None:
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log.critical("e")


def test_line_has_prefix_time_level_and_text(output: io.StringIO) -> None:
    log = get_logger("nsqd.daemon")
    record = log.makeRecord(log.name, logging.INFO, "", 0, "TCP: listening on %s", ("[::1]:4150",), None)
    record.created = 1_795_349_539.25
    log.handle(record)
    stamp = re.escape(fatal_stamp(record.created))
    assert re.fullmatch(
        rf"\[nsqd\] {stamp}\.250000 INFO: TCP: listening on \[::1\]:4150\n", output.getvalue()
    )


def fatal_stamp(seconds: float) -> str:
    """The local time as log lines have it, by another way than theirs."""
    return f"{datetime.fromtimestamp(seconds):%Y/%m/%d %H:%M:%S}"


def test_the_time_moves_on(output: io.StringIO) -> None:
    log = get_logger("x")
    for second in (1_000_000_000.0, 1_000_000_000.5, 1_000_000_001.25):
        record = log.makeRecord(log.name, logging.INFO, "", 0, "t", (), None)
        record.created = second
        log.handle(record)
    stamps = [
        match[1] + "." + match[2] for line in output.getvalue().splitlines() if (match := LINE.match(line))
    ]
    assert stamps == [
        fatal_stamp(1_000_000_000) + ".000000",
        fatal_stamp(1_000_000_000) + ".500000",
        fatal_stamp(1_000_000_001) + ".250000",
    ]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (LogLevel.DEBUG, ["DEBUG", "INFO", "WARNING", "ERROR", "FATAL"]),
        (LogLevel.INFO, ["INFO", "WARNING", "ERROR", "FATAL"]),
        (LogLevel.WARNING, ["WARNING", "ERROR", "FATAL"]),
        (LogLevel.ERROR, ["ERROR", "FATAL"]),
        (LogLevel.FATAL, ["FATAL"]),
    ],
)
def test_level_can_change_at_run_time(output: io.StringIO, level: LogLevel, shown: list[str]) -> None:
    log = get_logger("nsqd")
    log.debug("warms the cache of what is enabled")
    set_level(level)
    _log_at_every_level(log)
    assert [name for name, _ in _shown(output)] == shown


def test_libraries_are_heard_from_warning_on(output: io.StringIO) -> None:
    set_level(LogLevel.DEBUG)
    _log_at_every_level(logging.getLogger("httpx"))
    assert [name for name, _ in _shown(output)] == ["WARNING", "ERROR", "FATAL"]


def test_nothing_in_a_message_forges_a_line(output: io.StringIO) -> None:
    get_logger("nsqd").info("topic %s", "a\n[nsqd] FATAL: gone\r\x1b[2J\x00é")
    assert _shown(output) == [("INFO", r"topic a\n[nsqd] FATAL: gone\r\x1b[2J\x00é")]
    assert output.getvalue().count("\n") == 1


def test_a_traceback_follows_its_line(output: io.StringIO) -> None:
    try:
        raise RuntimeError("no")
    except RuntimeError:
        get_logger("nsqd").exception("a session crashed")
    first, second, *_, last = output.getvalue().splitlines()
    assert first.endswith("ERROR: a session crashed")
    assert second == "Traceback (most recent call last):"
    assert last == "RuntimeError: no"


def test_configured_again_replaces_the_former(output: io.StringIO) -> None:
    again = io.StringIO()
    configure(LogLevel.ERROR, "[nsqlookupd] ", again)
    _log_at_every_level(get_logger("nsqd"))
    assert output.getvalue() == ""
    assert len(again.getvalue().splitlines()) == 2
    assert again.getvalue().startswith("[nsqlookupd] ")


def test_a_stderr_that_is_gone_is_no_error(output: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    gone = io.StringIO()
    configure(LogLevel.INFO, "", gone)
    gone.close()
    get_logger("nsqd").error("to nobody")
    assert capsys.readouterr() == ("", "")


def test_stderr_is_the_default(output: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogLevel.INFO, "[nsqd] ")
    get_logger("nsqd").info("here")
    assert capsys.readouterr().err.endswith(" INFO: here\n")


def test_fatal_line() -> None:
    line = fatal_line("[nsqd] ", "failed to instantiate nsqd - --node-id must be [0,1024)\nx")
    match = LINE.fullmatch(line.removesuffix("\n"))
    assert match is not None
    assert (match[3], match[4]) == ("FATAL", r"failed to instantiate nsqd - --node-id must be [0,1024)\nx")
    assert line.endswith("x\n")


def _json_lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.fixture
def json_output(output: io.StringIO) -> io.StringIO:
    configure(LogLevel.INFO, "[nsqd] ", output, log_format=JSON)
    return output


def test_json_has_time_level_daemon_logger_and_message(json_output: io.StringIO) -> None:
    log = get_logger("nsqd.http.api")
    record = log.makeRecord(log.name, logging.WARNING, "", 0, "took %s", ("long",), None)
    record.created = 1_795_349_539.25
    log.handle(record)
    assert json_output.getvalue() == (
        '{"time":"2026-11-22T12:12:19.250000Z","level":"WARNING","daemon":"nsqd",'
        '"logger":"nsqd.http.api","message":"took long"}\n'
    )


def test_json_is_one_line_whatever_stands_in_it(json_output: io.StringIO) -> None:
    text = 'a\n{"level":"FATAL"}\r\x1b[2J\x00\u2028é"\\'
    get_logger("nsqd").info("topic %s", text)
    assert json_output.getvalue().isascii()
    assert [line["message"] for line in _json_lines(json_output)] == [f"topic {text}"]


def test_json_has_no_halves_of_surrogate_pairs() -> None:
    """Names of files may have them; parsers do not take them."""
    assert json.loads(fatal_line("[nsqd] ", "file a\udcff", JSON))["message"] == r"file a\udcff"


def test_json_keeps_a_traceback_in_the_line(json_output: io.StringIO) -> None:
    try:
        raise RuntimeError("no")
    except RuntimeError:
        get_logger("nsqd").exception("a session crashed")
    [line] = _json_lines(json_output)
    assert (line["level"], line["message"]) == ("ERROR", "a session crashed")
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("RuntimeError: no")


def test_json_of_every_level_and_of_libraries(json_output: io.StringIO) -> None:
    set_level(LogLevel.DEBUG)
    _log_at_every_level(get_logger("x"))
    logging.getLogger("httpx").warning("w")
    lines = _json_lines(json_output)
    assert [line["level"] for line in lines] == ["DEBUG", "INFO", "WARNING", "ERROR", "FATAL", "WARNING"]
    assert [line["logger"] for line in lines] == ["x"] * 5 + ["httpx"]


def test_fatal_line_as_json() -> None:
    line = fatal_line("[nsqlookupd] ", "failed to\ninstantiate", JSON)
    found = json.loads(line)
    assert line.count("\n") == 1
    assert (found["level"], found["daemon"], found["message"]) == (
        "FATAL",
        "nsqlookupd",
        "failed to\ninstantiate",
    )


def test_stamped_line() -> None:
    assert re.fullmatch(
        r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d --topic required\n", stamped_line("--topic required")
    )


@pytest.mark.parametrize(
    ("word", "level"),
    [
        ("debug", LogLevel.DEBUG),
        ("Info", LogLevel.INFO),
        ("WARN", LogLevel.WARNING),
        ("error", LogLevel.ERROR),
        ("fatal", LogLevel.FATAL),
    ],
)
def test_words_of_levels(word: str, level: LogLevel) -> None:
    assert LogLevel.parse(word) is level


@pytest.mark.parametrize("word", ["warning", "", " info", "1", '"info"', "info\n"])
def test_other_words_are_no_levels(word: str) -> None:
    with pytest.raises(ValueError, match="invalid log level"):
        LogLevel.parse(word)


def test_levels_have_the_numbers_of_config() -> None:
    assert [int(level) for level in LogLevel] == [1, 2, 3, 4, 5]
