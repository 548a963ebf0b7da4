"""A machine with a real systemd, booted in a container, for a test to install things on.

    with Machine.booted() as machine:
        machine.run("make", "-C", "/src", "install")
        machine.systemctl("start", "nsqd")
        with machine.network():
            client = RawClient.connect(4150)

The project is at `/src` and cannot be written, what pip needs is at `/wheels`. The machine has a network of its
own with nothing in it but itself. All that is written goes to memory and is gone with the machine, which ends
with the block, and with the process of the tests in any case.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import attrs

from tests.deploy.base import ROOT, debian_root, wheels
from tests.network.namespaces import entered
from tests.process.waiting import wait_until
from tests.timing import patience

__all__ = ["Machine"]

BOOTED_WITHIN_S = 30.0
COMMAND_S = 120.0


@attrs.define(eq=False)
class Machine:
    """A container that runs systemd. Make it with `booted`."""

    container: subprocess.Popen[bytes]
    leader: int = 0
    """Process id of its systemd, as seen from here."""

    @classmethod
    @contextlib.contextmanager
    def booted(cls) -> Iterator[Machine]:
        """Boot one; it has reached its default target."""
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--", "systemd-nspawn", "--quiet", "--boot"),
            *("--register=no", "--keep-unit", "--kill-signal=SIGRTMIN+3", "--console=read-only"),
            *("--private-network", "--volatile=overlay", f"--directory={debian_root()}"),
            *(f"--bind-ro={ROOT}:/src", f"--bind-ro={wheels()}:/wheels"),
        ]
        container = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        machine = cls(container)
        try:
            wait_until(machine._has_systemd, BOOTED_WITHIN_S, "it boots", describe=machine._output)
            machine.run("systemctl", "is-system-running", "--wait", check=False)
            yield machine
        finally:
            container.kill()
            container.wait(patience(10))
            if container.stdout is not None:
                container.stdout.close()

    # On it.

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command and give what it prints, errors included; AssertionError when it fails."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-p", "-n", "-C", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience(COMMAND_S),
            check=False,
            cwd="/",
            env={
                "PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin",
                "LANG": "C.UTF-8",
                "PIP_NO_INDEX": "1",
            }
            | {"PIP_FIND_LINKS": "/wheels"},
        )
        assert not check or done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}"
        return done.stdout

    def systemctl(self, *words: str) -> str:
        """Run systemctl; when it fails the error has the end of the journal."""
        try:
            return self.run("systemctl", *words)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal()}") from None

    def write(self, path: str, text: str) -> None:
        """Write a file, and the folders above it."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"', "sh", path, text)

    def journal(self, unit: str = "", lines: int = 60) -> str:
        """The end of the journal, of one unit or of all."""
        words = [f"--unit={unit}"] if unit else []
        return self.run("journalctl", "--no-pager", f"--lines={lines}", "--output=cat", *words, check=False)

    def property(self, unit: str, name: str) -> str:
        """What systemd says of a unit: `MainPID`, `NRestarts`, `ActiveState`, ..."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def wait_for(self, unit: str, name: str, value: str, within_s: float = 15.0) -> None:
        """Wait until a property has this value."""
        wait_until(
            lambda: self.property(unit, name) == value,
            within_s,
            f"{name} of {unit} is {value}",
            describe=lambda: f"it is {self.property(unit, name)}\n{self.journal()}",
        )

    def network(self) -> AbstractContextManager[None]:
        """Be in its network, for the calling thread."""
        return entered(self.leader)

    # Inside.

    def _has_systemd(self) -> bool:
        assert self.container.poll() is None, f"it ended\n{self._output()}"
        path = Path(f"/proc/{self.container.pid}/task/{self.container.pid}/children")
        children = path.read_text().split()
        if not children:
            time.sleep(0.05)
            return False
        self.leader = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def _output(self) -> str:
        self.container.kill()
        return self.container.communicate()[0].decode(errors="replace")[-3000:]
