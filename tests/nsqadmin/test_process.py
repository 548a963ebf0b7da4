"""A real console with three real nsqds and two registries: every path and action, and failures."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.nsqadmin.admin import AdminDaemon
from tests.process.closed import Closed
from tests.process.daemon import HOST
from tests.process.ports import free_port
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

FAST_S = patience(0.5)
"""Within which daemons answer that are not stopped."""
FAST = f"--http-client-request-timeout={FAST_S:g}s"


@contextlib.contextmanager
def running(path: Path, closed: Closed | None = None) -> Iterator[Cluster]:
    """Three nsqds and two registries."""
    with Cluster(path, closed=closed) as cluster:
        cluster.start()
        cluster.wait_known(cluster.nsqds, within_s=5.0)
        yield cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For all tests of this module, which take topics of their own."""
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@contextlib.contextmanager
def console(cluster: Cluster, *flags: str, registries: bool = True) -> Iterator[AdminDaemon]:
    """A console of this cluster."""
    if registries:
        known = [f"--lookupd-http-address={HOST}:{each.http_port}" for each in cluster.registries]
    else:
        known = [f"--nsqd-http-address={HOST}:{nsqd.http_port}" for nsqd in cluster.nsqds]
    with AdminDaemon(flags=[*known, *flags], closed=cluster.closed) as admin:
        admin.start()
        yield admin


def take_every_action(cluster: Cluster, registries: bool) -> None:
    """Each of the console's actions on topics and channels, and what the nsqds say of it."""
    topic = f"act{registries}"
    cluster.create_channel(topic, "c")
    cluster.wait_channels(topic, ["c"], within_s=5.0)
    cluster.wait_listed(topic, cluster.nsqds, within_s=5.0)

    def everywhere(key: str) -> list[object]:
        return [nsqd.channel_stats(topic, "c")[key] for nsqd in cluster.nsqds]

    with console(cluster, registries=registries) as admin:

        def act(action: str, channel: str = "") -> None:
            answer = admin.api("POST", f"/api/topics/{topic}{channel}", {"action": action})
            assert answer == {"message": ""}

        act("pause", "/c")
        assert everywhere("paused") == [True] * 3
        act("unpause", "/c")
        assert everywhere("paused") == [False] * 3
        for nsqd in cluster.nsqds:
            nsqd.request("POST", f"/pub?topic={topic}", b"x")
        assert everywhere("depth") == [1] * 3
        act("empty", "/c")
        assert everywhere("depth") == [0] * 3
        act("pause")
        assert admin.api("GET", f"/api/topics/{topic}")["paused"] is True
        cluster.nsqds[0].request("POST", f"/pub?topic={topic}", b"x")
        act("empty")
        assert admin.api("GET", f"/api/topics/{topic}")["depth"] == 0
        act("unpause")
        if registries:
            assert admin.api("POST", "/api/topics", {"topic": topic, "channel": "d"}) == {"message": ""}
            assert all(nsqd.channel_stats(topic, "d") for nsqd in cluster.nsqds)
        assert admin.api("DELETE", f"/api/topics/{topic}/c") == {"message": ""}
        assert "c" not in [
            each["channel_name"] for each in admin.api("GET", f"/api/topics/{topic}")["channels"] or ()
        ]
        assert admin.api("DELETE", f"/api/topics/{topic}") == {"message": ""}
        assert topic not in (admin.api("GET", "/api/topics")["topics"] or [])


