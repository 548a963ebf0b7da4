"""Whatever an nsqd or a registry says, it costs that daemon a warning: polls, pages, the API and actions go on.

One nsqd and one registry are good in all of these tests, and what they say is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing

from nsqadmin.actions import Actions
from nsqadmin.alarms.watch import AlarmWatch
from nsqadmin.cluster.queries import ClusterQueries
from nsqadmin.console import Console
from nsqadmin.model import TopicStats
from nsqadmin.notify import Notifier
from nsqadmin.site import Site
from nsqkit.wire.names import is_valid_name
from tests.nsqadmin.cluster.polling import ONE, OTHER_REGISTRY, REGISTRY, Stage, nsqds, polling, registries
from tests.nsqadmin.fake_upstream import channel, node, topic
from tests.nsqadmin.hostile import Hostile
from tests.nsqadmin.pages.reading import ask

BAD = ("bad:4151", "bad:5151", "bad:6151")
SOME = 600
ALL = 50_000
"""Responses, once with registries and once without."""
PAGES = (
    "/",
    "/?show=idle&sort=in",
    "/topics/good",
    "/topics/t",
    "/topics/t/c",
    "/topics/good/c",
    "/messages/t/c",
    "/messages/good/c?state=deferred",
    "/nodes",
    "/lookup",
)
PAGES += (
    "/alarms",
    "/counter",
    f"/nodes/{BAD[0]}",
    f"/nodes/{ONE}",
    "/series",
    "/series?topic=t&channel=c&span=1h",
)
READS = ("/api/topics", "/api/topics?inactive=true", "/api/topics/good", "/api/topics/t", "/api/topics/t/c")
READS += ("/api/alarms", "/api/nodes", f"/api/nodes/{BAD[0]}", f"/api/nodes/{ONE}", "/api/counter")
CHANGES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("POST", "/api/topics", {"topic": "t", "channel": "c"}),
    ("POST", "/api/topics/t", {"action": "pause"}),
    ("POST", "/api/topics/t/c", {"action": "empty"}),
    ("DELETE", f"/api/nodes/{BAD[0]}", {"topic": "t"}),
    ("POST", f"/api/nodes/{BAD[0]}", {"action": "adopt_copy", "life": "0123456789abcdef0123456789abcdef"}),
    ("POST", "/api/messages/t", {"node": BAD[0], "body": "b"}),
    ("POST", "/api/messages/t/c", {"action": "finish", "node": BAD[0], "id": "0123456789abcdef"}),
    ("DELETE", "/api/topics/t/c", {}),
    ("DELETE", "/api/topics/t", {}),
)

LATENCY = {"count": 3, "percentiles": [{"quantile": 0.99, "value": 5e6}, {"quantile": 0.5, "value": 1e6}]}
CLIENT = {
    "client_id": "x",
    "hostname": "h",
    "version": "V2",
    "remote_address": "10.0.0.1:5",
    "user_agent": "ua",
    "connect_ts": 1_790_000_000,
    "in_flight_count": 1,
    "ready_count": 2,
    "finish_count": 3,
    "tls": True,
    "authed": True,
    "auth_identity": "me",
    "auth_identity_url": "https://x/",
    "topology_zone": "z",
    "topology_region": "r",
    "sample_rate": 5,
    "snappy": True,
    "tls_version": "1.3",
    "since_finish_ms": 12.5,
    "handling_time_ms": 3.25,
    "oldest_in_flight_ms": None,
}
CHANNEL = channel(
    "c",
    depth=7,
    backend_depth=3,
    in_flight_count=1,
    deferred_count=2,
    message_count=9,
    paused=True,
    requeue_count=1,
    timeout_count=1,
    client_count=2,
    e2e_processing_latency=LATENCY,
    zone_local_msg_count=1,
    region_local_msg_count=2,
    global_msg_count=3,
    oldest_unfinished_ms=5_000,
    damaged_count=1,
    limits={"max_depth": 9, "max_age": "1h0m0s", "policy": "drop_oldest", "retain": ["1h"]},
    dropped_by_limits={"max_depth": 2},
    expired_count=1,
    rejected={"max_bytes": 4},
    idle={"idle_ms": 5, "ttl_ms": 9, "action": "delete", "alarm": False},
)
REAL_STATS = {
    "version": "1.4.0",
    "health": "OK",
    "start_time": 1_790_000_000,
    "topics": [
        topic(
            "t",
            {**CHANNEL, "clients": [CLIENT, CLIENT]},
            depth=5,
            message_count=9,
            e2e_processing_latency=LATENCY,
        ),
        topic("good", channel("c", e2e_processing_latency=LATENCY), paused=True),
        topic("u#ephemeral"),
    ],
    "durability": "os",
    "copies": {
        "wanted": 3,
        "in_step": 2,
        "followers": [
            {
                "address": "10.0.0.2:4159",
                "in_step": False,
                "state": "not connected",
                "lag": 7,
                "sent_bytes": 4096,
                "troubles": {"topic-t": "it has more than its leader"},
            }
        ],
        "held": [
            {
                "life": "0123456789abcdef0123456789abcdef",
                "name": "other:4150",
                "complete": True,
                "connected": False,
                "bytes": 4096,
                "silent_seconds": 7.5,
                "adopted": False,
                "stand_in_port": 4170,
            }
        ],
    },
    "draining": {
        "since": 1_790_000_000,
        "messages_left": 4,
        "stuck": [{"topic": "t", "channel": "c", "messages": 4, "reason": "paused"}],
    },
}
REAL: dict[str, Any] = {
    "/stats": REAL_STATS,
    "/info": {
        "broadcast_address": "bad",
        "http_port": 4151,
        "tcp_port": 4150,
        "hostname": "bad",
        "version": "1.4.0",
    },
    "/nodes": {"producers": [node(BAD[0], "t", "good"), node("other:4151", "t")]},
    "/lookup": {"channels": ["c"], "producers": [node(BAD[0])]},
    "/topics": {"topics": ["t", "good", "only-registered"]},
    "/channels": {"channels": ["c", "d"]},
}


def check_topic(stats: TopicStats) -> None:
    """What is shown is made of what was checked, and of nothing else."""
    channels = stats.channels or []
    names = [each.channel_name for each in channels]
    assert len(names) == len(set(names))
    assert all(is_valid_name(each) for each in (stats.topic_name, *names))
    for each in (stats, *channels):
        assert abs(each.depth) + abs(each.message_count) < 2**67
        assert all(
            math.isfinite(number)
            for percentile in each.e2e_processing_latency.percentiles or ()
            for number in (percentile.quantile, percentile.average, percentile.min, percentile.max)
        )
        assert all(part.nodes is None for part in each.nodes or ())
    assert all(each.clients is None for each in channels)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key occurs twice"
    return dict(pairs)


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


@attrs.define
class Siege:
    """A console with a good and a bad registry, and a good and a bad nsqd."""

    stage: Stage
    site: Site
    alarms: AlarmWatch
    caplog: pytest.LogCaptureFixture

    @classmethod
    def of(cls, stage: Stage, caplog: pytest.LogCaptureFixture) -> Siege:
        upstream, poller = stage.upstream, stage.poller
        upstream.registry(REGISTRY, [node(ONE, "good"), *(node(each, "t") for each in BAD)])
        upstream.responses[REGISTRY] |= {
            "/lookup": {"channels": [], "producers": [node(each) for each in (ONE, *BAD)]},
            "/channels": {"channels": ["c"]},
        }
        upstream.nsqd(ONE, topic("good", channel("c", depth=3)))
        for address in (*BAD, OTHER_REGISTRY):
            upstream.responses[address] = dict(REAL)
        queries, alarms = ClusterQueries(upstream.options, upstream), AlarmWatch(poller)
        console = Console(
            options=upstream.options,
            poller=poller,
            consumers=stage.consumers,
            history=poller.history,
            queries=queries,
            actions=Actions(queries),
            alarms=alarms,
        )
        return cls(stage, Site(console, Notifier(upstream)), alarms, caplog)

    def answer(self, address: str, answers: Mapping[str, Any]) -> None:
        """Change what a daemon says."""
        self.stage.upstream.responses[address] |= answers

    async def poll(self) -> None:
        """A poll ends with a new snapshot, in which the good nsqd is as it is."""
        snapshot = await self.stage.round(5)
        assert snapshot.at == self.stage.poller.clock()
        await self.alarms.examine(snapshot)
        assert {each.address for each in snapshot.problems} <= {*BAD, OTHER_REGISTRY, "other:4151"} | {
            each for each in snapshot.nodes if each != ONE
        }
        for shown in snapshot.topics.values():
            check_topic(shown.stats)
            for each in shown.stats.nodes or ():
                check_topic(each)
        good = snapshot.nodes[ONE]
        assert good.problem is None
        assert good.topics["good"].channels is not None
        assert good.topics["good"].channels[0].depth == 3
        assert good.in_rate is not None or self.stage.upstream.requests[f"{ONE}/stats"] < 2
        assert [each.getMessage() for each in self.caplog.records if each.exc_info] == []

    async def browse(self) -> None:
        """Every page is a page."""
        for path in PAGES:
            response = await ask(self.site, "GET", path.encode())
            assert response.status in (200, 404), (path, response)
            response.body.decode()
            if path.startswith("/series"):
                json.loads(response.body, parse_constant=refuse, object_pairs_hook=unique)
        assert b"good" in (await ask(self.site, "GET", b"/nodes")).body

    async def read(self) -> None:
        """Every response of the API is JSON, and that of the good topic has its figures."""
        for path in READS:
            response = await ask(self.site, "GET", path.encode())
            value = json.loads(response.body, parse_constant=refuse, object_pairs_hook=unique)
            if response.status != 200:
                assert path in ("/api/topics/t", "/api/topics/t/c", f"/api/nodes/{BAD[0]}"), (path, response)
                assert list(value) == ["message"]
            if path == "/api/topics/good":
                [part] = [each for each in value["nodes"] if each["node"] == ONE]
                assert part["channels"][0]["depth"] == 3

    async def act(self) -> None:
        """Every action is done where it can be done."""
        for method, path, values in CHANGES:
            body = json.dumps(values).encode()
            response = await ask(self.site, method, path.encode(), body=body)
            assert response.status in (200, 404, 502), (path, response)
            assert list(json.loads(response.body)) == ["message"]


async def besiege(siege: Siege, hostile: Hostile, responses: int) -> None:
    """Replace so many responses of the bad daemons by hostile ones."""
    await siege.poll()
    for number in range(responses // (len(BAD) + 1)):
        for address in BAD:
            siege.answer(address, {"/stats": hostile.of(REAL["/stats"])})
        path = ("/nodes", "/topics", "/lookup", "/channels", "/info")[number % 5]
        siege.answer(BAD[1] if path == "/info" else OTHER_REGISTRY, {path: hostile.of(REAL[path])})
        await siege.poll()
        if number % 4 == 0:
            await siege.browse()
            await siege.read()
        if number % 16 == 0:
            await siege.act()
        if number % 5 == 0:  # what was right before is kept, and merged with what is wrong now
            for address in (*BAD, OTHER_REGISTRY):
                siege.answer(address, REAL)


@pytest.mark.parametrize(
    "options", [registries(REGISTRY, OTHER_REGISTRY), nsqds(ONE, *BAD)], ids=["registries", "nsqds"]
)
@pytest.mark.parametrize(
    ("responses", "seed"),
    [(SOME, 1), pytest.param(ALL, 2, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])],
)
async def test_hostile_responses(
    options: dict[str, list[str]],
    responses: int,
    seed: int,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with polling(**options) as stage:
        stage.nursery.start_soon(stage.consumers.run)
        await besiege(Siege.of(stage, caplog), Hostile(seed), responses)
