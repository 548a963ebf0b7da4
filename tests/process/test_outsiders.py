"""What somebody learns and can change who reaches every port of a closed cluster: exactly what is written here.

Outsiders have no token, one that nobody has made, one that has expired, or one for another topic. They try every
route and every command of all daemons, with TLS and without. No answer names a topic, a channel, a node, a user or a
version, and afterwards everything is as it was.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from typing import Final

import attrs
import pytest

from nsqadmin import access as admin_access
from nsqd import access as nsqd_access
from nsqkit import wire
from nsqkit.access import Need
from nsqkit.version import VERSION
from nsqlookupd import access as lookupd_access
from tests.nsqadmin.admin import AdminDaemon
from tests.process.closed import Closed
from tests.process.copies import in_step
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import Announcer, LookupDaemon
from tests.process.ports import free_port
from tests.process.raw import Disconnected, ErrorFrame, RawClient, dpub_command, mpub_command, pub_command
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL, OTHER = "classified", "papers", "others"
"""What is there, and for what one of the outsiders has a token."""
HEADERS: Final = {
    *("allow", "cache-control", "connection", "content-length", "content-type", "date", "www-authenticate"),
    "x-nsq-content-type",  # the version of the API, which is 1.0
    *(
        "content-security-policy",
        "referrer-policy",
        "x-content-type-options",
        "x-frame-options",
    ),  # of the console
    *("location", "set-cookie"),
}
"""Of all answers: no Server, and none of a program's version."""


@attrs.frozen
class Target:
    """A closed cluster: everything that listens."""

    closed: Closed
    registry: LookupDaemon
    nsqd: Daemon
    follower: Daemon
    replication_port: int
    console: AdminDaemon
    tokens: Mapping[str, str]
    """Of the outsiders, by what is wrong with them."""

    @property
    def secrets(self) -> list[str]:
        """What no answer may contain."""
        return [
            TOPIC,
            CHANNEL,
            VERSION,
            socket.gethostname(),
            str(self.closed.folder),
            "ann",
            *self.tokens.values(),
        ]

    def state(self) -> object:
        """What outsiders could have changed."""
        topics = [
            (
                topic["topic_name"],
                topic["paused"],
                topic["message_count"],
                channel["paused"],
                channel["depth"],
            )
            for nsqd in (self.nsqd, self.follower)
            for topic in nsqd.stats()["topics"]
            for channel in topic["channels"]
        ]
        nodes = sorted(str(sorted(node.items())) for node in self.registry.nodes())
        options = [
            self.nsqd.request("GET", f"/config/{name}") for name in ("log_level", "nsqlookupd_tcp_addresses")
        ]
        drains = [nsqd.stats().get("drain") for nsqd in (self.nsqd, self.follower)]
        tokens = (self.closed.folder / "tokens").read_bytes()
        return topics, nodes, options, drains, tokens, self.registry.topics(), self.registry.channels(TOPIC)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    path = tmp_path_factory.mktemp("outsiders")
    closed = Closed.in_folder(path)
    tokens = {
        "nothing": "",
        "unknown": "nsq_" + "A" * 43,
        "expired": closed.new_token("expired", "admin", seconds=-1.0),
        "of another topic": closed.new_token("narrow", f"publish:{OTHER}", f"consume:{OTHER}/*"),
    }
    (path / "nsqd").mkdir()
    (path / "follower").mkdir()
    port = free_port()
    with LookupDaemon(flags=[f"--broadcast-address={HOST}"], closed=closed) as registry:
        named = [
            f"--broadcast-address={HOST}",
            f"--lookupd-tcp-address={registry.tcp_address}",
            "--topology-zone=vault",
        ]
        follower = Daemon(path / "follower", [*named, f"--replication-address={HOST}:{port}"], closed=closed)
        nsqd = Daemon(path / "nsqd", [*named, f"--replicate-to={HOST}:{port}"], closed=closed)
        console = AdminDaemon(flags=[f"--lookupd-http-address={HOST}:{registry.http_port}"], closed=closed)
        with follower, nsqd, console:
            for daemon in (registry, follower, nsqd, console):
                daemon.start()
            nsqd.create_channel(TOPIC, CHANNEL)
            assert nsqd.request("POST", f"/pub?topic={TOPIC}", b"1")[0] == 200
            wait_until(lambda: in_step(nsqd), 10.0, "the copy is in step", describe=nsqd.log_end)
            wait_until(lambda: registry.channels(TOPIC) == [CHANNEL], 10.0, "it is registered")
            wait_until(lambda: nsqd.channel_stats(TOPIC, CHANNEL)["depth"] == 1, 10.0, "the message is there")
            yield Target(closed, registry, nsqd, follower, port, console, tokens)