class TestReading:
    @pytest.mark.parametrize("registries", [True, False])
    def test_every_path_of_the_api_describes_the_cluster(self, cluster: Cluster, registries: bool) -> None:
        topic = f"read{registries}"
        cluster.create_channel(topic, "c")
        for nsqd in cluster.nsqds:
            assert nsqd.request("POST", f"/mpub?topic={topic}", b"a\nb")[0] == 200
        cluster.wait_listed(topic, cluster.nsqds, within_s=5.0)
        first = f"{HOST}:{cluster.nsqds[0].http_port}"
        with console(cluster, registries=registries) as admin:
            assert admin.request("GET", "/ping") == (200, b"OK")
            assert topic in admin.api("GET", "/api/topics")["topics"]
            of_topic = admin.api("GET", f"/api/topics/{topic}")
            of_channel = admin.api("GET", f"/api/topics/{topic}/c")
            nodes = admin.api("GET", "/api/nodes")["nodes"]
            node = admin.api("GET", f"/api/nodes/{first}")
            counter = admin.api("GET", "/api/counter")["stats"]
            inactive = admin.api("GET", "/api/topics?inactive=true")["topics"]
            pages = [
                admin.request("GET", path)[0]
                for path in (
                    "/",
                    f"/topics/{topic}",
                    f"/topics/{topic}/c",
                    "/nodes",
                    f"/nodes/{first}",
                    "/lookup",
                )
            ]
        assert (of_topic["message_count"], of_topic["message"]) == (6, "")
        assert (of_channel["depth"], len(of_channel["nodes"])) == (6, 3)
        assert sorted(each["http_port"] for each in nodes) == sorted(nsqd.http_port for nsqd in cluster.nsqds)
        assert all(bool(each["remote_addresses"]) is registries for each in nodes)
        assert topic in [each["topic_name"] for each in node["topics"]]
        assert counter[f"{topic}:c:{first}"]["message_count"] == 2
        assert topic not in inactive
        assert pages == [200] * 6

    def test_a_topic_that_only_registries_know_is_inactive(self, cluster: Cluster) -> None:
        with console(cluster) as admin:
            assert admin.api("POST", "/api/topics", {"topic": "nowhere", "channel": "c"}) == {"message": ""}
            assert admin.api("GET", "/api/topics?inactive=true")["topics"]["nowhere"] == ["c"]
            assert admin.api("DELETE", "/api/topics/nowhere/c") == {"message": ""}
            assert admin.api("GET", "/api/topics?inactive=true")["topics"]["nowhere"] is None
            assert admin.api("DELETE", "/api/topics/nowhere") == {"message": ""}
            assert "nowhere" not in admin.api("GET", "/api/topics?inactive=true")["topics"]


class TestActing:
    @pytest.mark.parametrize("registries", [True, False])
    def test_every_action_takes_effect(self, cluster: Cluster, registries: bool) -> None:
        take_every_action(cluster, registries)

    def test_every_action_takes_effect_in_a_closed_cluster(self, tmp_path: Path) -> None:
        """With TLS everywhere, a token of the console, and a user who logs in."""
        with running(tmp_path, Closed.in_folder(tmp_path)) as cluster:
            take_every_action(cluster, registries=True)

    def test_a_tombstone_removes_the_topic_from_one_node(self, cluster: Cluster) -> None:
        cluster.create_channel("tomb", "c")
        cluster.wait_listed("tomb", cluster.nsqds, within_s=5.0)
        first, *rest = cluster.nsqds
        with console(cluster) as admin:
            answer = admin.api("DELETE", f"/api/nodes/{HOST}:{first.http_port}", {"topic": "tomb"})
            assert answer == {"message": ""}
            assert len(admin.api("GET", "/api/topics/tomb")["nodes"]) == 2
        cluster.wait_listed("tomb", rest, within_s=5.0)
        assert "tomb" not in [each["topic_name"] for each in first.stats()["topics"]]

    def test_pausing_an_unknown_channel_is_a_warning_for_each_node(self, cluster: Cluster) -> None:
        cluster.create_channel("warned", "c")
        cluster.wait_listed("warned", cluster.nsqds, within_s=5.0)
        with console(cluster) as admin:
            answer = admin.api("POST", "/api/topics/warned/none", {"action": "pause"})
            status, body = admin.request("GET", "/api/topics/none")
        assert answer["message"].startswith("WARNING: got response 404 Not Found")
        assert answer["message"].count("CHANNEL_NOT_FOUND") == 3
        assert (status, b"TOPIC_NOT_FOUND" in body) == (502, True)


