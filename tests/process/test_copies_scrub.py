"""Bytes that a disk has changed, on either side or on both: what a scrub makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.process.copies import in_step, received, the_copy
from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

FOLDER = "topic-orders"
BODIES = [b"<%d>" % number + bytes(20_000) for number in range(30)]


def segments(data_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((data_path / FOLDER).glob("*.log"))}


def flip(data_path: Path, name: str, offset: int) -> None:
    with (data_path / FOLDER / name).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def scrub(leader: Daemon) -> dict[str, Any]:
    """The figures of the last pass."""
    return dict(leader.stats()["copies"]["scrub"])


def scrub_now(leader: Daemon) -> dict[str, Any]:
    """As `scrub`, of a pass that begins now."""
    passes = scrub(leader)["passes"]
    status, body = leader.request("POST", "/replicas/scrub")
    assert (status, body) == (200, b"")
    wait_until(lambda: scrub(leader)["passes"] > passes, 20.0, "a pass", describe=leader.log_end)
    return scrub(leader)


def test_what_a_disk_has_changed_is_mended_from_the_other_side(leader: Daemon, follower: Daemon) -> None:
    leader.flags = (*leader.flags, "--max-bytes-per-file=65536")
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the copy is in step", describe=leader.log_end)
    with RawClient.connect(leader.tcp_port) as client:
        for body in BODIES:
            client.pub("orders", body)
    before, copy = segments(leader.data_path), the_copy(follower)
    assert segments(copy) == before
    here, there, both, header, *_, _last = before
    flip(leader.data_path, here, 10_000)
    flip(copy, there, 10_000)
    flip(copy, header, 12)
    lost = BODIES.index(next(body for body in BODIES if body[:4] in before[both]))
    for data_path in (leader.data_path, copy):
        flip(data_path, both, before[both].index(BODIES[lost]) + 100)

    found = scrub_now(leader)
    assert (found["mended"], found["mended_there"]) == (1, 3)
    assert list(found["unmended"]) == [f"{FOLDER}/{both}"]
    log = leader.log_end()
    assert f"of {FOLDER}/{here} were damaged here, and are mended from its copy" in log
    assert f"of its copy of {FOLDER}/{there} are damaged, and sent again" in log
    assert f"{FOLDER}/{both} is damaged here and at " in log
    wait_until(lambda: segments(copy) == segments(leader.data_path), 10.0, "the copy is mended")
    after = segments(leader.data_path)
    assert {name: data for name, data in after.items() if name != both} == {
        name: data for name, data in before.items() if name != both
    }
    assert in_step(leader)
    assert "out of step" not in leader.log_end()

    assert leader.terminate() == 0
    leader.start()
    assert list(scrub(leader)["unmended"]) == [f"{FOLDER}/{both}"]
    bodies = [*BODIES[:lost], *BODIES[lost + 1 :]]
    assert received(leader.tcp_port, "orders", "audit", len(bodies)) == bodies


def test_a_pass_that_is_asked_for_needs_a_follower(leader: Daemon, follower: Daemon) -> None:
    leader.start()
    status, body = leader.request("POST", "/replicas/scrub")
    assert (status, b"no follower is in step" in body) == (409, True)
    follower.start()
    assert follower.request("POST", "/replicas/scrub")[0] == 404
    wait_until(lambda: in_step(leader), 10.0, "the copy is in step", describe=leader.log_end)
    assert scrub_now(leader)["total_bytes"] == 0