def ask(
    context: ssl.SSLContext | None, port: int, requests: list[tuple[str, str]], token: str = ""
) -> dict[tuple[str, str], tuple[int, bytes]]:
    """What each request is answered, in the order in which they are sent; without a context over plain HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if context is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=patience(10))
    else:
        connection = http.client.HTTPSConnection(HOST, port, timeout=patience(10), context=context)
    answers = {}
    try:
        for method, path in requests:
            connection.request(method, path, b"1" if method in ("POST", "PUT") else None, headers)
            response = connection.getresponse()
            answers[method, path] = response.status, response.read()
            assert {name.lower() for name, _ in response.getheaders()} <= HEADERS
    finally:
        connection.close()
    return answers


def said(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"message": message}, separators=(",", ":")).encode()


REFUSALS: Final = {
    "nothing": said(401, "TOKEN_REQUIRED"),
    "unknown": said(401, "TOKEN_INVALID"),
    "expired": said(401, "TOKEN_EXPIRED"),
}
MISSING: Final = {Need.CONSUME_ALL: "CONSUME", Need.FIND: "READ"}
"""The scope that is named where it is not that of the same name."""


@pytest.mark.parametrize("who", ["nothing", "unknown", "expired", "of another topic"])
@pytest.mark.parametrize("program", ["nsqd", "nsqlookupd"])
def test_over_https_outsiders_learn_only_what_they_lack(target: Target, program: str, who: str) -> None:
    """Each route, with the topic's right name."""
    routes, daemon = {
        "nsqd": (nsqd_access.ROUTES, target.nsqd),
        "nsqlookupd": (lookupd_access.ROUTES, target.registry),
    }[program]
    before = target.state()
    targets = {
        (method, f"{path.replace(':opt', 'log_level')}?topic={TOPIC}&channel={CHANNEL}"): need
        for (method, path), need in routes.items()
    }
    answers = ask(target.closed.context, daemon.https_port, list(targets), target.tokens[who])
    for route, need in targets.items():
        missing = said(403, f"SCOPE_REQUIRED_{MISSING.get(need, need.name)}")
        expected = (200, b"OK") if need is Need.OPEN else REFUSALS.get(who, missing)
        assert answers[route] == expected, route
    assert target.state() == before


def test_over_plain_http_there_is_nothing_but_the_port_with_tls(target: Target) -> None:
    for routes, daemon in ((nsqd_access.ROUTES, target.nsqd), (lookupd_access.ROUTES, target.registry)):
        answers = ask(None, daemon.http_port, [*routes, ("GET", "/nothing")])
        elsewhere = b'{"message": "TLS_REQUIRED", "https_port": %d}' % daemon.https_port
        assert set(answers.values()) == {(403, elsewhere)}


def test_names_of_routes_are_no_secret(target: Target) -> None:
    """They are in the documentation: what there is not is said to be missing, to everybody in the same way."""
    for daemon in (target.nsqd, target.registry):
        for token in target.tokens.values():
            answers = ask(
                target.closed.context, daemon.https_port, [("GET", "/nothing"), ("DELETE", "/pub")], token
            )
            assert {status for status, _ in answers.values()} <= {404, 405}


