"""No password reaches a reader: in text of any kind, and through every log call of the programs."""

from __future__ import annotations

import ast
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from nsqkit.logging import JSON, TEXT, LogLevel, configure, fatal_line, stamped_line
from nsqkit.redact import redacted, shown_url

SECRET = "hunter2"
URLS = [
    f"http://joe:{SECRET}@127.0.0.1:4151/?token={SECRET}",
    f"https://:{SECRET}@hooks.example.org/a/b?n=1&api_key={SECRET}&m=2#x",
    f"http://joe:{SECRET}@[::1]:4151/%s",
    f"HTTP://joe:{SECRET}@host",
    f"http://joe:a@{SECRET}@host/",
    f"http://joe:a/{SECRET}@host/",
    f"http://joe:a?{SECRET}@host/",
    f"joe:{SECRET}@127.0.0.1:4161",
    f"tcp://{SECRET}@host:1",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "around", ["%s", "GET %s: refused", "not a URL: '%s'", '["%s","b"]', "--post=%s", "(%s)"]
)
def test_secrets_are_taken_out(url: str, around: str) -> None:
    text = around % url if "%s" not in url else around.replace("%s", url)
    for shown in (redacted(text), shown_url(text)):
        assert SECRET not in shown
        assert "joe" not in shown


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://joe:p@10.0.0.1:80/a?b=1", "http://10.0.0.1:80/a?b=1"),
        ("http://10.0.0.1/a?token=t&b=1: no answer", "http://10.0.0.1/a?token=***&b=1: no answer"),
        ("http://10.0.0.1:8080/users/a@b", "http://10.0.0.1:8080/users/a@b"),
        ("http://[fe80::1]:80/?mail=a@b", "http://[fe80::1]:80/?mail=a@b"),
        ("from 10.0.0.1:80 to a@b.org", "from 10.0.0.1:80 to a@b.org"),
        ("a=b, c@d, topic:channel", "a=b, c@d, topic:channel"),
    ],
)
def test_the_rest_is_kept(text: str, kept: str) -> None:
    assert redacted(text) == kept


def test_query_of_a_configured_url() -> None:
    assert shown_url("http://a/b?c=d#e http://f/?g") == "http://a/b#e http://f/"


# --- every log call -----------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}


def log_calls() -> Iterator[str]:
    """The format of every log call in the packages."""
    for package in ("nsqd", "nsqlookupd", "nsqadmin", "nsqtools", "shared/nsqkit"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if _is_log_call(node):
                    yield from (
                        part.value
                        for argument in node.args
                        for part in ast.walk(argument)
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    )


def _is_log_call(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and "log" in ast.unparse(node.func.value).lower()
    )


@pytest.mark.parametrize("log_format", [TEXT, JSON])
def test_no_log_call_shows_a_password(log_format: str) -> None:
    """Each one, with URLs for all of its texts, and with an error about one."""
    formats = sorted({text for text in log_calls() if "%s" in text or "%r" in text})
    assert len(formats) > 100
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("nsq").level
    configure(LogLevel.DEBUG, "[test] ", stream, log_format=log_format)
    try:
        log = logging.getLogger("nsq.test")
        for url in URLS:
            try:
                raise OSError(f"{url}: refused")
            except OSError:
                log.exception("failed: %s", url)
            for text in formats:
                fields = re.findall(r"%[-+0-9.#]*([a-z%])", text)
                log.warning(text, *[url if field in "rs" else 1 for field in fields if field != "%"])
    finally:
        root.handlers[:], level, nsq_level = before[0], before[1], before[2]
        root.setLevel(level)
        logging.getLogger("nsq").setLevel(nsq_level)
    assert len(stream.getvalue().splitlines()) >= len(formats) * len(URLS)
    assert [line for line in stream.getvalue().splitlines() if SECRET in line] == []


@pytest.mark.parametrize("url", URLS)
def test_lines_before_logging_is_set_up(url: str) -> None:
    assert SECRET not in stamped_line(f"bad value {url!r}") + fatal_line("[nsqd] ", url) + fatal_line(
        "", url, JSON
    )
