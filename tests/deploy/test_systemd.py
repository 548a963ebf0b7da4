"""The units on a machine with a real systemd: what an administrator gets who types `make install`."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme

from tests.deploy.base import ROOT
from tests.deploy.configuration import configuration
from tests.deploy.machine import Machine
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600), pytest.mark.xdist_group("hosts")]

UNITS = sorted(path.name.replace("@.", "@1.") for path in (ROOT / "deploy/systemd").glob("*.service"))
TOPIC, CHANNEL = "orders", "audit"
DROP_IN = "/etc/systemd/system/nsqd.service.d"
EXEC_START = "[Service]\nExecStart=\nExecStart=/usr/local/bin/nsqd {}\n"
IMPATIENT = "[Service]\nWatchdogSec=1s\nRestartSec=200ms\n"
"""So that a test need not wait half a minute."""


@pytest.fixture(autouse=True)
def _nothing_left(machine: Machine) -> Iterator[None]:
    """Stop what a test has started, and take its settings away."""
    yield
    machine.run("systemctl", "stop", "nsqd*", "nsqlookupd", "nsqadmin", check=False)
    machine.run("sh", "-c", "rm -rf /var/lib/private/nsqd* /var/lib/nsqd* /etc/systemd/system/nsq*.d")
    machine.systemctl("daemon-reload")
    machine.run("systemctl", "reset-failed", check=False)


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_say_against_a_unit(machine: Machine, unit: str) -> None:
    assert machine.run("systemd-analyze", "verify", "--man=no", unit) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_exposes_little(machine: Machine, unit: str) -> None:
    """2.0 of 10 at most, by systemd's own count."""
    machine.run("systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit)


def test_a_started_nsqd_answers_at_once(machine: Machine) -> None:
    machine.systemctl("start", "nsqd")
    assert request(machine, "GET", "/ping") == (200, b"OK")
    assert machine.property("nsqd", "StatusText") == "serving TCP 0.0.0.0:4150"
    assert machine.property("nsqd", "CanReload") == "no"


def test_what_is_installed_is_a_cluster_of_one(machine: Machine) -> None:
    """Nothing is configured but by `make install`, and the console shows the node."""
    assert machine.run("sh", "-c", "stat --format=%a /etc/nsq/*.toml").split() == ["640"] * 3
    machine.systemctl("start", "nsqlookupd", "nsqd", "nsqadmin")
    assert request(machine, "POST", "/pub?topic=orders", b"x") == (200, b"OK")

    def topic_is_shown() -> bool:
        return b'"nodes":[{' in request(machine, "GET", "/api/topics/orders", port=4171)[1]

    wait_until(topic_is_shown, 20.0, "the console has the node of the topic", describe=machine.journal)


def test_a_whole_cluster_on_one_machine(machine: Machine) -> None:
    """Two nsqds of one template, a registry and the console, configured by the examples."""
    for number in (1, 2):
        text = configuration(
            "nsqd",
            tcp_address=f"0.0.0.0:4{number}50",
            http_address=f"0.0.0.0:4{number}51",
            id=number,
            broadcast_address="127.0.0.1",
            nsqlookupd_tcp_addresses=["127.0.0.1:4160"],
        )
        machine.write(f"/etc/nsq/nsqd-{number}.toml", text)
    console = configuration("nsqadmin", nsqlookupd_http_addresses=["127.0.0.1:4161"])
    machine.write("/etc/nsq/nsqadmin.toml", console)
    machine.systemctl("start", "nsqlookupd", "nsqd@1", "nsqd@2", "nsqadmin")
    for number in (1, 2):
        assert request(machine, "POST", "/pub?topic=orders", b"x", port=4051 + number * 100)[0] == 200
        assert "orders" in machine.run("find", f"/var/lib/private/nsqd-{number}")

    def both_are_listed() -> bool:
        listed = request(machine, "GET", "/lookup?topic=orders", port=4161)[1]
        return b'"tcp_port":4150' in listed and b'"tcp_port":4250' in listed

    wait_until(both_are_listed, 10.0, "both are listed", describe=machine.journal)
    assert request(machine, "GET", "/ping", port=4171) == (200, b"OK")
    for unit, address in (("nsqlookupd", "TCP 0.0.0.0:4160"), ("nsqadmin", "HTTP 0.0.0.0:4171")):
        assert machine.property(unit, "StatusText") == f"serving {address}"


def test_the_sandbox_is_in_force(machine: Machine) -> None:
    machine.systemctl("start", "nsqd")
    pid = machine.property("nsqd", "MainPID")
    status = dict(line.split(":", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
    assert status["Uid"].split()[0] != "0"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")

    def inside(script: str) -> str:
        """Even root, in the service's view of the file system."""
        return machine.run("nsenter", "-t", pid, "-m", "sh", "-c", script, check=False)

    assert "Read-only file system" in inside("touch /usr/local/bin/nsqd")
    assert "Read-only file system" in inside("touch /etc/nsq/nsqd.toml")
    assert inside("ls -A /root /home").split() == ["/home:", "/root:"]
    assert "cannot access" in inside("ls /dev/kmsg")
    assert inside("touch /var/lib/nsqd/probe") == ""


def test_tls_with_a_key_that_only_root_may_read(machine: Machine) -> None:
    """In the sandbox, as the unit's comments say; and with client certificates of any authority."""
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("someone")
    machine.write("/etc/nsq/cert.pem", server.cert_chain_pems[0].bytes().decode())
    machine.write("/etc/nsq/key.pem", server.private_key_pem.bytes().decode())
    machine.run("chmod", "600", "/etc/nsq/key.pem")
    machine.write(f"{DROP_IN}/key.conf", "[Service]\nLoadCredential=key.pem:/etc/nsq/key.pem\n")
    text = configuration(
        "nsqd",
        tls_cert="/etc/nsq/cert.pem",
        tls_key="/run/credentials/nsqd.service/key.pem",
        tls_client_auth_policy="require",
    )
    machine.write(f"{DROP_IN}/config.conf", EXEC_START.format("--config=/etc/nsq/tls.toml"))
    machine.write("/etc/nsq/tls.toml", text)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nsqd")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client.configure_cert(context)
    with (
        machine.network(),
        socket.create_connection(("127.0.0.1", 4152), patience(5)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"GET /ping HTTP/1.1\r\nHost: nsqd\r\nConnection: close\r\n\r\n")
        assert b" 200 OK\r\n" in secure.recv(4096)


def test_copies_with_a_secret_that_only_root_may_read(machine: Machine) -> None:
    """As docs/replication.md sets up two nodes. The stand-in works in the sandbox of its nsqd."""
    machine.run("sh", "-c", "umask 077; head -c 32 /dev/urandom | base64 >/etc/nsq/replication.secret")
    machine.write(
        "/etc/systemd/system/nsqd@.service.d/copies.conf",
        "[Service]\nLoadCredential=replication.secret:/etc/nsq/replication.secret\n",
    )
    for number, other in ((1, 2), (2, 1)):
        text = configuration(
            "nsqd",
            tcp_address=f"127.0.0.1:4{number}50",
            http_address=f"127.0.0.1:4{number}51",
            id=number,
            nsqlookupd_tcp_addresses=[],
            replication_address=f"127.0.0.1:4{number}59",
            replicate_to=[f"127.0.0.1:4{other}59"],
            replication_secret_file=f"/run/credentials/nsqd@{number}.service/replication.secret",
            ack_copies=2,
            stand_in_ports=f"4{number}80-4{number}83",
        )
        machine.write(f"/etc/nsq/nsqd-{number}.toml", text)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nsqd@1", "nsqd@2")

    def both_are_in_step() -> bool:
        return all(request(machine, "GET", "/ping", port=port) == (200, b"OK") for port in (4151, 4251))

    wait_until(both_are_in_step, 15.0, "both are in step", describe=machine.journal)
    publish(machine, 10)
    machine.systemctl("kill", "--signal=KILL", "nsqd@1")
    machine.systemctl("stop", "nsqd@1")
    machine.run("rm", "-rf", "/var/lib/private/nsqd-1")

    def copy() -> dict[str, Any]:
        [held] = json.loads(request(machine, "GET", "/replicas", port=4251)[1])["held"]
        return dict(held)

    wait_until(lambda: not copy()["connected"], 15.0, "the leader is missed", describe=machine.journal)
    assert request(machine, "POST", f"/replicas/adopt?life={copy()['life']}", port=4251)[0] == 200
    wait_until(lambda: answers(machine, 4281), 15.0, "the stand-in serves", describe=machine.journal)
    assert consume(machine, 10, port=4280) == bodies(10)
    wait_until(lambda: copy()["stand_in_port"] is None, 15.0, "it has ended", describe=machine.journal)
    machine.systemctl("stop", "nsqd@2")
    assert machine.property("nsqd@2", "Result") == "success"


def test_a_hanging_nsqd_is_started_again_and_has_all_messages(machine: Machine) -> None:
    machine.write(f"{DROP_IN}/test.conf", IMPATIENT)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nsqd")
    time.sleep(2.5)
    assert machine.property("nsqd", "NRestarts") == "0", "its signs of life are not seen"
    publish(machine, 100)
    send_signal(machine, "STOP")
    machine.wait_for("nsqd", "NRestarts", "1")
    machine.wait_for("nsqd", "ActiveState", "active")
    assert "Watchdog timeout" in machine.journal("nsqd")
    assert "Fatal Python error: Aborted" in machine.journal("nsqd"), "nothing says where it hung"
    assert consume(machine, 100) == bodies(100)


def test_a_killed_nsqd_is_started_again_and_has_all_messages(machine: Machine) -> None:
    machine.write(f"{DROP_IN}/test.conf", IMPATIENT)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nsqd")
    publish(machine, 100)
    send_signal(machine, "KILL")
    machine.wait_for("nsqd", "NRestarts", "1")
    machine.wait_for("nsqd", "ActiveState", "active")
    assert consume(machine, 100) == bodies(100)


def test_a_stop_is_orderly_with_clients_connected(machine: Machine) -> None:
    machine.systemctl("start", "nsqd")
    publish(machine, 100)
    with machine.network(), RawClient.connect(4150) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(10)
        held = [client.message().body for _ in range(10)]
        began_s = time.monotonic()
        machine.systemctl("stop", "nsqd")
        assert time.monotonic() - began_s < patience(10)
    assert held == bodies(10)
    assert machine.property("nsqd", "Result") == "success"
    assert machine.property("nsqd", "ExecMainStatus") == "0"
    machine.systemctl("start", "nsqd")
    assert "after an orderly stop" in machine.journal("nsqd")
    assert sorted(consume(machine, 100)) == sorted(bodies(100))


def test_a_data_path_that_root_has_made(machine: Machine) -> None:
    """As an import makes one: systemd gives it to the service's user."""
    machine.run("install", "-d", "-m", "700", "/var/lib/private", "/var/lib/private/nsqd")
    by_root = "nsqd --data-path=/var/lib/private/nsqd & trap 'kill $!; wait $!' EXIT; read -r _ </run/go"
    machine.run("mkfifo", "/run/go")
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(machine.run, "sh", "-c", by_root)
        wait_until(lambda: answers(machine), 10.0, "it serves", describe=machine.journal)
        publish(machine, 10)
        machine.run("sh", "-c", "echo >/run/go")
        done.result(30)
    assert machine.run("stat", "--format=%u", "/var/lib/private/nsqd/nsqd.ids") == "0\n"
    machine.systemctl("start", "nsqd")
    assert machine.run("stat", "--format=%u", "/var/lib/private/nsqd/nsqd.ids") != "0\n"
    assert consume(machine, 10) == bodies(10)


def test_a_drained_nsqd_stays_down(machine: Machine) -> None:
    """It ends by itself when its last message is finished, and systemd does not start it again."""
    machine.systemctl("start", "nsqd")
    publish(machine, 10)
    machine.systemctl("kill", "--signal=USR1", "--kill-whom=main", "nsqd")
    wait_until(
        lambda: request(machine, "GET", "/ping") == (200, b"OK - draining"),
        5.0,
        "it drains",
        describe=machine.journal,
    )
    assert request(machine, "POST", f"/pub?topic={TOPIC}", b"x")[0] == 503
    assert consume(machine, 10) == bodies(10)
    machine.wait_for("nsqd", "ActiveState", "inactive")
    assert machine.property("nsqd", "Result") == "success"
    assert machine.property("nsqd", "NRestarts") == "0"


def test_a_wrong_configuration_is_said_and_not_tried_for_ever(machine: Machine) -> None:
    machine.write(f"{DROP_IN}/test.conf", EXEC_START.format("--no-such-flag"))
    machine.systemctl("daemon-reload")
    machine.run("systemctl", "start", "nsqd", check=False)
    machine.wait_for("nsqd", "ActiveState", "failed")
    assert "flag provided but not defined: -no-such-flag" in machine.journal("nsqd", lines=400)
    assert machine.property("nsqd", "NRestarts") == "0"


def test_a_wrong_value_in_the_configuration_is_reported_until_it_is_mended(machine: Machine) -> None:
    """Nobody has to start it then."""
    path = "/etc/nsq/nsqd.toml"
    example = machine.run("cat", path)
    machine.write(f"{DROP_IN}/test.conf", IMPATIENT)
    machine.systemctl("daemon-reload")
    try:
        machine.write(path, 'max_msg_size = "many"\n')
        machine.run("systemctl", "start", "--no-block", "nsqd")
        wait_until(
            lambda: int(machine.property("nsqd", "NRestarts")) >= 2,
            15.0,
            "it is tried again",
            describe=machine.journal,
        )
        assert "value many for field max_msg_size" in machine.journal("nsqd", lines=400)
    finally:
        machine.write(path, example)
    machine.wait_for("nsqd", "ActiveState", "active")


def test_installing_again_keeps_the_configuration(machine: Machine) -> None:
    path = "/etc/nsq/nsqlookupd.toml"
    example = machine.run("cat", path)
    machine.write(path, 'log_level = "debug"\n')
    machine.run("make", "-C", "/src", "install")
    assert machine.run("cat", path) == 'log_level = "debug"\n'
    machine.write(path, example)


def test_installing_into_a_folder_for_a_package(machine: Machine) -> None:
    """Nothing in it knows where it was built, and it works where it is unpacked."""
    machine.run(
        "make", "-C", "/src", "install", "DESTDIR=/tmp/package", "PREFIX=/opt/nsq", "UNITDIR=/opt/units"
    )
    assert machine.run("grep", "-rlI", "/tmp/package", "/tmp/package", check=False) == ""
    machine.run("cp", "-a", "/tmp/package/opt/.", "/opt/")
    machine.run("rm", "-rf", "/tmp/package")
    assert machine.run("/opt/nsq/bin/nsqd", "--version").startswith("nsqd v")
    assert "ExecStart=/opt/nsq/bin/nsqd " in machine.run("cat", "/opt/units/nsqd.service")
    machine.run("make", "-C", "/src", "uninstall", "PREFIX=/opt/nsq", "UNITDIR=/opt/units")
    assert machine.run("find", "/opt", "-type", "f") == ""
    assert machine.run("find", "/opt", "-type", "l") == ""


def test_units_are_installed_where_systemd_looks(machine: Machine) -> None:
    """Below a prefix of one's own it would not."""
    machine.run("make", "-C", "/src", "install", "DESTDIR=/tmp/package", "PREFIX=/opt/nsq")
    assert machine.run("ls", "/tmp/package/etc/systemd/system").split() == sorted(
        path.name for path in (ROOT / "deploy/systemd").glob("*.service")
    )
    machine.run("rm", "-rf", "/tmp/package")


# Inside.


def bodies(count: int) -> list[bytes]:
    return [b"message %d" % number for number in range(count)]


def send_signal(machine: Machine, name: str) -> None:
    """To nsqd itself."""
    machine.run("sh", "-c", f"kill -{name} {machine.property('nsqd', 'MainPID')}")


def answers(machine: Machine, port: int = 4151) -> bool:
    try:
        return request(machine, "GET", "/ping", port=port)[0] == 200
    except OSError:
        return False


def publish(machine: Machine, count: int) -> None:
    """Each of them is acknowledged."""
    for target in (f"/topic/create?topic={TOPIC}", f"/channel/create?topic={TOPIC}&channel={CHANNEL}"):
        assert request(machine, "POST", target)[0] == 200
    with machine.network(), RawClient.connect(4150) as client:
        client.mpub(TOPIC, bodies(count))


def consume(machine: Machine, count: int, *, port: int = 4150) -> list[bytes]:
    """Take and finish so many."""
    with machine.network(), RawClient.connect(port) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(count)
        found = []
        for _ in range(count):
            message = client.message()
            found.append(message.body)
            client.fin(message.id)
        client.cls()
        return found


def request(
    machine: Machine, method: str, target: str, body: bytes | None = None, *, port: int = 4151
) -> tuple[int, bytes]:
    """One HTTP request to a daemon on the machine."""
    with machine.network():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience(5))
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
