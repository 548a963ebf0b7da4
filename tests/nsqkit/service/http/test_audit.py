"""Requests that change something, and refused ones, in the audit trail: who, what, on what, before and after."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nsqkit.access import Access, Need, new_secret
from nsqkit.audit import AuditTrail
from nsqkit.service.http import Exchange, Guard, HttpError, Request, Response, Router, error, text
from nsqkit.service.http.audit import AuditLines, note
from nsqkit.service.http.routing import Handler
from tests.nsqkit.access.credentials import Credentials, make_credentials
from tests.nsqkit.audit.reading import lines_in, trail_in
from tests.nsqkit.certificates import Certificates
from tests.nsqkit.service.http.http_peer import Client, get, post, serving
from tests.nsqkit.service.http.test_https import connect, https
from tests.process.waiting import wait_until

NEEDS = {
    ("GET", "/stats"): Need.READ,
    ("POST", "/pub"): Need.PUBLISH,
    ("POST", "/topic/pause"): Need.OPERATE,
    ("PUT", "/config/:opt"): Need.ADMIN,
    ("GET", "/audit"): Need.ADMIN,
}


def done(_request: Request) -> Response:
    return text("")


def make_router(
    trail: AuditTrail, handler: Handler = done, access: Access | None = None, **guarded: Any
) -> Router:
    """One handler for all changes."""
    router = Router(guard=Guard(NEEDS, access or Access(), trail=trail, **guarded))
    router.add("GET", "/stats", lambda _: text("stats"))
    router.add("POST", "/pub", lambda _: text("OK"), body_limit=100)
    router.add("POST", "/topic/pause", handler)
    router.add("PUT", "/config/:opt", handler, body_limit=100)
    router.add("GET", "/audit", AuditLines(trail).get)
    return router


@contextlib.asynccontextmanager
async def api(trail: AuditTrail, *args: Any, **guarded: Any) -> AsyncIterator[Client]:
    async with serving(make_router(trail, *args, **guarded)) as it:
        yield await it.connect()


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path)


async def test_a_change_is_a_line(tmp_path: Path) -> None:
    def pause(request: Request) -> Response:
        note(request, before={"paused": False}, after={"paused": True}, on={"of": "x"})
        return text("")

    with trail_in(tmp_path) as trail:
        async with api(trail, pause) as client:
            answer = await client.ask(post("/topic/pause?topic=orders&channel=&token=hunter2&id=1", b""))
            assert (answer.status, answer.body) == (200, b"")
            await client.ask(get("/config/log_level", "PUT", body=b"hunter2"))
            for harmless in (get("/stats"), post("/pub?topic=orders", b"hunter2")):
                assert (await client.ask(harmless)).status == 200
    first, second = lines_in(tmp_path / "audit")
    del first["time"], first["level"]
    assert first == {
        "daemon": "nsqd",
        "node": "10.0.0.1:4151",
        "means": "anonymous",
        "from": "192.0.2.1:5",
        "what": "POST /topic/pause",
        "on": {"topic": "orders", "id": "1", "of": "x"},
        "before": {"paused": False},
        "after": {"paused": True},
        "result": "ok",
        "status": 200,
    }
    assert second["what"] == "PUT /config/log_level"
    assert "hunter2" not in (tmp_path / "audit").read_text()


async def crash(_request: Request) -> Response:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


def missing(_request: Request) -> Response:
    raise HttpError(404, "TOPIC_NOT_FOUND")


@pytest.mark.parametrize(
    ("handler", "status", "expected"),
    [
        (missing, 404, ("failed", "TOPIC_NOT_FOUND")),
        (crash, 500, ("failed", "INTERNAL_ERROR")),
        (lambda _: error(409, "REFUSED: it is connected"), 409, ("failed", "REFUSED: it is connected")),
        (lambda _: text("invalid block rate", 400), 400, ("failed", "status 400")),
        (lambda _: error(403, "FORBIDDEN"), 403, ("refused", "FORBIDDEN")),
    ],
)
async def test_what_has_failed(
    tmp_path: Path, handler: Handler, status: int, expected: tuple[str, str]
) -> None:
    with trail_in(tmp_path) as trail:
        async with api(trail, handler) as client:
            assert (await client.ask(post("/topic/pause?topic=orders", b""))).status == status
    [line] = lines_in(tmp_path / "audit")
    assert (line["result"], line["error"]) == expected
    assert (line["status"], line["on"]) == (status, {"topic": "orders"})


async def test_requests_in_vain_are_counted(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        async with api(trail, missing) as client:
            for number in range(100):
                await client.ask(post(f"/topic/pause?topic=t{number}", b""))
    lines = lines_in(tmp_path / "audit")
    assert sum(line.get("count", 1) for line in lines) == 100
    assert len(lines) < 20


async def test_who_it_was(tmp_path: Path, credentials: Credentials) -> None:
    with trail_in(tmp_path) as trail:
        async with api(trail, done, credentials.access) as client:
            for who in ("operator", "admin", "expired admin", "revoked admin", "reader", "nobody"):
                header = credentials.header(who).strip()
                await client.ask(get("/topic/pause?topic=orders", "POST", *filter(None, [header])))
    text_of_file = (tmp_path / "audit").read_text()
    assert [
        (line.get("who", ""), line["means"], line["result"], line.get("error", ""), line["status"])
        for line in lines_in(tmp_path / "audit")
    ] == [
        ("operator", "token", "ok", "", 200),
        ("admin", "token", "ok", "", 200),
        ("expired-admin", "expired token", "refused", "TOKEN_EXPIRED", 401),
        ("", "anonymous", "refused", "TOKEN_INVALID", 401),
        ("reader", "token", "refused", "SCOPE_REQUIRED_OPERATE", 403),
        ("", "anonymous", "refused", "TOKEN_REQUIRED", 401),
    ]
    assert not any(secret and secret in text_of_file for secret in credentials.secrets.values())


async def test_a_token_is_named_where_none_is_needed(tmp_path: Path, credentials: Credentials) -> None:
    access = Access(file=credentials.access.file, clock=credentials.access.clock)
    with trail_in(tmp_path) as trail:
        async with api(trail, done, access) as client:
            await client.ask(get("/topic/pause", "POST", credentials.basic_header("operator").strip()))
    [line] = lines_in(tmp_path / "audit")
    assert (line["who"], line["means"]) == ("operator", "token")


async def test_refusals_of_looks_other_sites_and_other_hosts(
    tmp_path: Path, credentials: Credentials
) -> None:
    with trail_in(tmp_path) as trail:
        async with api(trail, done, credentials.access, allowed_hosts=["a"]) as client:
            await client.ask(get("/stats?topic=orders"))
            await client.ask(get("/topic/pause", "POST", "Sec-Fetch-Site: cross-site"))
            await client.ask(b"GET /stats HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert [(line["what"], line["error"], line["result"]) for line in lines_in(tmp_path / "audit")] == [
        ("GET /stats", "TOKEN_REQUIRED", "refused"),
        ("POST /topic/pause", "CROSS_SITE", "refused"),
        ("GET /stats", "HOST_NOT_ALLOWED", "refused"),
    ]


@pytest.mark.parametrize(
    ("policy", "means"), [("require-verify", "certificate"), ("require", "unverified certificate")]
)
async def test_the_name_in_a_client_certificate(tmp_path: Path, policy: str, means: str) -> None:
    certificates = Certificates(tmp_path)
    with trail_in(tmp_path) as trail:
        router = make_router(trail, verified=policy == "require-verify")
        async with https(certificates, router, policy=policy) as (_, port):
            client = await connect(port, certificates.client_context(certificates.client))
            async with client.stream:
                assert (await client.ask(post("/topic/pause", b""))).status == 200
    [line] = lines_in(tmp_path / "audit")
    assert (line["who"], line["means"]) == ("known", means)


async def test_a_required_line_is_on_the_disk_before_the_answer(tmp_path: Path) -> None:
    with trail_in(tmp_path, required=True) as trail:
        async with api(trail) as client:
            for number in range(5):
                assert (await client.ask(post(f"/topic/pause?topic=t{number}", b""))).status == 200
                assert [line["on"]["topic"] for line in lines_in(tmp_path / "audit")][-1] == f"t{number}"


async def test_without_a_disk_a_required_trail_stops_changes_and_nothing_else(tmp_path: Path) -> None:
    changed = 0

    def change(_request: Request) -> Response:
        nonlocal changed
        changed += 1
        return text("")

    path = tmp_path / "audit"
    with trail_in(tmp_path, required=True) as trail:
        async with api(trail, change) as client:
            await client.ask(post("/topic/pause", b""))
            path.unlink()
            path.mkdir()
            # The first one cannot know; it does not say that all is well.
            answer = await client.ask(post("/topic/pause", b""))
            assert (answer.status, answer.body) == (503, b'{"message":"DONE_BUT_NOT_AUDITED"}')
            answer = await client.ask(post("/topic/pause", b""))
            assert (answer.status, answer.body) == (503, b'{"message":"AUDIT_UNAVAILABLE"}')
            assert changed == 2
            assert (await client.ask(post("/pub", b"x"))).status == 200
            assert (await client.ask(get("/stats"))).status == 200
            path.rmdir()
            wait_until(lambda: not trail.failing, 10, "the file can be written again")
            assert (await client.ask(post("/topic/pause", b""))).status == 200
    lines = lines_in(path)
    assert [line["result"] for line in lines] == ["ok", "failed", "ok"]
    assert lines[1]["error"] == "AUDIT_UNAVAILABLE"


async def test_an_error_of_a_handler_waits_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    trail = AuditTrail(str(tmp_path / "audit"), True, "nsqd")
    trail.start("a:1")
    async with api(trail, missing) as client:
        assert (await client.ask(post("/topic/pause", b""))).status in (404, 503)
    trail.close()


def test_without_a_file_handlers_are_called_directly() -> None:
    router = make_router(AuditTrail())
    route, _ = router.route("POST", b"/topic/pause", "/topic/pause", b"")
    assert route.handler is done


async def never(_request: Request, _exchange: Exchange) -> int:
    raise AssertionError("it was not registered")


def test_a_change_has_a_handler_of_its_own(tmp_path: Path) -> None:
    router = Router(guard=Guard({("POST", "/x"): Need.OPERATE}, trail=AuditTrail(str(tmp_path / "audit"))))
    reason = "POST /x is recorded, so it must have a handler only"
    with pytest.raises(ValueError, match=reason):
        router.add_stream("POST", "/x", never)
    with pytest.raises(ValueError, match=reason):
        router.add("POST", "/x", done, body_limit=1, batch=lambda _: [])


# --- reading


async def ask_for_lines(client: Client, query: str = "") -> tuple[int, Any]:
    answer = await client.ask(get(f"/audit{query}"))
    return answer.status, json.loads(answer.body)


async def test_the_last_lines_are_shown(tmp_path: Path) -> None:
    with trail_in(tmp_path, required=True) as trail:
        async with api(trail) as client:
            for number in range(5):
                await client.ask(post(f"/topic/pause?topic=t{number}", b""))
            status, found = await ask_for_lines(client, "?limit=2")
            assert (status, found["failing"], found["lost"], found["complete"]) == (200, "", 0, False)
            assert [line["on"] for line in found["lines"]] == [{"topic": "t4"}, {"topic": "t3"}]
            for query in ("?topic=T2", "?contains=t2", "?topic=t2&what=pause&result=ok&since=2026-01-01"):
                status, found = await ask_for_lines(client, query)
                assert [line["on"] for line in found["lines"]] == [{"topic": "t2"}], query
            (tmp_path / "audit").rename(tmp_path / "audit.1")
            assert (await ask_for_lines(client))[1]["lines"] == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "LIMIT"),
        ("limit=1001", "LIMIT"),
        ("limit=-1", "LIMIT"),
        ("limit=%C2%B2", "LIMIT"),
        ("since=tomorrow", "SINCE"),
        ("result=good", "RESULT"),
        ("who=" + "x" * 300, "WHO"),
    ],
)
async def test_bad_parameters(tmp_path: Path, query: str, code: str) -> None:
    with trail_in(tmp_path) as trail:
        async with api(trail) as client:
            status, found = await ask_for_lines(client, f"?{query}")
    assert (status, found) == (400, {"message": f"INVALID_ARG_{code}"})


async def test_there_is_nothing_to_show_without_a_file(tmp_path: Path) -> None:
    for trail in (AuditTrail(), AuditTrail("-")):
        async with api(trail) as client:
            assert await ask_for_lines(client) == (404, {"message": "NO_AUDIT_FILE"})
    trail = AuditTrail(str(tmp_path))
    async with api(trail) as client:
        assert await ask_for_lines(client) == (500, {"message": "AUDIT_FILE_UNREADABLE"})


async def test_only_administrators_are_shown_anything(tmp_path: Path, credentials: Credentials) -> None:
    with trail_in(tmp_path) as trail:
        async with api(trail, done, credentials.access) as client:
            for who, status in (("operator", 403), ("nobody", 401), ("admin", 200)):
                header = credentials.header(who).strip()
                answer = await client.ask(get("/audit", "GET", *filter(None, [header])))
                assert answer.status == status


async def test_no_secret_of_a_request_gets_into_a_line(tmp_path: Path, credentials: Credentials) -> None:
    """Whatever place it is in, of a request that is allowed or refused."""
    secret, password = new_secret(), "hunter2"
    places = [
        ("/topic/pause", f"Authorization: Bearer {secret}"),
        ("/topic/pause", f"Cookie: session={password}"),
        ("/topic/pause", f"X-Token: {password}"),
        ("/topic/pause", f"User-Agent: {password}"),
        (f"/topic/pause?token={password}", ""),
        (f"/topic/pause?topic={secret}&channel={secret}&id={secret}&node={secret}&life={secret}", ""),
        (f"/topic/pause?topic=http://joe:{password}@a/&node=joe:{password}@a", ""),
        (f"/config/{secret}", ""),
    ]
    with trail_in(tmp_path) as trail:
        for access in (Access(), credentials.access):
            async with api(trail, done, access) as client:
                for target, header in places:
                    method = "PUT" if "config" in target else "POST"
                    headers = [header] if header else []
                    await client.ask(get(target, method, *headers, body=f"{secret} {password}".encode()))
    written = (tmp_path / "audit").read_text()
    assert len(lines_in(tmp_path / "audit")) >= len(places)
    assert secret not in written
    assert password not in written
