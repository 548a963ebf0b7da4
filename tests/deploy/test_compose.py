"""The project's own docker-compose.yml, brought up by a real engine: what a user gets who types `docker compose up`.

And docker-compose.secure.yml: the same with everything closed.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest

from tests.deploy.engine import ADDRESS, Engine, why_not
from tests.foreign.puppet import Puppet
from tests.process.lookup import Announcer
from tests.process.raw import Disconnected, ErrorFrame, RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900), pytest.mark.xdist_group("hosts")]

SERVICES = ["nsqadmin", "nsqd1", "nsqd2", "nsqd3", "nsqlookupd1", "nsqlookupd2"]
NSQDS = {"nsqd1": 4150, "nsqd2": 4250, "nsqd3": 4350}
"""With their TCP ports; HTTP is the next one."""
LOCALHOST = "127.0.0.1"
SECURE = ("docker-compose.yml", "docker-compose.secure.yml")
HTTPS = {
    "nsqd1": 4152,
    "nsqd2": 4252,
    "nsqd3": 4352,
    "nsqlookupd1": 4162,
    "nsqlookupd2": 4262,
    "nsqadmin": 4171,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with an empty store."""
    if reason := why_not():
        pytest.skip(reason)
    with Engine.started(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def up(engine: Engine) -> Engine:
    """Everything runs, and is healthy."""
    engine.compose("up", "--detach", "--wait")
    return engine


def test_one_command_brings_everything_up(up: Engine) -> None:
    """From nothing: it builds the image, starts everything, and all is healthy."""
    states = {each["Service"]: (each["State"], each["Health"]) for each in containers(up)}
    assert states == dict.fromkeys(SERVICES, ("running", "healthy"))
    assert b"<html" in request(up, LOCALHOST, 4171, "GET", "/").lower()
    for port in (4161, 4261):
        wait_until(lambda: nodes(up, LOCALHOST, port) == NSQDS, 15.0, "all are registered")  # noqa: B023


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_nothing_but_its_work(up: Engine, service: str) -> None:
    assert execute(up, service, "id", "-u") == "10150\n"
    status = dict(line.split(":", 1) for line in execute(up, service, "cat", "/proc/1/status").splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    with pytest.raises(AssertionError, match="Read-only file system"):
        execute(up, service, "touch", "/opt/nsq-trio/probe")


def test_consumers_inside_and_outside_find_every_nsqd(up: Engine, tmp_path: Path) -> None:
    """By the names of the services: outside with one line in /etc/hosts."""
    assert {address.partition(":")[0] for address in listed(up, LOCALHOST, "outside")} == set()
    bodies = publish_to_each(up, LOCALHOST, "outside")
    wait_until(
        lambda: listed(up, LOCALHOST, "outside") == {"nsqd1:4150", "nsqd2:4250", "nsqd3:4350"}, 10.0, "listed"
    )
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(NSQDS)}\n")
    assert consume_outside(up, "outside", [f"{LOCALHOST}:4161", f"{LOCALHOST}:4261"], hosts) == bodies
    bodies = publish_to_each(up, LOCALHOST, "inside")
    assert consume_inside(up, "inside", len(bodies)) == bodies


def test_a_killed_container_comes_back_with_its_messages(up: Engine) -> None:
    bodies = publish_to_each(up, LOCALHOST, "kept")
    pid = up.docker("inspect", "--format={{.State.Pid}}", "nsq-nsqd1-1").strip()
    up.run_inside("sh", "-c", f"kill -KILL {pid}")
    wait_until(
        lambda: up.docker("inspect", "--format={{.RestartCount}}", "nsq-nsqd1-1").strip() == "1",
        20.0,
        "it is started again",
    )
    up.compose("up", "--detach", "--wait")
    assert consume_inside(up, "kept", len(bodies)) == bodies


def test_messages_of_a_lost_volume_are_served_by_the_next_nsqd(up: Engine) -> None:
    """Each copies to the next one; one command, and consumers find what is left of the lost one."""
    wait_until(lambda: all_in_step(up), 20.0, "all copies are in step")
    bodies = publish_to_each(up, LOCALHOST, "lost")
    [life] = [each["life"] for each in held(up, 4251) if each["name"] == "nsqd1:4150"]
    up.compose("kill", "nsqd1")
    up.compose("rm", "--force", "nsqd1")
    up.docker("volume", "rm", "nsq_nsqd1")
    wait_until(lambda: not any(each["connected"] for each in held(up, 4251)), 20.0, "nsqd2 misses nsqd1")
    request(up, LOCALHOST, 4251, "POST", f"/replicas/adopt?life={life}")
    wanted = {"nsqd2:4280", "nsqd2:4250", "nsqd3:4350"}
    wait_until(lambda: listed(up, LOCALHOST, "lost") == wanted, 20.0, "the stand-in is listed")
    assert consume_inside(up, "lost", len(bodies)) == bodies
    up.compose("up", "--detach", "--wait")
    wait_until(lambda: all_in_step(up), 20.0, "the new nsqd1 has a copy, and holds one")


def test_copies_are_for_nsqds_alone(up: Engine) -> None:
    """The secret is readable for the user of nsqd; in the network of the consumers nobody listens for leaders."""
    assert execute(up, "nsqd1", "stat", "--format=%a %u %s", "/run/replication/secret") == "600 10150 65\n"
    connect = "import socket; socket.create_connection(('nsqd1', 4159), 5)"
    with pytest.raises(AssertionError, match="Connection refused"):
        execute(up, "nsqlookupd1", "python", "-c", connect)


def test_a_drained_container_stays_down(up: Engine) -> None:
    """Once its restart policy is off; then it ends empty, and `up` brings it back."""
    bodies = publish_to_each(up, LOCALHOST, "drained")
    up.docker("update", "--restart=no", "nsq-nsqd3-1")
    request(up, LOCALHOST, 4351, "POST", "/drain")
    assert consume_inside(up, "drained", len(bodies)) == bodies

    def has_ended() -> bool:
        state = up.docker("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "nsq-nsqd3-1")
        return state.strip() == "exited 0"

    wait_until(has_ended, 20.0, "it has ended", describe=lambda: up.compose("logs", "--tail=20", "nsqd3"))
    assert nodes(up, LOCALHOST, 4161).keys() == NSQDS.keys() - {"nsqd3"}
    up.compose("up", "--detach", "--wait", "--force-recreate", "nsqd3")


def test_with_an_address_of_the_host_others_reach_everything(up: Engine, tmp_path: Path) -> None:
    """The containers are made anew, on the same messages; consumers anywhere get addresses that are good for them."""
    bodies = publish_to_each(up, LOCALHOST, "moved")
    environment = {"HOST_ADDRESS": ADDRESS}
    up.compose("up", "--detach", "--wait", environment=environment)
    wanted = {f"{ADDRESS}:{port}" for port in NSQDS.values()}
    wait_until(lambda: listed(up, ADDRESS, "moved") == wanted, 15.0, "listed")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    assert consume_outside(up, "moved", [f"{ADDRESS}:4161"], hosts) == bodies
    bodies = publish_to_each(up, ADDRESS, "hairpin")
    assert consume_inside(up, "hairpin", len(bodies)) == bodies
    assert b"<html" in request(up, ADDRESS, 4171, "GET", "/").lower()


def test_down_leaves_the_messages(up: Engine) -> None:
    """And nothing but them: up again, they are there."""
    bodies = publish_to_each(up, LOCALHOST, "left")
    up.compose("down")
    assert containers(up) == []
    volumes = up.docker("volume", "ls", "--quiet").split()
    assert sorted(volumes) == ["nsq_nsqd1", "nsq_nsqd2", "nsq_nsqd3", "nsq_secret"]
    up.compose("up", "--detach", "--wait")
    assert consume_inside(up, "left", len(bodies)) == bodies
    up.compose("down", "--volumes")
    assert up.docker("volume", "ls", "--quiet") == ""


# With everything closed.


@attrs.define
class Closed:
    """A cluster with everything closed, for those on the engine's host."""

    engine: Engine
    context: ssl.SSLContext = attrs.field(init=False)
    """Trusts the authority of the cluster and no other."""

    def __attrs_post_init__(self) -> None:
        self.context = ssl.create_default_context(cadata=self.run("cat", "/keys/shared/ca.pem"))

    def run(self, *command: str) -> str:
        """Run a command where the secrets are; what it prints."""
        return self.engine.compose("--progress=quiet", "run", "--rm", "-T", "secret", *command)

    def new_token(self, name: str, scope: str) -> str:
        """Make a token with one scope."""
        options = ["--tokens-file=/keys/shared/tokens", f"--name={name}", f"--scope={scope}"]
        [token] = re.findall(r"(?m)^nsq_\S+$", self.run("nsqd", "token", "new", *options))
        return str(token)

    def request(
        self,
        port: int,
        method: str,
        target: str,
        body: str | None = None,
        *,
        host: str = LOCALHOST,
        **headers: str,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One HTTPS request: status, headers and body of the answer."""
        with self.engine.network():
            connection = http.client.HTTPSConnection(host, port, timeout=patience(10), context=self.context)
            try:
                connection.request(method, target, body, headers)
                response = connection.getresponse()
                return response.status, response.headers, response.read()
            finally:
                connection.close()


@pytest.fixture
def closed(engine: Engine) -> Closed:
    """Everything runs with both files, and is healthy."""
    engine = attrs.evolve(engine, files=SECURE)
    engine.compose("up", "--detach", "--wait")
    return Closed(engine)


def test_a_closed_cluster_works_for_those_who_have_tokens(closed: Closed) -> None:
    """From nothing but the two files: tokens are made, published with and consumed with, all of it over TLS."""
    states = {each["Service"]: (each["State"], each["Health"]) for each in containers(closed.engine)}
    assert states == dict.fromkeys(SERVICES, ("running", "healthy"))
    shop = closed.new_token("shop", "publish:orders")
    billing = closed.new_token("billing", "consume:orders/*")
    bodies = [f"orders by {name}" for name in NSQDS]

    def publish(name: str, topic: str) -> int:
        body, headers = f"{topic} by {name}", {"Authorization": f"Bearer {shop}"}
        return closed.request(HTTPS[name], "POST", f"/pub?topic={topic}", body, **headers)[0]

    for name in NSQDS:
        wait_until(lambda: publish(name, "orders") == 200, 20.0, "the token is known")  # noqa: B023
    assert publish("nsqd1", "other") == 403
    command = ["timeout", "30", "nsq_tail", "--topic=orders", "--channel=billing", f"--n={len(bodies)}"]
    registries = [
        f"--lookupd-http-address=https://{name}:{HTTPS[name]}" for name in HTTPS if "lookupd" in name
    ]
    options = [f"--consumer-opt={option}" for option in ("tls_v1", f"auth_secret,{billing}")]
    printed = execute(closed.engine, "nsqlookupd2", *command, *registries, *options)
    assert sorted(line for line in printed.splitlines() if line.startswith("orders by ")) == bodies


def test_strangers_are_refused_on_every_port_of_a_closed_cluster(closed: Closed) -> None:
    """Those who have neither a token nor TLS, and those who have TLS."""
    published = {
        int(port) for port in re.findall(r":(\d+)->", closed.engine.docker("ps", "--format={{.Ports}}"))
    }
    ranges = re.findall(r":(\d+)-(\d+)->", closed.engine.docker("ps", "--format={{.Ports}}"))
    published |= {port for first, last in ranges for port in range(int(first), int(last) + 1)}
    stand_ins = {first + number for first in (4180, 4280, 4380) for number in range(4)}
    over_tls = set(HTTPS.values())
    plain_http = {4151, 4251, 4351, 4161, 4261}
    assert published == {*NSQDS.values(), 4160, 4260} | plain_http | over_tls | stand_ins
    with closed.engine.network():
        for port in NSQDS.values():
            with (
                RawClient.connect(port) as client,
                pytest.raises(ErrorFrame, match="TLS required"),
            ):
                client.pub("orders", b"1")
        for port in (4160, 4260):
            with Announcer.connect(port) as announcer:
                announcer.send(b"PING\n")
                assert announcer.read() == b"E_INVALID TLS required (--lookupd-tls)"
        for port in stand_ins:
            with pytest.raises((OSError, Disconnected)), RawClient.connect(port) as client:
                client.response()
        for port in over_tls:
            with pytest.raises((OSError, http.client.HTTPException)):
                status_of(http.client.HTTPConnection(LOCALHOST, port, timeout=patience(10)), "/ping")
        for port in plain_http:
            plain = http.client.HTTPConnection(LOCALHOST, port, timeout=patience(10))
            assert status_of(plain, "/stats") == 403
    for name, target in (("nsqd", "/stats"), ("nsqlookupd", "/nodes"), ("nsqadmin", "/api/nodes")):
        for port in (port for service, port in HTTPS.items() if service.startswith(name)):
            assert closed.request(port, "GET", target)[0] == 401
            assert closed.request(port, "GET", target, Authorization="Bearer nsq_" + "a" * 43)[0] == 401
            assert closed.request(port, "GET", "/debug/pprof/")[0] == 404


def test_the_first_administrator_logs_in_to_the_console_of_a_closed_cluster(closed: Closed) -> None:
    """With the password that was made at the first start; the console sees the whole cluster, over TLS."""
    password = closed.run("cat", "/keys/authority/password").strip()
    port = HTTPS["nsqadmin"]
    status, headers, _ = closed.request(port, "GET", "/nodes")
    assert (status, headers["Location"]) == (303, "/login?next=/nodes")
    session, of_form = "", {"Content-Type": "application/x-www-form-urlencoded"}
    for tried, expected in (("wrong " + password, ""), (password, "/nodes")):
        form = urlencode({"name": "admin", "password": tried, "next": "/nodes"})
        status, headers, _ = closed.request(port, "POST", "/login", form, **of_form)
        assert headers.get("Location", "") == expected
        session = headers.get("Set-Cookie", "")
    assert {"Secure", "HttpOnly"} <= set(session.split("; "))
    cookie = session.partition(";")[0]

    def shows_all() -> bool:
        _, _, page = closed.request(port, "GET", "/nodes", Cookie=cookie)
        return all(f"{name}:{tcp + 1}".encode() in page for name, tcp in NSQDS.items())

    wait_until(shows_all, 20.0, "the console shows all nodes")


def test_secrets_are_for_those_alone_who_need_them(closed: Closed) -> None:
    """No daemon sees those of another one, or of the authority. Certificates are replaced only when they are due."""
    for service in SERVICES:
        assert execute(closed.engine, service, "ls", "/keys").split() == ["own", "shared"]
        assert execute(closed.engine, service, "ls", "/keys/shared").split() == ["ca.pem", "tokens"]
        assert execute(closed.engine, service, "sh", "-c", "cat /keys/own/*").count("PRIVATE KEY") == 2
    digests = "cd /keys && sha256sum */* && sha256sum /data/*"
    before = closed.run("sh", "-c", digests)
    assert closed.run("sh", "-c", digests) == before
    address = {"HOST_ADDRESS": ADDRESS}
    closed.engine.compose("up", "--detach", "--wait", environment=address)
    after = closed.engine.compose("run", "--rm", "-T", "secret", "sh", "-c", digests, environment=address)
    certificates = {f"{service}/node.pem" for service in SERVICES}
    assert changed(before, after) == certificates
    assert closed.request(HTTPS["nsqd1"], "GET", "/ping", host=ADDRESS)[2] == b"OK"
    closed.run("rm", "/keys/shared/ca.pem")
    renewed = closed.run("sh", "-c", digests)
    assert changed(after, renewed) == certificates | {"shared/ca.pem", "authority/ca.key"}
    closed.engine.compose("down", "--volumes")


# Inside.


def changed(before: str, after: str) -> set[str]:
    """The files that are not the same in two outputs of sha256sum."""
    return {line.split()[1] for line in set(before.splitlines()) ^ set(after.splitlines()) if "/" in line}


def status_of(connection: http.client.HTTPConnection, target: str) -> int:
    try:
        connection.request("GET", target)
        return connection.getresponse().status
    finally:
        connection.close()


def containers(engine: Engine) -> list[dict[str, str]]:
    return [json.loads(line) for line in engine.compose("ps", "--format=json").splitlines()]


def execute(engine: Engine, service: str, *command: str) -> str:
    return engine.compose("exec", "-T", service, *command)


def request(
    engine: Engine, host: str, port: int, method: str, target: str, body: bytes | None = None
) -> bytes:
    """One HTTP request from the engine's host; its answer is good."""
    with engine.network():
        connection = http.client.HTTPConnection(host, port, timeout=patience(10))
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            answer = response.read()
            assert response.status in (200, 404), (response.status, answer)
            return answer
        finally:
            connection.close()


def nodes(engine: Engine, host: str, port: int) -> dict[str, int]:
    found = json.loads(request(engine, host, port, "GET", "/nodes"))["producers"]
    return {each["broadcast_address"]: each["tcp_port"] for each in found}


def listed(engine: Engine, host: str, topic: str) -> set[str]:
    found = json.loads(request(engine, host, 4161, "GET", f"/lookup?topic={topic}")).get("producers", [])
    return {f"{each['broadcast_address']}:{each['tcp_port']}" for each in found}


def all_in_step(engine: Engine) -> bool:
    return all(request(engine, LOCALHOST, port + 1, "GET", "/ping") == b"OK" for port in NSQDS.values())


def held(engine: Engine, port: int) -> list[dict[str, Any]]:
    """The copies that an nsqd holds; `port`: HTTP."""
    found: list[dict[str, Any]] = json.loads(request(engine, LOCALHOST, port, "GET", "/replicas"))["held"]
    return found


def publish_to_each(engine: Engine, host: str, topic: str) -> list[str]:
    """One message to each nsqd; gives them sorted."""
    bodies = []
    for name, port in NSQDS.items():
        body = f"{topic} by {name}"
        assert request(engine, host, port + 1, "POST", f"/pub?topic={topic}", body.encode()) == b"OK"
        bodies.append(body)
    return sorted(bodies)


def consume_inside(engine: Engine, topic: str, count: int) -> list[str]:
    """With our own tool, in a container of the network."""
    lookupds = ["--lookupd-http-address=nsqlookupd1:4161", "--lookupd-http-address=nsqlookupd2:4161"]
    printed = execute(
        engine, "nsqlookupd2", "timeout", "30", "nsq_tail", f"--topic={topic}", f"--n={count}", *lookupds
    )
    return sorted(line for line in printed.splitlines() if line.startswith(f"{topic} by "))


def consume_outside(engine: Engine, topic: str, lookupds: Sequence[str], hosts: Path) -> list[str]:
    """With pynsq, on the engine's host, where names are what `hosts` says."""
    mount = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    host = [
        "nsenter",
        "-t",
        str(engine.inside),
        "--net",
        "unshare",
        "--mount",
        "sh",
        "-c",
        mount,
        "sh",
        str(hosts),
    ]
    command = [*host, sys.executable, "-W", "ignore", "-m", "tests.foreign._pynsq_client"]
    with Puppet(command, [], lookupds) as puppet:
        puppet.consume(topic, "outside")
        wait_until(
            lambda: len(puppet.messages()) >= len(NSQDS), 30.0, "all have come", describe=puppet.trouble
        )
        return sorted(each["body"].decode() for each in puppet.messages())
