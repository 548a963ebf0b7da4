"""The environment of browser tests: three nsqds, two registries, traffic, a console, and a browser.

    with Scene(tmp_path) as scene, scene.browser() as browser:
        page = browser.new_page()
        page.goto(scene.url("/topics"))

Playwright drives Debian's Chromium (or the one in CHROMIUM), with its background traffic disabled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import attrs
from playwright.sync_api import Browser, sync_playwright

from tests.browser.admin import AdminDaemon
from tests.browser.traffic import CHANNELS, FORGOTTEN, TOPICS
from tests.cluster.cluster import Cluster

__all__ = ["Scene", "find_chromium"]

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
]
NSQD_FLAGS = [
    "--topology-region=eu",
    "--topology-zone=eu-1a",
    "--enable-experiment=topology-aware-consumption",
    "--e2e-processing-latency-percentile=0.99,0.5",
]
REGISTRY_ONLY = ("imports-2024", "nightly")
"""A topic with a channel that only the registries know."""


def find_chromium() -> str | None:
    """Give the path of a Chromium; None when there is none."""
    named = os.environ.get("CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser")


@attrs.define(eq=False)
class Scene:
    """Started at the begin of a `with` block, and stopped at its end."""

    path: Path
    console_flags: Sequence[str] = ("--poll-interval=1s",)
    cluster: Cluster = attrs.field(init=False)
    console: AdminDaemon = attrs.field(init=False)
    _stack: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)

    def __enter__(self) -> Scene:
        """Start everything."""
        with contextlib.ExitStack() as stack:
            flags = [*NSQD_FLAGS, f"--audit-file={self.path / 'audit-of-nsqds'}"]
            self.cluster = stack.enter_context(Cluster(self.path, nsqd_flags=flags))
            self.cluster.start()
            self._set_up_topics()
            stack.enter_context(_traffic([each.tcp_address for each in self.cluster.nsqds]))
            self.console = self.start_console()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.console.kill()
        self._stack.close()

    def url(self, path: str = "/") -> str:
        """Give the address of a page of the console."""
        return self.console.url + path

    def start_console(self, *flags: str) -> AdminDaemon:
        """Start a further console for the same cluster; the caller stops it."""
        known = [f"--lookupd-http-address={each}" for each in self.cluster.lookupd_http_addresses]
        audit = f"--audit-file={self.path / 'audit-of-consoles'}"
        console = AdminDaemon(flags=[*known, audit, *self.console_flags, *flags])
        console.start()
        return console

    @staticmethod
    @contextlib.contextmanager
    def browser() -> Iterator[Browser]:
        """Start a Chromium without a window."""
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
            try:
                yield browser
            finally:
                browser.close()

    def _set_up_topics(self) -> None:
        """Create channels before any traffic: a topic's first channel would get all earlier messages."""
        self.cluster.wait_known(self.cluster.nsqds, within_s=5.0)
        for topic in TOPICS:
            for load in CHANNELS:
                if load.topic == topic and not load.channel.endswith("#ephemeral"):
                    self.cluster.create_channel(topic, load.channel)
        self.cluster.create_channel(*FORGOTTEN)
        topic, channel = REGISTRY_ONLY
        for registry in self.cluster.registries:
            for target in (
                f"/topic/create?topic={topic}",
                f"/channel/create?topic={topic}&channel={channel}",
            ):
                status, body = registry.request("POST", target)
                assert status == 200, (target, status, body)


@contextlib.contextmanager
def _traffic(addresses: Sequence[str]) -> Iterator[None]:
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    command = [*guard, sys.executable, "-m", "tests.browser.traffic", *addresses]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
