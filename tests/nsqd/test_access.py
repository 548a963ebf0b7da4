"""Every route and every command of nsqd, asked for by everybody: who is refused, and that nothing happens then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nsqd.access import COMMANDS, ROUTES
from nsqd.auth import AuthClient, AuthFailed, Authorizer
from nsqd.http import make_router
from nsqd.options import NsqdOptions
from nsqkit import wire
from nsqkit.access import NOTHING, Need, Scopes
from nsqkit.http_client import HttpClient, HttpOptions
from nsqkit.service.http import Router
from tests.nsqd.http.fake_daemon import FakeDaemon, serving
from tests.nsqd.protocol_v2.harness import Client, Machine, dpub, identify, mpub, pub, sized, sub
from tests.nsqkit.access.credentials import (
    CHANNEL,
    MAY,
    STRANGERS,
    TOPIC,
    Credentials,
    make_credentials,
)
from tests.nsqkit.access.walk import assert_needs, refusal_of

COMMAND_BYTES = {
    "IDENTIFY": identify(client_id="c"),
    "AUTH": b"AUTH\n" + sized(b"not a token"),
    "NOP": b"NOP\n",
    "PUB": pub(b"1", TOPIC),
    "MPUB": mpub(b"1", b"2", topic=TOPIC),
    "DPUB": dpub(b"1", 0, TOPIC),
    "SUB": sub(CHANNEL, TOPIC),
    "RDY": b"RDY 1\n",
    "FIN": b"FIN 0123456789abcdef\n",
    "REQ": b"REQ 0123456789abcdef 0\n",
    "TOUCH": b"TOUCH 0123456789abcdef\n",
    "CLS": b"CLS\n",
}
REFUSED = (b"E_AUTH_FIRST", b"E_UNAUTHORIZED")


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("access"))


@pytest.fixture(scope="module")
def router(credentials: Credentials) -> Router:
    daemon = FakeDaemon()
    daemon.access = credentials.access
    return make_router(daemon)


def test_the_table_has_every_route_and_no_other(router: Router) -> None:
    assert set(router.routes()) == ROUTES.keys()


def test_what_a_stranger_may_do() -> None:
    """Said once more: an entry of the table that is open by mistake would be walked as one that is meant to be."""
    assert [route for route, need in ROUTES.items() if need is Need.OPEN] == [("GET", "/ping")]
    talk, answers = {"IDENTIFY", "AUTH", "NOP"}, {"RDY", "FIN", "REQ", "TOUCH", "CLS"}
    assert {name for name, need in COMMANDS.items() if need is Need.OPEN} == talk | answers
    before_sub = wire.State.INIT
    assert not any(before_sub in wire.COMMANDS[name.encode()].states for name in answers)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_is_for_those_who_have_its_scope(
    router: Router, credentials: Credentials, method: str, path: str
) -> None:
    assert_needs(router, method, path, credentials, ROUTES[method, path])


def test_by_default_every_route_is_open_to_all(tmp_path: Path) -> None:
    router = make_router(FakeDaemon())
    for method, path in router.routes():
        assert refusal_of(router, method, path) is None
        assert refusal_of(router, method, path, "Authorization: Basic eDp5\r\n") is None


@pytest.mark.parametrize("need", Need)
def test_a_route_is_open_to_all_if_its_scope_is(need: Need, tmp_path: Path) -> None:
    words = {Need.OPEN: [], Need.FIND: ["read"], Need.CONSUME_ALL: ["consume"]}.get(need, [need.value])
    daemon = FakeDaemon()
    daemon.access = make_credentials(tmp_path, Scopes.parse(words)).access
    router = make_router(daemon)
    for (method, path), needed in ROUTES.items():
        if needed is need:
            assert refusal_of(router, method, path) is None


async def test_a_request_is_refused_before_its_body_is_read_and_its_handler_is_called(
    credentials: Credentials,
) -> None:
    daemon = FakeDaemon()
    daemon.access = credentials.access
    async with serving(daemon) as client:
        head = "POST /pub?topic=orders HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 900000\r\n\r\n"
        answer = await client.send(head.encode())
    assert (answer.status, answer.json) == (401, {"message": "TOKEN_REQUIRED"})
    assert not daemon.broker.topics


async def test_a_ping_of_strangers_is_not_told_what_is_wrong(credentials: Credentials) -> None:
    daemon = FakeDaemon()
    daemon.broker.copies_missing = "no copies of topic secret"
    async with serving(daemon) as client:
        assert (await client.get("/ping")).text == "OK - no copies of topic secret"
        daemon.access = credentials.access
        assert (await client.get("/ping")).text == "OK"


def test_no_page_of_another_site_can_change_anything() -> None:
    """Also where everybody may do everything."""
    router = make_router(FakeDaemon())
    for method, path in router.routes():
        refusal = refusal_of(
            router, method, path, "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
        )
        assert (refusal is None) == (method == "GET"), path
        assert refusal is None or refusal.status == 403


# --- the TCP protocol


class ClosedMachine(Machine):
    """A daemon that looks tokens up, as the real one does."""

    def __init__(self, credentials: Credentials, anonymous: Scopes = NOTHING) -> None:
        self.asked: list[AuthClient] = []
        super().__init__(ask=self.asked.append, anonymous=anonymous)
        self.credentials = credentials
        self.authorizer = Authorizer(NsqdOptions(), HttpClient(HttpOptions()), credentials.access)

    async def client_of(self, who: str) -> Client:
        """A client that has sent AUTH, if it has anything to send."""
        client = self.client()
        if secret := self.credentials.secrets[who]:
            client.send(b"AUTH\n" + sized(secret.encode()))
            await self.answer()
        return client

    async def answer(self) -> None:
        for session in self.asked:
            try:
                state = await self.authorizer.query(session.auth_request())
            except AuthFailed:
                state = None
            self.rounds.begin()
            session.authorized(state)
            self.settle()
        self.asked.clear()


def errors(client: Client) -> Iterator[bytes]:
    for frame in client.answers():
        if frame[4:8] == b"\0\0\0\1":
            yield frame[8:]


def test_the_table_has_every_command_and_no_other() -> None:
    assert {name.decode() for name in wire.COMMANDS} == COMMANDS.keys() == COMMAND_BYTES.keys()


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_is_for_those_who_have_its_scope(name: str, credentials: Credentials) -> None:
    for who in credentials.secrets:
        machine = ClosedMachine(credentials)
        client = await machine.client_of(who)
        if client.closed:
            assert who in STRANGERS or who in (
                "reader",
                "operator",
            )  # which is what their AUTH was refused for
            continue
        client.answers()
        client.send(COMMAND_BYTES[name])
        await machine.answer()
        refused = any(error.startswith(REFUSED) for error in errors(client))
        assert refused == (who not in MAY[COMMANDS[name]]), who
        if refused:
            assert client.closed
            assert not machine.broker.topics


@pytest.mark.parametrize("who", sorted(STRANGERS - {"nobody"}))
async def test_auth_with_a_token_that_is_not_valid(who: str, credentials: Credentials) -> None:
    client = await ClosedMachine(credentials).client_of(who)
    assert list(errors(client)) == [b"E_AUTH_FAILED AUTH failed"]
    assert client.closed


@pytest.mark.parametrize("who", ["reader", "operator"])
async def test_auth_with_a_token_that_neither_publishes_nor_consumes(
    who: str, credentials: Credentials
) -> None:
    client = await ClosedMachine(credentials).client_of(who)
    assert list(errors(client)) == [b"E_UNAUTHORIZED AUTH no authorizations found"]


@pytest.mark.parametrize(
    ("anonymous", "required"),
    [
        (["publish", "consume"], False),
        (["admin"], False),
        (["publish"], True),
        (["consume", "publish:a*"], True),
        (["read", "operate"], True),
        ([], True),
    ],
)
def test_identify_says_that_auth_is_required_if_anything_needs_it(
    anonymous: list[str], required: bool, credentials: Credentials
) -> None:
    client = ClosedMachine(credentials, Scopes.parse(anonymous)).client()
    client.send(identify(feature_negotiation=True))
    assert client.json()["auth_required"] is required


async def test_what_is_open_to_all_needs_no_auth(credentials: Credentials) -> None:
    machine = ClosedMachine(credentials, Scopes.parse(["publish:orders"]))
    anybody = machine.client().send(COMMAND_BYTES["PUB"])
    assert not list(errors(anybody))
    anybody.send(b"PUB orders\n" + sized(b"x" * 100_000))
    assert not list(errors(anybody))
    anybody.send(COMMAND_BYTES["SUB"])
    assert list(errors(anybody)) == [b"E_AUTH_FIRST AUTH required before SUB"]
    # A token takes nothing away of it.
    consumer = await machine.client_of("consumer")
    consumer.send(COMMAND_BYTES["MPUB"])
    consumer.send(COMMAND_BYTES["SUB"])
    assert not list(errors(consumer))


async def test_a_session_ends_when_its_token_is_not_valid_any_more(credentials: Credentials) -> None:
    machine = ClosedMachine(credentials)
    publisher, consumer = await machine.client_of("publisher"), await machine.client_of("consumer")
    consumer.send(COMMAND_BYTES["SUB"] + COMMAND_BYTES["RDY"])
    consumer.answers()
    publisher.answers()
    for client in (publisher, consumer):
        client.session.check_token(lambda token: token.name == "publisher")
        machine.settle()
    assert list(errors(consumer)) == [b"E_UNAUTHORIZED AUTH token consumer is revoked or has expired"]
    assert consumer.closed
    publisher.send(COMMAND_BYTES["PUB"])
    assert not list(errors(publisher))
    assert not consumer.session.outbox.size, "messages go to nobody whose token was revoked"


async def test_topics_that_need_no_further_check_are_remembered_within_bounds(
    credentials: Credentials,
) -> None:
    admin = await ClosedMachine(credentials).client_of("admin")
    for number in range(250):
        admin.send(pub(b"1", f"t{number % 120}"))
    assert not list(errors(admin))
    assert 0 < len(admin.session.authorization.publishes) <= 100