OPEN_OF_CONSOLE: Final = {
    ("GET", "/ping"): 200,
    ("GET", "/static/classified"): 404,
    ("GET", "/fonts/classified"): 404,
    ("GET", "/login"): 200,
    ("POST", "/login"): 403,  # not a form of the console's own page
    ("POST", "/logout"): 303,
}
"""Requests that need no role, and the status of their answers."""


def test_the_console_shows_outsiders_a_form_to_log_in(target: Target) -> None:
    """Pages lead to it, the API says that it is needed; what is open to all says nothing of the cluster."""
    values = {
        ":topic": TOPIC,
        ":channel": CHANNEL,
        ":asset": TOPIC,
        ":opt": "log_level",
        ":id": "0123456789abcdef",
    }
    values[":node"] = f"{HOST}:{target.nsqd.http_port}"
    routes = set()
    for method, path in admin_access.ROUTES.keys() - {
        ("GET", "/render")
    }:  # which is there with --proxy-graphite only
        for name, value in values.items():
            path = path.replace(name, value)
        routes.add((method, path))
    closed_routes = sorted(routes - OPEN_OF_CONSOLE.keys())
    before = target.state()
    answers = ask(target.closed.context, target.console.http_port, list(OPEN_OF_CONSOLE))
    assert {route: status for route, (status, _) in answers.items()} == OPEN_OF_CONSOLE
    texts = [body.decode("latin-1") for _, body in answers.values()]
    assert [secret for secret in target.secrets if secret and any(secret in text for text in texts)] == []
    answers = ask(target.closed.context, target.console.http_port, closed_routes)
    assert set(answers.values()) == {(303, b""), said(401, "LOGIN_REQUIRED")}
    assert {
        path for (_, path), (status, _) in answers.items() if status == 303 and path.startswith("/api")
    } == set()
    for token in filter(None, target.tokens.values()):
        answers = ask(target.closed.context, target.console.http_port, closed_routes, token)
        assert set(answers.values()) == {said(401, "LOGIN_REQUIRED")}
    assert target.state() == before


# The protocols of nsqd and nsqlookupd.

IDENTIFIED: Final = {
    "auth_required": True,
    "deflate": False,
    "deflate_level": 6,
    "max_deflate_level": 6,
    "max_msg_timeout": 900_000,
    "max_rdy_count": 2500,
    "msg_timeout": 60_000,
    "output_buffer_size": 16_384,
    "output_buffer_timeout": 250,
    "sample_rate": 0,
    "snappy": False,
    "tls_v1": True,
    "topology_region": "",
    "topology_zone": "",
    "version": "",
}
"""What everybody is told before AUTH, with --hide-version: limits, as clients need them."""
COMMANDS: Final = {
    b"PUB": pub_command(TOPIC, b"1"),
    b"MPUB": mpub_command(TOPIC, [b"1", b"2"]),
    b"DPUB": dpub_command(TOPIC, 1000, b"1"),
    b"SUB": f"SUB {TOPIC} {CHANNEL}\n".encode(),
    b"RDY": b"RDY 1\n",
    b"FIN": b"FIN 0123456789abcdef\n",
    b"REQ": b"REQ 0123456789abcdef 0\n",
    b"TOUCH": b"TOUCH 0123456789abcdef\n",
    b"CLS": b"CLS\n",
}


def refusal(client: RawClient, command: bytes) -> str:
    """The error that a command is answered, which also ends the connection."""
    with pytest.raises(ErrorFrame) as error:
        client.ask(command)
    with pytest.raises(Disconnected):
        client.response()
    return error.value.text


def with_tls(target: Target) -> RawClient:
    client = RawClient.connect(target.nsqd.tcp_port)
    try:
        assert client.identify(feature_negotiation=True, tls_v1=True) == IDENTIFIED
        client.start_tls(target.closed.context)
    except BaseException:
        client.close()
        raise
    return client


