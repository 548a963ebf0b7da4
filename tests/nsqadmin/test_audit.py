"""The console's own audit trail, and the search in those of all daemons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from nsqadmin.audit import NSQADMIN, search_trails
from nsqadmin.auth import Role
from nsqadmin.auth.users import add
from nsqadmin.daemon import Daemon, make_console
from nsqadmin.notify import Notifier
from nsqadmin.options import AdminOptions
from nsqadmin.site import Site
from nsqadmin.upstream import NSQD, NSQLOOKUPD
from nsqkit.audit import AuditQuery, AuditTrail, Event, Means, Who
from nsqkit.service.http import HttpError, Request, Response, Route, error
from tests.nsqadmin.api.test_action_handlers import nsqd_with_topic, registry_of
from tests.nsqadmin.auth.people import PASSWORD, user, with_users
from tests.nsqadmin.fake_upstream import FakeUpstream
from tests.nsqadmin.pages.reading import HtmlPage
from tests.nsqadmin.pages.test_login import log_in
from tests.nsqadmin.scripted import dead_address, scripted
from tests.nsqadmin.serving import serving
from tests.nsqkit.audit.reading import lines_in, wait_for_lines
from tests.process.waiting import wait_until

DEAD = dead_address()


def request_for(method: str, path: str) -> Request:
    return Request(
        method,
        path.encode(),
        path,
        b"",
        [],
        "1.1",
        "10.0.0.9:1",
        False,
        True,
        {},
        Route(handler=lambda _: error(404, "")),
    )


async def test_every_route_that_changes_something_is_recorded(tmp_path: Path) -> None:
    """No handler of the site is called without its request being recorded, whatever becomes of it."""
    options = AdminOptions(nsqd_http_addresses=[DEAD], audit_file=str(tmp_path / "audit"))
    console = make_console(options)
    console.trail.start("console:4171")
    router = Site(console, Notifier(console.queries.upstream))._router
    changes = [(method, path) for method, path in router.routes() if method not in ("GET", "HEAD")]
    assert len(changes) >= 9
    for method, path in changes:
        route, _ = router.route(method, path.encode(), path, b"")
        request = request_for(method, path)
        try:
            answer = route.handler(request)
            if not isinstance(answer, Response):
                await answer
        except (HttpError, KeyError):  # it has no parameters
            pass
    await console.queries.upstream.aclose()
    console.trail.close()
    lines = lines_in(tmp_path / "audit")
    assert sum(line.get("count", 1) for line in lines) == len(changes)


ACTIONS: list[tuple[str, str, Any, str, dict[str, str]]] = [
    ("POST", "/api/topics", {"topic": "t"}, "create_topic", {"topic": "t"}),
    ("POST", "/api/topics", {"topic": "t", "channel": "c"}, "create_channel", {"topic": "t", "channel": "c"}),
    ("POST", "/api/topics/t", {"action": "pause"}, "pause_topic", {"topic": "t"}),
    ("POST", "/api/topics/t/c", {"action": "empty"}, "empty_channel", {"topic": "t", "channel": "c"}),
    ("DELETE", "/api/topics/t/c", None, "delete_channel", {"topic": "t", "channel": "c"}),
    ("DELETE", "/api/topics/t", None, "delete_topic", {"topic": "t"}),
]


async def test_what_was_done_by_whom(tmp_path: Path) -> None:
    async with scripted() as script:
        nsqd = await nsqd_with_topic(script)
        registry = await registry_of(script, nsqd)
        async with serving(lookupds=[registry.address], audit_file=str(tmp_path / "audit")) as browser:
            headers = {
                "X-Forwarded-User": "ann",
                "X-Forwarded-For": "10.0.0.9",
                "Authorization": "Bearer hunter2",
            }
            for method, path, body, _, _ in ACTIONS:
                response = await browser.ask(method, path, body, {**headers, "Cookie": "session=hunter2"})
                assert response.status_code == 200, response.text
            await browser.ask("PUT", "/config/log_level", b"debug")
    *lines, config = lines_in(tmp_path / "audit")
    assert [(line["what"], line["on"]) for line in lines] == [each[3:] for each in ACTIONS]
    for line in lines:
        assert (line["who"], line["means"], line["result"], line["daemon"]) == (
            "ann",
            "header",
            "ok",
            NSQADMIN,
        )
        assert line["from"].startswith("127.0.0.1:")
        assert line["from"].endswith(" for 10.0.0.9")
    assert (config["what"], config["after"], config["means"]) == (
        "PUT /config/log_level",
        {"log_level": "1"},
        "anonymous",
    )
    assert "hunter2" not in (tmp_path / "audit").read_text()


async def test_an_action_that_some_daemons_have_not_done_has_failed(tmp_path: Path) -> None:
    async with scripted() as script:
        nsqd = await script.nsqd({"topics": [{"topic_name": "t", "channels": []}]})
        registry = await registry_of(script, nsqd)
        async with serving(lookupds=[registry.address], audit_file=str(tmp_path / "audit")) as browser:
            assert (await browser.ask("POST", "/api/topics/t", {"action": "pause"})).status_code == 200
            await browser.ask("POST", "/api/topics/t", {"action": "sing"})
    first, second = lines_in(tmp_path / "audit")
    assert (first["what"], first["result"], first["status"]) == ("pause_topic", "failed", 200)
    assert first["error"].startswith("WARNING: ")
    assert (second["result"], second["error"]) == ("failed", "INVALID_ACTION")


async def test_refusals(tmp_path: Path) -> None:
    options = {"audit_file": str(tmp_path / "audit"), "admin_users": ["ann"], "allowed_hosts": ["127.0.0.1"]}
    async with serving(nsqds=[DEAD], **options) as browser:
        asked: list[tuple[str, str, dict[str, str]]] = [
            ("DELETE", "/api/topics/t", {"X-Forwarded-User": "bob"}),
            ("GET", "/config/log_level", {"X-Forwarded-User": "bob"}),
            ("GET", "/api/audit", {}),
            ("DELETE", "/api/topics/t", {"X-Forwarded-User": "ann", "Sec-Fetch-Site": "cross-site"}),
            ("GET", "/topics", {"Host": "evil.example"}),
            ("GET", "/live", {"Host": "evil.example:1"}),
        ]
        for method, path, headers in asked:
            assert (await browser.ask(method, path, headers=headers)).status_code == 403
        assert (await browser.get("/topics")).status_code == 200
    lines = lines_in(tmp_path / "audit")
    assert sum(line.get("count", 1) for line in lines) == len(asked)
    assert [(line["what"], line.get("who", ""), line["error"]) for line in lines[:5]] == [
        ("DELETE /api/topics/t", "bob", "FORBIDDEN"),
        ("GET /config/log_level", "bob", "FORBIDDEN"),
        ("GET /api/audit", "", "FORBIDDEN"),
        ("DELETE /api/topics/t", "ann", "FORBIDDEN"),
        ("GET /topics", "", "HOST_NOT_ALLOWED"),
    ]
    assert {line["result"] for line in lines} == {"refused"}


@pytest.mark.parametrize("required", [False, True])
async def test_logins(tmp_path: Path, required: bool) -> None:
    """Also while a required file cannot be written: somebody has to see what is wrong."""
    path = tmp_path / "audit"
    async with serving(
        nsqds=[DEAD], base_path="/adm", audit_file=str(path), audit_required=required
    ) as browser:
        with_users(browser.console, user("ann", Role.ADMIN))
        if required:
            wait_for_lines(path, 0)
            path.unlink()
            path.mkdir()
            assert (await log_in(browser)).status_code == 303
            wait_until(lambda: browser.console.trail.refuses_changes, 10, "it cannot be written")
            path.rmdir()
        else:
            assert (await log_in(browser)).status_code == 303
        token = (
            HtmlPage(await browser.get("/adm/nodes")).one("form", action="/adm/logout").one("input")["value"]
        )
        origin = {"Origin": f"http://{browser.address}"}
        await browser.ask("POST", "/adm/logout", f"token={token}".encode(), origin)
        await log_in(browser, "hunter2")
        await log_in(browser, "hunter2", name="hunter2")
    lines = lines_in(path)
    assert [
        (line["what"], line.get("who", ""), line.get("on", {}), line["result"], line.get("error", ""))
        for line in lines[:3]
    ] == [
        ("login", "", {"user": "ann"}, "ok", ""),
        ("logout", "ann", {}, "ok", ""),
        ("login", "", {"user": "ann"}, "refused", "LOGIN_FAILED"),
    ]
    assert sum(line.get("count", 1) for line in lines) == 4
    assert "hunter2" not in path.read_text()
    assert PASSWORD not in path.read_text()


def test_a_change_of_the_users_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "users"
    add(str(path), user("ann"))
    options = AdminOptions(
        nsqd_http_addresses=[DEAD], audit_file=str(tmp_path / "audit"), users_file=str(path)
    )
    console = Daemon(options).console
    console.trail.start("console:4171")
    add(str(path), user("bob"))
    users = console.authentication.users
    assert users is not None
    assert users.look()()
    console.authentication.on_users_change()
    console.trail.close()
    [line] = lines_in(tmp_path / "audit")
    assert (line["what"], line["on"], line["after"]) == ("users", {"file": str(path)}, {"added": ["bob"]})


# --- the search


def line(second: int, **values: Any) -> dict[str, Any]:
    known = {"time": 1_796_140_800 + second, "who": Who("ann", Means.TOKEN), "what": f"w{second}"}
    found: dict[str, Any] = json.loads(Event(**{**known, **values}).line("nsqd", "a:4151"))
    return found


def part(*seconds: int, complete: bool = True, failing: str = "") -> dict[str, Any]:
    lines = [line(second) for second in seconds]
    return {"lines": lines, "complete": complete, "failing": failing, "lost": 0}


def upstream_of(**answers: Any) -> FakeUpstream:
    upstream = FakeUpstream.make(nsqd_http_addresses=["a:1"])
    upstream.responses = {f"{name}:1": {"/audit": answer} for name, answer in answers.items()}
    return upstream


async def test_lines_of_all_daemons_by_time_and_those_of_one_file_once(tmp_path: Path) -> None:
    own = tmp_path / "audit"
    own.write_bytes(Event(time=1_796_140_803.0, who=Who(), what="own").line(NSQADMIN, "c:1"))
    upstream = upstream_of(a=part(4, 1), b=part(2, 1), r=part(5))
    report = await search_trails(AuditTrail(str(own)), upstream, AuditQuery(), ["a:1", "b:1"], ["r:1"])
    assert [each.what for each in report.lines] == ["w5", "w4", "own", "w2", "w1"]
    assert (report.complete, report.kept, report.problems) == (True, True, {})
    assert report.lines[1].who == "ann"
    report = await search_trails(AuditTrail(str(own)), upstream, AuditQuery(limit=2), ["a:1", "b:1"], ["r:1"])
    assert ([each.what for each in report.lines], report.complete) == (["w5", "w4"], False)


async def test_the_filter_is_sent_to_all(tmp_path: Path) -> None:
    upstream = upstream_of(a=part())
    query = AuditQuery(limit=7, who="ann", topic="t", since="2026-12-01T00:00:00.000000Z", contains="x")
    await search_trails(AuditTrail(), upstream, query, ["a:1"], [])
    assert upstream.params == [
        {"limit": "7", "who": "ann", "topic": "t", "since": "2026-12-01T00:00:00.000000Z", "contains": "x"}
    ]


async def test_daemons_that_show_nothing_are_named(autojump_clock: trio.testing.MockClock) -> None:
    upstream = upstream_of(
        a=part(1, failing="No space left on device"), c=b"{", d=b'{"lines":[1],"complete":true}'
    )
    upstream.hanging["b:1"] = trio.Event()
    report = await search_trails(
        AuditTrail(), upstream, AuditQuery(), [f"{name}:1" for name in "abcde"], ["r:1"]
    )
    assert [each.what for each in report.lines] == ["w1"]
    problems = {address: text for (kind, address), text in report.problems.items() if kind == NSQD}
    assert problems["a:1"] == "cannot write its audit file: No space left on device"
    assert problems["b:1"] == "did not answer in time"
    assert all("unexpected response" in problems[f"{name}:1"] for name in "cd")
    assert problems["e:1"] == "cannot be asked: e:1/audit: connection refused"
    assert report.problems[NSQADMIN, ""] == "keeps no audit file (--audit-file)"
    assert (NSQLOOKUPD, "r:1") in report.problems


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("NO_AUDIT_FILE", 404, "keeps no audit file"),
        ("NOT_FOUND", 404, "is of a version without audit trail"),
        ("SCOPE_REQUIRED_ADMIN", 403, "the scope admin"),
        ("TOKEN_REQUIRED", 401, "the scope admin"),
        ("INTERNAL_ERROR", 500, "cannot be asked: "),
    ],
)
async def test_why_a_daemon_shows_nothing(code: str, status: int, text: str) -> None:
    async with scripted() as script:
        nsqd = await script.daemon()
        nsqd.on("/audit", error(status, code))
        async with serving(nsqds=[nsqd.address]) as browser:
            report = await search_trails(
                AuditTrail(), browser.console.queries.upstream, AuditQuery(), [nsqd.address], []
            )
    assert text in report.problems[NSQD, nsqd.address]
    assert not report.kept


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot read its audit file: Is a directory"), (b"", None), (b"junk\n", None)],
)
async def test_the_own_file(tmp_path: Path, content: bytes | None, problem: str | None) -> None:
    path = tmp_path / "audit"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    report = await search_trails(AuditTrail(str(path)), upstream_of(), AuditQuery(), [], [])
    assert report.problems.get((NSQADMIN, "")) == problem
    assert report.lines == []


async def test_a_file_that_was_renamed_has_no_lines(tmp_path: Path) -> None:
    report = await search_trails(AuditTrail(str(tmp_path / "audit")), upstream_of(), AuditQuery(), [], [])
    assert (report.lines, report.kept, report.problems) == ([], True, {})


async def test_the_api_shows_the_lines(tmp_path: Path) -> None:
    async with scripted() as script:
        nsqd = await nsqd_with_topic(script)
        nsqd.on("/audit?limit=5&who=ann", part(2, 1))
        registry = await registry_of(script, nsqd)
        registry.on("/topics", {"topics": ["t"]})
        async with serving(
            lookupds=[registry.address], audit_file=str(tmp_path / "audit"), poll=True
        ) as browser:
            if not browser.console.poller.snapshot.nodes:
                await browser.console.poller.next_snapshot()
            found = await browser.json("/api/audit?limit=5&who=ann")
            bad = await browser.get("/api/audit?limit=x")
    assert [each["what"] for each in found["lines"]] == ["w2", "w1"]
    assert found["lines"][0].keys() == {"time", "daemon", "node", "who", "means", "what", "result"}
    assert found["complete"] is True
    assert found["message"] == f"WARNING: nsqlookupd {registry.address} is of a version without audit trail"
    assert (bad.status_code, bad.json()) == (400, {"message": "INVALID_ARG_LIMIT"})
