"""Every route of nsqlookupd that changes something, and every refused command: they are in the audit trail."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsqkit.access import Need
from nsqkit.audit import AuditTrail
from nsqkit.service.http import Guard, Router
from nsqlookupd.access import COMMANDS, ROUTES
from nsqlookupd.http import Watches, make_router
from nsqlookupd.protocol_v1 import MAGIC_V1, Context, Session
from nsqlookupd.registry import Registry
from nsqlookupd.traffic import Traffic
from nsqlookupd.witness import Witness
from tests.nsqkit.access.credentials import MAY, STRANGERS, Credentials, make_credentials
from tests.nsqkit.audit.reading import lines_in, trail_in
from tests.nsqkit.service.http.http_peer import get, serving
from tests.nsqlookupd.peer import identify as identify_with
from tests.nsqlookupd.test_access import LINES, identify
from tests.nsqlookupd.test_protocol_v1 import FOLLOWER, FOLLOWERS, LEADER, MEMBER, with_body

RECORDED = sorted((method, path) for method, path in ROUTES if method != "GET")


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path)


def router_with(trail: AuditTrail, registry: Registry | None = None) -> Router:
    registry = registry or Registry()
    guard = Guard(ROUTES, trail=trail)
    return make_router(registry, lambda: 0.0, Traffic(), Watches(registry, 1), Witness(), guard)


def test_the_routes_that_are_recorded() -> None:
    assert {path for _, path in RECORDED} == {
        *("/topic/create", "/topic/delete", "/topic/tombstone", "/channel/create", "/channel/delete"),
        *("/replicas/forget", "/debug/pprof/symbol"),
    }


@pytest.mark.parametrize(("method", "path"), RECORDED)
async def test_every_change_is_recorded(tmp_path: Path, method: str, path: str) -> None:
    with trail_in(tmp_path) as trail:
        async with serving(router_with(trail)) as it:
            client = await it.connect()
            answer = await client.ask(get(f"{path}?topic=t&channel=c&node=n:4151&life=1", method))
    [line] = lines_in(tmp_path / "audit")
    assert (line["what"], line["status"]) == (f"{method} {path}", answer.status)
    assert line["on"] == {"topic": "t", "channel": "c", "node": "n:4151", "life": "1"}


async def test_looks_are_not_recorded(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        async with serving(router_with(trail)) as it:
            client = await it.connect()
            for method, path in ROUTES:
                if method == "GET" and path != "/debug/pprof/profile":
                    await client.ask(get(f"{path}?topic=t"))
    assert lines_in(tmp_path / "audit") == []


async def test_what_is_lost_with_a_topic(tmp_path: Path) -> None:
    registry = Registry()
    registry.create_channel("t", "c")
    with trail_in(tmp_path) as trail:
        async with serving(router_with(trail, registry)) as it:
            client = await it.connect()
            await client.ask(get("/topic/delete?topic=t", "POST"))
            await client.ask(get("/topic/tombstone?topic=t&node=n:4151", "POST"))
    first, second = lines_in(tmp_path / "audit")
    assert first["before"] == {"channels": ["c"]}
    assert second["after"] == {"hidden": 0}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_refused_command_is_recorded(tmp_path: Path, name: str, credentials: Credentials) -> None:
    expected = 0
    with trail_in(tmp_path) as trail:
        for who, secret in credentials.secrets.items():
            context = Context(registry=Registry(), access=credentials.access, trail=trail)
            first = identify(secret) if name == "IDENTIFY" else b""
            Session(context, "10.0.0.7:5000").feed(b"  V1" + first + LINES[name], 0.0)
            if name == "IDENTIFY":
                expected += who not in MAY[COMMANDS[name]]
            else:
                expected += COMMANDS[name] is not Need.OPEN  # nobody has shown a token
    lines = lines_in(tmp_path / "audit")
    assert sum(line.get("count", 1) for line in lines) == expected
    assert {(line["error"], line["result"]) for line in lines if line["what"] == name} <= {
        ("E_UNAUTHORIZED", "refused")
    }
    written = (tmp_path / "audit").read_text()
    assert not any(secret and secret in written for secret in credentials.secrets.values())


@pytest.mark.parametrize("who", ["reader", *sorted(STRANGERS)])
def test_who_was_refused(tmp_path: Path, who: str, credentials: Credentials) -> None:
    with trail_in(tmp_path) as trail:
        context = Context(registry=Registry(), access=credentials.access, trail=trail)
        Session(context, "10.0.0.7:5000").feed(b"  V1" + identify(credentials.secrets[who]), 0.0)
    [line] = lines_in(tmp_path / "audit")
    known = ("reader", "token") if who == "reader" else ("", "anonymous")
    assert (line.get("who", ""), line["means"], line["what"], line["from"]) == (
        *known,
        "IDENTIFY",
        "10.0.0.7:5000",
    )


def test_who_may_adopt_a_copy_is_recorded(tmp_path: Path) -> None:
    question = with_body(b"GRANT", b'{"life":"%s"}' % LEADER.encode())
    with trail_in(tmp_path) as trail:
        context = Context(registry=Registry(), trail=trail)
        for second in range(-60, 1):
            context.witness.advance(second)
        leader, follower = Session(context, "10.0.0.1:1"), Session(context, "10.0.0.2:1")
        leader.feed(MEMBER + with_body(b"FOLLOWERS", FOLLOWERS), 0.0)
        follower.feed(MAGIC_V1 + identify_with(life=FOLLOWER, broadcast_address="n2"), 0.0)
        for second in range(1, 10):
            context.witness.advance(second)
        leader.end()
        for now in (9.5, 10.0, 10.0):
            follower.feed(question, now)
    refused, granted = lines_in(tmp_path / "audit")
    assert refused["on"] == granted["on"] == {"life": LEADER, "to": "n2:4151"}
    assert (refused["result"], refused["error"]) == ("failed", "heard 9.5 s ago, of 10 s")
    assert (granted["what"], granted["result"], granted["from"]) == ("GRANT", "ok", "10.0.0.2:1")