def test_every_command_of_nsqd_is_tried() -> None:
    assert COMMANDS.keys() | {b"IDENTIFY", b"AUTH", b"NOP"} == wire.COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_client_of_nsqd_without_a_token_is_told_to_show_one(target: Target, command: bytes) -> None:
    before = target.state()
    with RawClient.connect(target.nsqd.tcp_port) as client:
        name = command.decode()
        assert (
            refusal(client, COMMANDS[command]) == f"E_INVALID cannot {name} in current state (TLS required)"
        )
    with with_tls(target) as client:
        told = refusal(client, COMMANDS[command])
        assert told == f"E_AUTH_FIRST AUTH required before {name}" or told.startswith("E_INVALID"), told
    with with_tls(target) as client:
        client.auth(target.tokens["of another topic"])
        told = refusal(client, COMMANDS[command])
        assert told.startswith((f'E_UNAUTHORIZED AUTH failed for {name} on "{TOPIC}"', "E_INVALID")), told
    assert target.state() == before


def test_a_client_of_nsqd_with_a_token_that_is_not_valid_is_not_told_why(target: Target) -> None:
    for who in ("unknown", "expired"):
        with with_tls(target) as client, pytest.raises(ErrorFrame) as error:
            client.auth(target.tokens[who])
        assert error.value.text == "E_AUTH_FAILED AUTH failed"
    with with_tls(target) as client:
        answer = client.auth(target.tokens["of another topic"])
        assert answer == {"identity": "narrow", "identity_url": "", "permission_count": 2}


def body_of(command: str, token: str) -> bytes:
    fields = {"broadcast_address": "evil", "tcp_port": 1, "http_port": 2, "version": "1", "token": token}
    body = json.dumps(fields).encode()
    return f"{command}\n".encode() + struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("who", ["nothing", "unknown", "expired", "of another topic"])
def test_a_node_without_a_valid_token_cannot_register(target: Target, who: str) -> None:
    before = target.state()
    for command in lookupd_access.COMMANDS:
        with Announcer.connect(target.registry.tcp_port) as plain:
            plain.send(f"{command} {TOPIC}\n".encode())
            assert plain.read() == b"E_INVALID TLS required (--lookupd-tls)"
        with secure_announcer(target) as announcer:
            sent = (
                body_of(command, target.tokens[who])
                if command == "IDENTIFY"
                else f"{command} {TOPIC}\n".encode()
            )
            knows_token = (
                command == "IDENTIFY" and who == "of another topic"
            )  # which is called so by its owner
            lacks = (
                "the scope operate, which narrow lacks"
                if knows_token
                else "a valid token (--access-token-file)"
            )
            expected = "OK" if command == "PING" else f"E_UNAUTHORIZED {command} needs {lacks}"
            assert announcer.ask(sent).decode() == expected
    assert target.state() == before


def secure_announcer(target: Target) -> Announcer:
    plain = socket.create_connection((HOST, target.registry.tcp_port), patience(5))
    announcer = Announcer(target.closed.context.wrap_socket(plain, server_hostname=HOST))
    announcer.send(b"  V1")
    return announcer


# The port of copies.

LEADER: Final = b"nsqr"
"""What a leader sends first, and is answered first."""


def test_the_port_of_copies_says_nothing(target: Target) -> None:
    """Neither without TLS nor to those without a certificate, or with one of another authority."""
    before = target.state()
    certificates = target.closed.certificates
    stranger = certificates.client_context(certificates.unknown_client)
    with socket.create_connection((HOST, target.replication_port), patience(5)) as plain:
        assert not answer_to_leader(plain).startswith(LEADER)
    for context in (target.closed.context, stranger):
        with socket.create_connection((HOST, target.replication_port), patience(5)) as plain:
            secure = context.wrap_socket(plain, server_hostname=HOST)
            with secure:
                assert answer_to_leader(secure) == b""
    assert target.state() == before


def answer_to_leader(sock: socket.socket) -> bytes:
    """All that comes until the connection is closed or reset, after what a leader begins with."""
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        sock.sendall(LEADER + bytes(40))
        while piece := sock.recv(65536):
            data += piece
    return data
