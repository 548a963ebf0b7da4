"""Every route of nsqd that changes something, and every refused command: they are in the audit trail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nsqd.access import COMMANDS, ROUTES
from nsqd.http import make_router
from nsqd.stats.collect import StatsQuery, collect
from nsqkit.access import NOTHING, Need
from nsqkit.audit import AuditTrail
from nsqkit.options import TlsRequired
from tests.nsqd.http.fake_daemon import FakeDaemon, serving
from tests.nsqd.protocol_v2.harness import identify, sized
from tests.nsqd.test_access import COMMAND_BYTES, ClosedMachine
from tests.nsqkit.access.credentials import CHANNEL, MAY, STRANGERS, TOPIC, Credentials, make_credentials
from tests.nsqkit.audit.reading import lines_in, trail_in

RECORDED = sorted(
    (method, path) for (method, path), need in ROUTES.items() if method != "GET" and need is not Need.PUBLISH
)


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path)


def make_daemon(trail: AuditTrail) -> FakeDaemon:
    daemon = FakeDaemon()
    daemon.audit = trail
    return daemon


def test_all_routes_but_those_of_publishing_are_recorded(tmp_path: Path) -> None:
    """By the router, not by the table alone: the handlers of all others are wrapped."""
    with trail_in(tmp_path) as trail:
        plain, recorded = make_router(FakeDaemon()), make_router(make_daemon(trail))
    assert plain.guard is not None
    changing = {route for route in plain.routes() if route[0] != "GET"}
    assert changing - set(RECORDED) == {("POST", "/pub"), ("POST", "/mpub")}
    for method, path in plain.routes():
        target = path.replace(":opt", "id")
        direct, wrapped = (
            router.route(method, target.encode(), target, b"")[0].handler for router in (plain, recorded)
        )
        assert (wrapped.__qualname__ == "HttpAudit.of_a_change.<locals>.answer") == (
            (method, path) in RECORDED
        )
        assert direct.__qualname__ != wrapped.__qualname__ or (method, path) not in RECORDED


@pytest.mark.parametrize(("method", "path"), RECORDED)
async def test_every_change_is_recorded(tmp_path: Path, method: str, path: str) -> None:
    with trail_in(tmp_path) as trail:
        async with serving(make_daemon(trail)) as client:
            target = path.replace(":opt", "log_level")
            answer = await client.ask(method, f"{target}?topic=t&channel=c&id={'0' * 16}", b"debug")
    [line] = lines_in(tmp_path / "audit")
    assert (line["what"], line["status"]) == (f"{method} {target}", answer.status)
    assert line["on"] == {"topic": "t", "channel": "c", "id": "0" * 16}
    assert (line["result"] == "ok") == (answer.status == 200)


async def test_nothing_else_is_recorded(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        daemon = make_daemon(trail)
        daemon.make("t", "c")
        async with serving(daemon) as client:
            for method, path in ROUTES:
                if (method, path) not in RECORDED and path != "/debug/pprof/profile":
                    await client.ask(method, f"{path.replace(':opt', 'id')}?topic=t&channel=c", b"x")
    assert lines_in(tmp_path / "audit") == []


async def test_what_was_there_before_and_is_there_after(tmp_path: Path) -> None:
    requests: list[tuple[str, str, Any, Any]] = [
        ("POST", "/topic/create?topic=new", None, {"created": True}),
        ("POST", "/topic/create?topic=t", None, {"created": False}),
        ("POST", "/channel/create?topic=t&channel=c2", None, {"created": True}),
        ("POST", "/topic/pause?topic=t", {"paused": False}, {"paused": True}),
        ("POST", "/topic/unpause?topic=t", {"paused": True}, {"paused": False}),
        ("POST", "/channel/pause?topic=t&channel=c", {"paused": False}, {"paused": True}),
        ("POST", "/channel/pause?topic=t&channel=c", {"paused": True}, {"paused": True}),
        ("POST", "/channel/empty?topic=t&channel=c", {"depth": 3}, None),
        ("POST", "/channel/delete?topic=t&channel=c", {"depth": 0}, None),
        ("POST", "/topic/empty?topic=u", {"depth": 2}, None),
        ("POST", "/topic/delete?topic=t", {"depth": 0, "channels": ["c2"]}, None),
        ("POST", "/drain", {"draining": False}, {"draining": True}),
        ("POST", "/drain/cancel", {"draining": True}, {"draining": False}),
        ("PUT", "/config/log_level", {"log_level": "2"}, {"log_level": "1"}),
    ]
    with trail_in(tmp_path) as trail:
        daemon = make_daemon(trail)
        daemon.make("t", "c")
        daemon.put("t", b"1", b"2", b"3")
        daemon.put("u", b"1", b"2")
        async with serving(daemon) as client:
            for method, target, _, _ in requests:
                assert (await client.ask(method, target, b"debug")).status == 200, target
    lines = lines_in(tmp_path / "audit")
    assert [(line.get("before"), line.get("after")) for line in lines] == [each[2:] for each in requests]


async def test_where_a_channel_was_and_where_it_goes_on(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        daemon = make_daemon(trail)
        daemon.make("t", "c")
        daemon.put("t", b"1", b"2", b"3")
        async with serving(daemon) as client:
            for target in (
                "/channel/seek?topic=t&channel=c&to=end",
                "/channel/create?topic=t&channel=d&from=start",
            ):
                assert (await client.post(target)).status == 200, target
    first, second = lines_in(tmp_path / "audit")
    assert first["on"] == {"topic": "t", "channel": "c", "to": "end"}
    assert (first["before"], first["after"].keys()) == ({"depth": 3}, {"seq"})
    assert second["on"] == {"topic": "t", "channel": "d", "from": "start"}


async def test_limits_before_and_after(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        daemon = make_daemon(trail)
        daemon.make("t", "c")
        async with serving(daemon) as client:
            for settings in ({"max_depth": 5, "retain": ["24h", "1MB"]}, {"max_depth": None}):
                body = json.dumps(settings).encode()
                assert (await client.post("/topic/limits?topic=t", body)).status == 200
    first, second = lines_in(tmp_path / "audit")
    assert "before" not in first
    assert first["after"] == second["before"] == {"max_depth": 5, "retain": ["24h0m0s", "1000000B"]}
    assert second["after"] == {"retain": ["24h0m0s", "1000000B"]}


async def test_addresses_in_the_configuration_are_shown_without_secrets(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        daemon = make_daemon(trail)
        daemon.options.nsqlookupd_tcp_addresses = ["http://joe:hunter2@a:4160"]
        async with serving(daemon) as client:
            body = json.dumps(["http://joe:hunter3@b:4160", "c:4160"]).encode()
            assert (await client.put("/config/nsqlookupd_tcp_addresses", body)).status == 200
    [line] = lines_in(tmp_path / "audit")
    assert line["before"] == {"nsqlookupd_tcp_addresses": ["http://a:4160"]}
    assert line["after"] == {"nsqlookupd_tcp_addresses": ["http://b:4160", "c:4160"]}


async def test_a_plain_port_that_is_closed_refuses(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        daemon = FakeDaemon(tls_required=TlsRequired.YES)
        daemon.audit = trail
        async with serving(daemon) as client:
            assert (await client.get("/stats")).status == 403
    [line] = lines_in(tmp_path / "audit")
    assert (line["what"], line["error"], line["result"]) == ("GET /stats", "TLS_REQUIRED", "refused")


async def test_a_trail_that_fails_is_in_the_health_but_stops_nothing(tmp_path: Path) -> None:
    class Failing(AuditTrail):
        failing = "No space left on device"

    daemon = make_daemon(Failing())
    said = "OK - audit file cannot be written: No space left on device"
    async with serving(daemon) as client:
        ping = await client.get("/ping")
        assert (ping.status, ping.text) == (200, said)
        assert "\nnsqd_audit_failing 1\n" in (await client.get("/metrics")).text
        # What is worse comes first.
        daemon.broker.copies_missing = "1 of 2 copies"
        assert (await collect(daemon, StatsQuery())).health == said
        daemon.broker.store.space.full = "no space left on device"
        assert (await client.get("/ping")).text == "NOK - no space left on device"


# --- the TCP protocol


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_refused_command_is_recorded(tmp_path: Path, name: str, credentials: Credentials) -> None:
    expected = []
    with trail_in(tmp_path) as trail:
        for who in credentials.secrets:
            machine = ClosedMachine(credentials)
            machine.context.trail = trail
            client = await machine.client_of(who)
            if client.closed:
                expected.append("AUTH")
                continue
            client.send(COMMAND_BYTES[name])
            await machine.answer()
            if who not in MAY[COMMANDS[name]]:
                expected.append(name)
            elif name == "AUTH" and who == "nobody":
                expected.append("AUTH")  # with what is no token
    # All within a second or so, so that some are only counted.
    lines = lines_in(tmp_path / "audit")
    assert sum(line.get("count", 1) for line in lines) == len(expected)
    assert {line["what"] for line in lines} - {"others"} <= set(expected)
    assert all(line["result"] == "refused" for line in lines)
    assert not any(
        secret and secret in (tmp_path / "audit").read_text() for secret in credentials.secrets.values()
    )


@pytest.mark.parametrize(
    ("who", "command", "expected"),
    [
        ("nobody", "PUB", ("", "anonymous", "E_AUTH_FIRST", {"topic": TOPIC})),
        ("nobody", "SUB", ("", "anonymous", "E_AUTH_FIRST", {"topic": TOPIC, "channel": CHANNEL})),
        ("consumer", "MPUB", ("consumer", "token", "E_UNAUTHORIZED", {"topic": TOPIC})),
        ("publisher", "SUB", ("publisher", "token", "E_UNAUTHORIZED", {"topic": TOPIC, "channel": CHANNEL})),
    ],
)
async def test_a_refused_command(
    tmp_path: Path, who: str, command: str, expected: tuple[Any, ...], credentials: Credentials
) -> None:
    with trail_in(tmp_path) as trail:
        machine = ClosedMachine(credentials)
        machine.context.trail = trail
        client = await machine.client_of(who)
        client.send(COMMAND_BYTES[command])
    [line] = lines_in(tmp_path / "audit")
    assert (line.get("who", ""), line["means"], line["error"], line["on"]) == expected
    assert line["from"] == client.session.remote


async def test_a_secret_of_auth_is_never_in_it(tmp_path: Path, credentials: Credentials) -> None:
    with trail_in(tmp_path) as trail:
        machine = ClosedMachine(credentials)
        machine.context.trail = trail
        for who in sorted(STRANGERS - {"nobody"}):
            await machine.client_of(who)
        client = machine.client()
        client.send(identify(client_id="hunter2", user_agent="hunter2") + b"AUTH\n" + sized(b"hunter2"))
        await machine.answer()
        machine.client().send(b"AUTH\n" + sized(b"hunter2" * 3000))
    lines = lines_in(tmp_path / "audit")
    assert sum(line.get("count", 1) for line in lines) == 5
    assert {(line["what"], line["error"]) for line in lines} == {("AUTH", "E_AUTH_FAILED")}
    assert "hunter2" not in (tmp_path / "audit").read_text()


async def test_a_revoked_token_ends_its_connections_with_a_line(
    tmp_path: Path, credentials: Credentials
) -> None:
    with trail_in(tmp_path) as trail:
        machine = ClosedMachine(credentials)
        machine.context.trail = trail
        client = await machine.client_of("publisher")
        client.session.check_token(lambda _: False)
    [line] = lines_in(tmp_path / "audit")
    assert (line["who"], line["means"], line["what"], line["error"]) == (
        "publisher",
        "token",
        "AUTH",
        "E_UNAUTHORIZED",
    )


async def test_what_is_allowed_or_merely_wrong_is_not_recorded(
    tmp_path: Path, credentials: Credentials
) -> None:
    with trail_in(tmp_path) as trail:
        machine = ClosedMachine(credentials, NOTHING)
        machine.context.trail = trail
        client = await machine.client_of("publisher")
        client.send(COMMAND_BYTES["PUB"] + COMMAND_BYTES["NOP"] + b"NONSENSE\n")
        assert client.closed
    assert lines_in(tmp_path / "audit") == []
