"""Copies in the daemon: roles that are not played, and the stop."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from nsqd.lookup.known_nodes import KnownNode
from nsqd.lookup.protocol import Heard, WitnessAnswer
from tests.nsqd.copies.setting import FOLLOWER, Setting


class NoWitnesses:
    """As without nsqlookupds."""

    def announce_followers(self, *_: object) -> None:
        pass

    def heard(self) -> list[Heard]:
        return []

    async def grants(self, _life: str) -> list[WitnessAnswer]:
        return []

    async def release(self, _life: str) -> None:
        pass


class NoNodes:
    """As without nsqlookupds."""

    async def ask(self) -> list[KnownNode] | None:
        return None


def test_without_options_nothing_is_changed(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    assert setting.storage is setting.nsqd.storage
    assert setting.durability is None
    assert setting.copies.stats() is None
    assert setting.broker.health == "OK"


async def test_a_stop_ends_the_listener_and_not_the_rest(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER, "--replication-address=127.0.0.1:0")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    setting.copies.listen_on(listeners)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.copies.run, NoWitnesses(), NoNodes())
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        assert await stream.receive_some(8) == b"nsqr\0\0\0\1"
        await setting.copies.stop(hand_over=False, drained=False)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await stream.aclose()
    setting.copies.close()
