"""Every route and every command of nsqlookupd, asked for by everybody: who is refused, and what happens."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from nsqkit.access import NOTHING, Access, Need, Scopes
from nsqkit.service.http import Guard, Router
from nsqlookupd.access import COMMANDS, ROUTES
from nsqlookupd.http import Watches, make_router
from nsqlookupd.protocol_v1 import Context, Session
from nsqlookupd.registry import Registry
from nsqlookupd.traffic import Traffic
from nsqlookupd.witness import Witness
from tests.nsqkit.access.credentials import MAY, STRANGERS, Credentials, make_credentials
from tests.nsqkit.access.walk import assert_needs, refusal_of

PRODUCER = {
    "broadcast_address": "n",
    "hostname": "n",
    "tcp_port": 4150,
    "http_port": 4151,
    "version": "1.4.0",
}
LINES = {
    "PING": b"PING\n",
    "IDENTIFY": b"",  # which comes before all others
    "REGISTER": b"REGISTER orders billing\n",
    "UNREGISTER": b"UNREGISTER orders billing\n",
    # Of the witness, which has rules of its own for those who may.
    "FOLLOWERS": b"FOLLOWERS\n",
    "GRANT": b"GRANT\n",
    "LEAVING": b"LEAVING\n",
    "RELEASE": b"RELEASE\n",
    "STANDING": b"STANDING\n",
}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("access"))


def router_with(access: Access, *, debug: bool = True) -> Router:
    registry = Registry()
    guard = Guard(ROUTES, access)
    return make_router(registry, lambda: 0.0, Traffic(), Watches(registry, 1), Witness(), guard, debug=debug)


def test_the_table_has_every_route_and_no_other() -> None:
    assert set(router_with(Access()).routes()) == ROUTES.keys()


def test_without_debug_endpoints_nothing_else_is_gone() -> None:
    left = set(router_with(Access(), debug=False).routes())
    assert left == {(method, path) for method, path in ROUTES if not path.startswith("/debug")}


def test_what_a_stranger_may_do() -> None:
    """Said once more: an entry of the table that is open by mistake would be walked as one that is meant to be."""
    assert [route for route, need in ROUTES.items() if need is Need.OPEN] == [("GET", "/ping")]
    assert [name for name, need in COMMANDS.items() if need is Need.OPEN] == ["PING"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_is_for_those_who_have_its_scope(credentials: Credentials, method: str, path: str) -> None:
    assert_needs(router_with(credentials.access), method, path, credentials, ROUTES[method, path])


def test_by_default_every_route_is_open_to_all() -> None:
    router = router_with(Access())
    assert [refusal_of(router, *route) for route in router.routes()] == [None] * len(ROUTES)


def test_no_page_of_another_site_can_change_anything() -> None:
    """Also where everybody may do everything."""
    router = router_with(Access())
    for method, path in router.routes():
        refusal = refusal_of(
            router, method, path, "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
        )
        assert (refusal is None) == (method == "GET"), path
        assert refusal is None or refusal.status == 403


# --- the protocol V1


def identify(secret: str = "") -> bytes:
    body = json.dumps({**PRODUCER, "token": secret} if secret else PRODUCER).encode()
    return b"IDENTIFY\n" + struct.pack(">i", len(body)) + body


def session_of(access: Access) -> Session:
    return Session(Context(registry=Registry(), access=access), "10.0.0.7:5000")


def registered(session: Session) -> bool:
    return bool(session._context.registry.topics())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_for_those_who_have_its_scope(name: str, credentials: Credentials) -> None:
    for who, secret in credentials.secrets.items():
        session = session_of(credentials.access)
        first = identify(secret) if name != "PING" else b""
        answer = session.feed(b"  V1" + first + LINES[name], 0.0)
        assert (b"E_UNAUTHORIZED" in answer) == (who not in MAY[COMMANDS[name]]), who
        if b"E_UNAUTHORIZED" in answer:
            assert session.producer is None
            assert not registered(session)


@pytest.mark.parametrize("name", sorted(LINES.keys() - {"PING", "IDENTIFY"}))
def test_without_an_identify_nobody_may(name: str, credentials: Credentials) -> None:
    answer = session_of(credentials.access).feed(b"  V1" + LINES[name], 0.0)
    assert answer[4:] == f"E_UNAUTHORIZED {name} needs a valid token (--access-token-file)".encode()


def test_the_answer_to_a_token_without_the_scope(credentials: Credentials) -> None:
    answer = session_of(credentials.access).feed(b"  V1" + identify(credentials.secrets["reader"]), 0.0)
    assert answer[4:] == b"E_UNAUTHORIZED IDENTIFY needs the scope operate, which reader lacks"


def test_by_default_every_nsqd_may_register_whatever_token_it_sends(credentials: Credentials) -> None:
    for who in STRANGERS:
        session = session_of(Access())
        session.feed(b"  V1" + identify(credentials.secrets[who]) + LINES["REGISTER"], 0.0)
        assert registered(session)


def test_registration_may_be_open_where_reading_is_not(tmp_path: Path) -> None:
    session = session_of(make_credentials(tmp_path, Scopes.parse(["operate"])).access)
    session.feed(b"  V1" + identify() + LINES["REGISTER"], 0.0)
    assert registered(session)


@pytest.mark.parametrize("token", ['"x', '"\\ud800"', "[1]", "1", "null", '"' + "x" * 5000 + '"'])
def test_what_is_no_token_is_none(token: str) -> None:
    body = json.dumps(PRODUCER)[:-1].encode() + f', "token": {token}}}'.encode()
    session = session_of(Access(NOTHING))
    answer = session.feed(b"  V1IDENTIFY\n" + struct.pack(">i", len(body)) + body, 0.0)
    assert answer[4:].startswith(b"E_UNAUTHORIZED IDENTIFY needs a valid token")