class TestFailing:
    def test_a_dead_registry_is_named_and_the_other_one_used(self, tmp_path: Path) -> None:
        with Cluster(tmp_path) as cluster:
            cluster.start()
            cluster.create_channel("t", "c")
            cluster.wait_listed("t", cluster.nsqds, within_s=5.0)
            dead = f"{HOST}:{cluster.registries[0].http_port}"
            cluster.registries[0].kill()
            with console(cluster, "--poll-interval=100ms") as admin:
                answer = admin.api("GET", "/api/topics/t")
                assert answer["message"].startswith(
                    f"WARNING: GET http://{dead}/lookup?topic=t: connection refused"
                )
                assert len(answer["nodes"]) == 3
                wait_until(
                    lambda: dead.encode() in admin.request("GET", "/")[1], 5.0, "the front page names it"
                )
                assert admin.api("DELETE", "/api/topics/t")["message"].count(dead) == 2

    def test_a_hanging_nsqd_is_a_warning_after_the_timeout_and_does_not_delay_pages(
        self, cluster: Cluster
    ) -> None:
        cluster.create_channel("hang", "c")
        cluster.wait_listed("hang", cluster.nsqds, within_s=5.0)
        stopped = cluster.nsqds[1]
        address = f"{HOST}:{stopped.http_port}"
        with console(cluster, FAST, "--poll-interval=100ms") as admin:
            wait_until(lambda: b"hang" in admin.request("GET", "/topics/hang")[1], 5.0, "the first snapshot")
            with stopped.stop_cont():
                answer = admin.api("GET", "/api/topics/hang")
                assert len(answer["nodes"]) == 2
                assert f"no answer within {FAST_S:g} s" in answer["message"]
                assert address in answer["message"]
                wait_until(
                    lambda: b"no answer" in admin.request("GET", "/topics/hang", within_s=2.0)[1],
                    5.0 + FAST_S,
                    "the page names it",
                    describe=admin.log_end,
                )
            wait_until(lambda: len(admin.api("GET", "/api/topics/hang")["nodes"]) == 3, 5.0, "it is back")


class TestLife:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_the_console_gracefully(self, number: signal.Signals) -> None:
        with AdminDaemon(flags=[f"--nsqd-http-address={HOST}:{free_port()}"]) as admin:
            admin.start()
            assert admin.process is not None
            admin.process.send_signal(number)
            assert admin.wait(5.0) == 0
            assert admin.lines[-1].endswith("INFO: HTTP: bye")

    @pytest.mark.parametrize(
        ("flags", "reason"),
        [
            ([], "--nsqd-http-address or --lookupd-http-address required"),
            (
                ["--nsqd-http-address=a:1", "--lookupd-http-address=a:1"],
                "use --nsqd-http-address or --lookupd-",
            ),
            (["--nsqd-http-address=http://a:1"], "failed to resolve --nsqd-http-address (http://a:1) - "),
            (["--nsqd-http-address=a:1", "--http-address=256.0.0.1:1"], "listen (256.0.0.1:1) failed - "),
        ],
    )
    def test_a_start_error_is_one_fatal_line(self, flags: list[str], reason: str) -> None:
        with AdminDaemon(flags=flags) as admin:
            admin.launch()
            assert admin.wait(10.0) == 1
        fatal = [line for line in admin.lines if "FATAL" in line]
        assert len(fatal) == 1
        assert fatal[0].startswith("[nsqadmin] ")
        assert f"FATAL: failed to instantiate nsqadmin - {reason}" in fatal[0]

    def test_logs_can_be_json(self) -> None:
        with AdminDaemon(flags=[f"--nsqd-http-address={HOST}:{free_port()}", "--log-format=json"]) as admin:
            admin.launch()
            wait_until(lambda: len(admin.lines) >= 2, 10.0, "it says something")
            assert all(json.loads(line) for line in list(admin.lines))

    def test_open_streams_do_not_delay_the_stop(self) -> None:
        with AdminDaemon(
            flags=[f"--nsqd-http-address={HOST}:{free_port()}", "--poll-interval=100ms"]
        ) as admin:
            admin.start()
            with contextlib.closing(_open_stream(admin.http_port)) as stream:
                assert b"200" in stream.recv(1000)
                assert admin.terminate(within_s=3.0) == 0


def _open_stream(port: int) -> socket.socket:
    stream = socket.create_connection((HOST, port), patience(5))
    stream.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
    return stream
