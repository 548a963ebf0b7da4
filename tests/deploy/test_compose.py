"""The project's own docker-compose.yml, brought up by a real engine: what a user gets who types `docker compose up`."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.engine import ADDRESS, Engine, why_not
from tests.foreign.puppet import Puppet
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900), pytest.mark.xdist_group("hosts")]

SERVICES = ["nsqadmin", "nsqd1", "nsqd2", "nsqd3", "nsqlookupd1", "nsqlookupd2"]
NSQDS = {"nsqd1": 4150, "nsqd2": 4250, "nsqd3": 4350}
"""With their TCP ports; HTTP is the next one."""
LOCALHOST = "127.0.0.1"


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


# Inside.


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
