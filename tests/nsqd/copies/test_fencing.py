"""`--fence=on`: a leader that is cut off delivers nothing and takes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from nsqd.broker import Refused
from nsqd.copies.fencing import CLOSED, Fencing
from tests.nsqd.copies.setting import FOLLOWER, Setting

PATIENCE = 30.0  # half of --adopt-after
FOLLOWER_ADDRESS = FOLLOWER.partition("=")[2]


def fencing_of(setting: Setting) -> Fencing:
    fencing = setting.leader.fencing
    assert fencing is not None
    return fencing


async def test_r6_what_is_cut_off_delivers_nothing_and_takes_nothing(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    setting = Setting(tmp_path, FOLLOWER, "--fence=on")
    nsqd, rounds, fencing = setting.nsqd, setting.rounds, fencing_of(setting)
    nsqd.now = trio.current_time()
    with pytest.raises(Refused, match="cut off"):  # it has heard of nobody yet
        setting.broker.topic_to_publish("t")
    fencing.heard_follower(FOLLOWER_ADDRESS, trio.current_time(), [FOLLOWER_ADDRESS])
    nsqd.create()
    nsqd.publish_many(3)
    mock_clock.jump(PATIENCE + 1)
    with rounds.round():
        pass
    consumer = nsqd.subscribe("c", rdy=1)

    def received() -> list[bytes]:
        nsqd.now = trio.current_time()
        nsqd.round()  # as the socket takes it
        return consumer.bodies()

    assert received() == []
    assert setting.broker.health == f"NOK - {CLOSED}"
    with pytest.raises(Refused, match="cut off"):
        setting.broker.topic_to_publish("t")
    assert not rounds.more  # no round after the other while it is closed
    fencing.heard_follower(FOLLOWER_ADDRESS, trio.current_time(), [FOLLOWER_ADDRESS])
    assert received() == [b"m0"]
    assert setting.broker.health == "OK"
    setting.broker.topic_to_publish("t")
    mock_clock.jump(PATIENCE + 1)
    # As after a SIGCONT: the consumer's FIN is the first that happens.
    rounds.begin()
    nsqd.finish(consumer)
    rounds.end()
    assert received() == []
    fencing.heard_registry("r0", False, trio.current_time())
    assert received() == []
    fencing.heard_follower(FOLLOWER_ADDRESS, trio.current_time(), [FOLLOWER_ADDRESS])
    assert received() == [b"m1"]


async def test_registries_that_know_of_an_adoption_do_not_open_it(tmp_path: Path) -> None:
    registries = [f"--lookupd-tcp-address=127.0.0.1:{port}" for port in (1, 2, 3)]
    setting = Setting(tmp_path, FOLLOWER, "--fence=on", *registries)
    fencing = fencing_of(setting)
    for address, adopted in (("r0", False), ("r1", True), ("r2", False)):
        with setting.rounds.round():
            pass
        assert setting.broker.context.refusal_for("fence")
        fencing.heard_registry(address, adopted, trio.current_time())
    assert setting.broker.context.refusal_for("fence") is None
    fencing.heard_registry("r2", True, trio.current_time())
    assert setting.broker.context.refusal_for("fence")


async def test_r6_an_answer_to_what_was_sent_before_a_stop_does_not_open_it(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """It has waited in the socket; somebody may have adopted the copy since."""
    setting = Setting(tmp_path, FOLLOWER, "--fence=on")
    fencing, asked_at = fencing_of(setting), trio.current_time()
    fencing.heard_follower(FOLLOWER_ADDRESS, asked_at, [FOLLOWER_ADDRESS])
    assert setting.broker.context.refusal_for("fence") is None
    mock_clock.jump(PATIENCE + 1)
    fencing.heard_follower(FOLLOWER_ADDRESS, asked_at + 0.5, [FOLLOWER_ADDRESS])
    assert setting.broker.context.refusal_for("fence")


def test_without_the_option_there_is_none(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    assert setting.leader.fencing is None
    assert setting.rounds.at_begin is None


@pytest.mark.parametrize("fence", ["on", "off"])
async def test_r6_a_start_that_could_not_be_noted_serves_only_without_a_fence(
    tmp_path: Path, fence: str
) -> None:
    """The disk was full: no follower and no registry can be asked whether the copy was adopted."""
    setting = Setting(tmp_path, FOLLOWER, f"--fence={fence}", noted_start=False)
    nsqd = setting.nsqd
    nsqd.create()
    consumer = nsqd.subscribe("c", rdy=1)
    if fence == "off":
        assert nsqd.publish(b"message").acknowledged
        nsqd.round()
        assert consumer.bodies() == [b"message"]
        return
    with pytest.raises(Refused, match="could not be noted"):
        setting.broker.topic_to_publish("t")
    assert setting.broker.health.startswith("NOK - the disk was full at the start")
