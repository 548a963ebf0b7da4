"""The page of the audit trails: rows, filters, and what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nsqadmin.console import Console
from nsqkit.audit import Event, Means, Result, Who
from tests.nsqadmin.pages.cluster import NODE, FakeQueries, channel, fake_console, node, snapshot, topic
from tests.nsqadmin.pages.messages import FakeUpstream
from tests.nsqadmin.pages.reading import HtmlPage, fetch

REGISTRIES = ("10.9.0.1:4161", "10.9.0.2:4161")
START = 1_796_140_800
NO_FILE = r'GET http://x/audit: got response 404 Not Found "{\"message\":\"NO_AUDIT_FILE\"}"'


def line(second: int, **values: Any) -> dict[str, Any]:
    known = {"time": START + second, "who": Who("ann", Means.TOKEN, "10.0.0.9:1"), "what": "POST /drain"}
    found: dict[str, Any] = json.loads(Event(**{**known, **values}).line("nsqd", NODE))
    return found


def response(*lines: dict[str, Any], complete: bool = True, failing: str = "") -> dict[str, Any]:
    return {"lines": list(lines), "complete": complete, "failing": failing, "lost": 0}


def console_of(answer: dict[str, Any] | str, **options: Any) -> Console:
    """One node that has a topic, and two registries without an audit file."""
    held = topic("orders", [channel("orders", "mail")])
    upstream = FakeUpstream({NODE: answer, **dict.fromkeys(REGISTRIES, NO_FILE)})
    return fake_console(
        snapshot(held, nodes=[node(NODE, [held])]), queries=FakeQueries(upstream=upstream), **options
    )


def asked(console: Console) -> dict[str, str]:
    """The parameters of the request to the node."""
    upstream: Any = console.queries.upstream
    return next(params for address, params in upstream.asked if address == NODE)


def rows(page: HtmlPage) -> list[list[str]]:
    return page.rows("Changes and refusals")


async def test_lines_are_rows() -> None:
    console = console_of(
        response(
            line(
                2,
                what="POST /channel/pause",
                on={"topic": "orders", "channel": "mail"},
                before={"paused": False, "depth": 1200},
                after={"paused": True, "names": ["a", "b"]},
            ),
            line(
                1,
                who=Who(remote="10.0.0.8:7"),
                what="GET /stats",
                result=Result.REFUSED,
                error="TOKEN_REQUIRED",
                count=1300,
            ),
            line(0, who=Who(means=Means.ITSELF), what="tokens", on={"file": "/etc/nsq/tokens"}),
        )
    )
    page = await fetch(console, "/audit")
    assert rows(page) == [
        [
            "2026-12-01 16:00:02 UTC",
            "ann token 10.0.0.9:1",
            "POST /channel/pause topic orders channel mail",
            "paused no → yes depth was 1,200 names a, b",
            "ok",
            f"nsqd {NODE}",
        ],
        [
            "2026-12-01 16:00:01 UTC",
            "anonymous 10.0.0.8:7",
            "GET /stats 1,300 times",
            "",
            "refused TOKEN_REQUIRED",
            f"nsqd {NODE}",
        ],
        ["2026-12-01 16:00:00 UTC", "itself", "tokens file /etc/nsq/tokens", "", "ok", f"nsqd {NODE}"],
    ]
    links = [each["href"] for each in page.all("tbody", "a")]
    assert links[:3] == ["/topics/orders", "/topics/orders/mail", "/nodes/10.0.0.1%3A4151"]
    assert page.one("nav", aria_label="Main").one("a", aria_current="page").text == "Audit"


async def test_the_filter_is_kept_and_sent() -> None:
    console = console_of(response())
    page = await fetch(console, "/audit?who=ann&what=pause&topic=orders&result=refused&since=1d&q=10.0.0.9")
    sent = asked(console)
    assert sent.pop("since").endswith("Z")
    assert sent == {
        "limit": "100",
        "who": "ann",
        "what": "pause",
        "topic": "orders",
        "result": "refused",
        "contains": "10.0.0.9",
    }
    for name, value in (("who", "ann"), ("what", "pause"), ("topic", "orders"), ("q", "10.0.0.9")):
        assert page.one("input", name=name)["value"] == value
    assert [each.text for each in page.all("option", selected="")] == ["Refused", "Last day"]
    assert "No matches" in page.text
    assert page.one("a", href="/audit", class_="button").text == "Clear"


@pytest.mark.parametrize("query", ["?result=good&since=3y&limit=7", "?who=&result=", "?unknown=1"])
async def test_what_is_no_filter_is_ignored(query: str) -> None:
    console = console_of(response())
    page = await fetch(console, f"/audit{query}")
    assert asked(console) == {"limit": "100"}
    assert "Nobody has changed anything" in page.text


async def test_more_lines() -> None:
    page = await fetch(console_of(response(line(1), complete=False)), "/audit?who=ann")
    more = page.one("a", href="/audit?who=ann&limit=1000")
    assert more.text == "Show up to 1,000"
    console = console_of(response(line(1), complete=False))
    page = await fetch(console, "/audit?who=ann&limit=1000")
    assert asked(console)["limit"] == "1000"
    assert "Narrow the filter" in page.text


async def test_who_is_missing_is_named_once_for_each_reason() -> None:
    page = await fetch(console_of(response(line(1), failing="No space left on device")), "/audit")
    notice = page.one("section", class_="warn")
    assert [each.text for each in notice.all("li")] == [
        f"this nsqadmin, nsqlookupd {REGISTRIES[0]}, nsqlookupd {REGISTRIES[1]} keeps no audit file (--audit-file)",
        f"nsqd {NODE} cannot write its audit file: No space left on device",
    ]


async def test_without_any_trail_the_page_says_how_to_keep_one() -> None:
    page = await fetch(console_of(NO_FILE), "/audit")
    assert "Start the daemons with --audit-file=PATH to keep one." in page.text
    assert not page.all("section", class_="warn")


async def test_it_is_for_administrators_only() -> None:
    console = console_of(response(line(1)), admin_users=["ann"])
    await fetch(console, "/audit", status=403)
    upstream: Any = console.queries.upstream
    assert upstream.asked == []
    page = await fetch(console, "/nodes")
    assert "Audit" not in page.one("nav", aria_label="Main").text


async def test_names_are_text() -> None:
    evil = "<b>x</b>"
    page = await fetch(
        console_of(
            response(line(1, who=Who(evil), what=evil, on={evil: evil}, after={evil: evil}, error=evil))
        ),
        "/audit?who=%3Cb%3E",
    )
    assert not page.all("b")
    assert page.text.count(evil) >= 5
