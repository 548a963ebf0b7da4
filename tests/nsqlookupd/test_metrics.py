"""/metrics of nsqlookupd: how much is registered, and what came in."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nsqkit.audit import AuditTrail
from nsqkit.certificates import TlsFiles
from nsqkit.tls import client_context
from nsqlookupd.http.metrics import metrics_page
from nsqlookupd.protocol_v1 import Context, Session
from nsqlookupd.registry import ProducerInfo, Registry
from nsqlookupd.traffic import Traffic
from nsqlookupd.witness import Terms, Witness
from tests.nsqkit import promtool
from tests.nsqlookupd.peer import identify
from tests.process.lookup import Announcer, LookupDaemon
from tests.process.waiting import wait_until

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def info(name: str) -> ProducerInfo:
    return ProducerInfo(
        remote_address="10.0.0.1:5000", broadcast_address=name, tcp_port=4150, http_port=4151, version="1.4.0"
    )


def parse(text: str) -> dict[tuple[str, ...], float]:
    """By the sample's name without the daemon's, and the values of its labels."""
    return {
        (sample.name.removeprefix("nsqlookupd_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_tombstones_are_counted_as_long_as_they_hide_something() -> None:
    registry = Registry(tombstone_lifetime=45)
    first, second = registry.identify(info("n1"), 0), registry.identify(info("n2"), 0)
    for producer in (first, second):
        registry.register(producer, "t")
        registry.register(producer, "u", "c")
    assert registry.tombstone_count(0) == 0
    registry.tombstone("t", "n1:4151", 0)
    registry.tombstone("u", "n1:4151", 10)
    registry.tombstone("t", "n2:4151", 20)
    registry.tombstone("t", "n2:4151", 30)
    assert registry.tombstone_count(44) == 3
    assert registry.tombstone_count(45) == 2
    registry.tombstone("u", "n1:4151", 50)
    assert registry.tombstone_count(74) == 2
    assert registry.tombstone_count(75) == 1
    registry.tombstone("t", "n2:4151", 80)
    registry.unregister(second, "t")
    assert registry.tombstone_count(80) == 1
    registry.disconnect(first)
    assert registry.tombstone_count(80) == 0
    registry.tombstone("u", "n2:4151", 80)
    registry.delete_topic("u")
    assert registry.tombstone_count(80) == 0


async def test_registrations_are_counted() -> None:
    registry = Registry(inactive_after=300, tombstone_lifetime=45)
    first, second = registry.identify(info("n1"), 0), registry.identify(info("n2"), 200)
    registry.register(first, "t", "c")
    registry.register(first, "t", "d")
    registry.register(second, "t", "c")
    registry.create_channel("u", "c")
    registry.create_topic("v")
    registry.tombstone("t", "n2:4151", 390)
    found = parse((await metrics_page(registry, 400, Traffic(), Witness(), AuditTrail())).body.decode())
    assert {name: found[name,] for name in ("topics", "channels", "registrations")} == {
        "topics": 3,
        "channels": 3,
        "registrations": 5,
    }
    assert (found["producers",], found["nodes",], found["tombstones",]) == (2, 1, 1)


async def test_lives_and_grants_are_counted() -> None:
    witness = Witness()
    leader, follower = attrs.evolve(info("n1"), life="1" * 32), attrs.evolve(info("n2"), life="2" * 32)
    member = witness.connected(leader, 0)
    terms = Terms(followers=(follower.life,), adopt_after=1.0, restart_grace=1.0)
    witness.announce(member, terms, 0)
    asking = witness.connected(follower, 0)
    witness.grant(asking, leader.life, 0.5)
    witness.grant(asking, leader.life, 1)
    found = parse((await metrics_page(Registry(), 1, Traffic(), witness, AuditTrail())).body.decode())
    assert (found["lives",], found["lives_silent",]) == (2, 1)
    assert (found["grants_total", "granted"], found["grants_total", "refused"]) == (1, 1)


def test_commands_are_counted_by_name() -> None:
    context = Context(registry=Registry())
    session = Session(context, "10.0.0.1:5000")
    session.feed(b"  V1" + identify() + b"PING\nREGISTER t c\nREGISTER t d\nUNREGISTER t c\nPING\n", 0.0)
    session.feed(b"NONSENSE x\n", 0.0)
    assert context.traffic.commands == {
        "IDENTIFY": 1,
        "PING": 2,
        "REGISTER": 2,
        "UNREGISTER": 1,
        "unknown": 1,
    }


@pytest.mark.process
def test_a_real_one(lookupd: LookupDaemon) -> None:
    with Announcer.connect(lookupd.tcp_port) as nsqd:
        nsqd.identify()
        nsqd.ask(b"REGISTER t c\n")
        assert lookupd.lookup("missing") is None
        with Announcer.connect(lookupd.tcp_port):
            wait_until(
                lambda: parse(lookupd.metrics().decode())["connections",] == 2, 2.0, "both are counted"
            )
        wait_until(lambda: parse(lookupd.metrics().decode())["connections",] == 1, 2.0, "one has gone")
        found = parse(lookupd.metrics().decode())
    assert (found["producers",], found["topics",], found["connections_total",]) == (1, 1, 2)
    assert (found["commands_total", "REGISTER"], found["http_requests_total", "404"]) == (1, 1)
    assert found["http_requests_total", "200"] >= 3
    assert found["process_resident_memory_bytes",] > 1 << 20


@pytest.mark.process
@promtool.needs_promtool
def test_promtool_accepts_the_page_of_a_daemon(lookupd: LookupDaemon) -> None:
    with Announcer.connect(lookupd.tcp_port) as nsqd:
        nsqd.identify()
        promtool.check(lookupd.metrics())


async def test_every_series_is_documented() -> None:
    certificate = TlsFiles("TLS", [], client_context, cert_file="/etc/cert.pem")
    certificate.expires = 2e9
    page = await metrics_page(Registry(), 0, Traffic(), Witness(), AuditTrail(), [certificate])
    text = page.body.decode()
    assert parse(text)["certificate_expiry_timestamp_seconds", "/etc/cert.pem"] == 2e9
    names = set(re.findall(r"# TYPE (nsqlookupd_\w+)", text))
    assert names == set(re.findall(r"`(nsqlookupd_\w+)`", DOCS.read_text()))
