"""The access log: a line a response."""

from __future__ import annotations

import logging
import re

import pytest

from nsqkit.logging import get_logger
from nsqkit.service.http.access import access_log
from tests.nsqkit.service.http.http_peer import get, serving, small_api


async def test_a_line_tells_who_asked_what_and_how_long_it_took(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="nsq"):
        async with serving(small_api(log=access_log(get_logger("some.daemon")))) as it:
            client = await it.connect()
            await client.ask(get("/ping?a=b%20c"))
            await client.ask(get("/nowhere", "DELETE"))
    who = r"\(192\.0\.2\.1:5\) [\d.]+(\u00b5s|ms)"
    expected = [rf"200 GET /ping\?a=b%20c {who}", rf"404 DELETE /nowhere {who}"]
    assert len(caplog.records) == len(expected)
    for record, line in zip(caplog.records, expected, strict=True):
        assert (record.name, record.levelname) == ("nsq.some.daemon", "INFO")
        assert re.fullmatch(line, record.getMessage())


async def test_what_a_console_reads_is_for_debugging(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks every few seconds; what it changes, and what goes wrong, is told like anybody's."""
    agent = "User-Agent: nsqadmin/1.4.0"
    with caplog.at_level(logging.DEBUG, logger="nsq"):
        async with serving(small_api(log=access_log(get_logger("some.daemon")))) as it:
            client = await it.connect()
            await client.ask(get("/ping", "GET", agent))
            await client.ask(get("/nowhere", "GET", agent))
            await client.ask(get("/ping", "GET", "User-Agent: curl/8"))
            await client.ask(get("/nowhere", "DELETE", agent))
    assert [(r.levelname, r.getMessage()[:5]) for r in caplog.records if r.name == "nsq.some.daemon"] == [
        ("DEBUG", "200 G"),
        ("INFO", "404 G"),
        ("INFO", "200 G"),
        ("INFO", "404 D"),
    ]
