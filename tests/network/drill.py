"""`make drill`: of five nsqds that copy to one another one is lost, one cut off and healed; what happens is printed.

Everything runs on this machine, each daemon on a host of its own made of network namespaces; nothing outside of them is
touched. It needs root. The choices are random, `--seed` repeats them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from tests.network.cluster import HostCluster, HostDaemon
from tests.network.hosts import Host, why_not
from tests.network.takeover import LATE, WATCHED, Loss, copies_of
from tests.process.copies import copy_of, in_step
from tests.process.waiting import wait_until
from tests.timing import measure

__all__ = ["Drill", "main"]

ADOPT_AFTER_S: Final = 5
LOAD_S: Final = 2.0
LONG_S: Final = 60.0  # more than anything takes here


@attrs.define
class Drill:
    """The steps, and what is said about each."""

    cluster: HostCluster
    chance: random.Random
    producer: Host
    consumer: Host
    say: Callable[[str], None]
    began: float = attrs.field(factory=time.monotonic)

    def run(self) -> None:
        self.tell(
            f"{len(self.cluster.nsqds)} nsqds, each copied to the next one; {len(self.cluster.registries)} "
            f"nsqlookupds; --ack-copies=2 --adopt=auto --adopt-after={ADOPT_AFTER_S}s"
        )
        first, second = self.chance.sample(self.cluster.nsqds, 2)
        self.machine_is_lost(first)
        self.machine_is_cut_off(second)
        self.tell("the end: nobody has given a command to adopt anything")

    def machine_is_lost(self, victim: HostDaemon) -> None:
        """Killed under load, its disk wiped; later a new machine has its name."""
        name, follower = victim.host.name, self.cluster.follower_of(victim).host.name
        loss = self.loss(victim, "lost")
        self.tell(f"publishing to {name} for {LOAD_S:g} s, and consuming from one of two channels")
        loss.load(LOAD_S)
        loss.wipe()
        self.tell(f"{name} is killed (SIGKILL), and its data path removed")
        killed = time.monotonic()
        loss.wait_adopted(LONG_S)
        self.tell(f"{follower} serves its copy: {time.monotonic() - killed:.1f} s after the kill")
        loss.publish_again()
        loss.drain()
        self.report(loss)
        victim.start()
        wait_until(lambda: in_step(victim), LONG_S, "in step")
        self.tell(f"a new {name} with an empty disk is started, and its copy is in step")

    def machine_is_cut_off(self, victim: HostDaemon) -> None:
        """It goes on running, and comes back."""
        name, follower = victim.host.name, self.cluster.follower_of(victim)
        loss = self.loss(victim, "cut")
        loss.load(LOAD_S, unplug=True)
        self.tell(f"the network cable of {name} is pulled under load, and then its power")
        loss.wait_adopted(LONG_S)
        self.tell(f"{follower.host.name} serves its copy")
        victim.start()
        self.tell(
            f"{name} is back, with its disk: it hears that it was adopted, and gives up what is served there"
        )
        loss.publish_again()
        loss.drain(victim)
        self.report(loss)
        wait_until(lambda: in_step(victim), LONG_S, "in step")
        (copy,) = [held for held in copies_of(victim, follower) if held["connected"]]
        served = copy_of(loss.life, follower).get("stand_in_port")
        self.tell(
            f"{name} goes on as another life, {copy['life'][:8]}, whose copy is in step; "
            f"{'the stand-in is still there' if served else 'the stand-in was empty, and is gone'}"
        )

    def loss(self, victim: HostDaemon, topic: str) -> Loss:
        return Loss.of(self.cluster, victim, self.producer, self.consumer, topic, self.chance)

    def report(self, loss: Loss) -> None:
        """Raises when a message was lost."""
        counts = loss.check()
        acknowledged = counts.pop("acknowledged")
        again = ", ".join(f"{count} {cause}" for cause, count in sorted(counts.items()) if count) or "none"
        self.tell(
            f"{acknowledged} messages were acknowledged; all of them came on both channels ({WATCHED}, {LATE}): "
            f"0 are lost. Came twice: {again}"
        )

    def tell(self, what: str) -> None:
        self.say(f"{time.monotonic() - self.began:6.1f} s  {what}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make drill", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 31), help="repeat the choices of a run"
    )
    seed: int = parser.parse_args().seed
    if reason := why_not():
        print(f"drill: it needs network namespaces: {reason}", file=sys.stderr)
        return 1
    measure()
    logging.disable(logging.CRITICAL)
    print(f"drill with --seed={seed}; a minute or two", flush=True)
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nsq-drill-")))
        settings = {"ack_copies": 2, "replica_timeout": "2s", "adopt": "auto"}
        cluster = stack.enter_context(
            HostCluster.started(
                path, ring=True, nsqds=5, registries=3, adopt_after=f"{ADOPT_AFTER_S}s", **settings
            )
        )
        producer, consumer = cluster.lan.add("producer"), cluster.lan.add("consumer")
        say = lambda text: print(text, flush=True)  # noqa: E731
        Drill(cluster, random.Random(seed), producer, consumer, say).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
