"""`make run` and `make demo`: what a terminal shows, and in which order programs are stopped."""

from __future__ import annotations

import http.client
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.deploy.base import ROOT
from tests.network.namespaces import entered
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

needs_own_network = pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")),
    reason="needs root, unshare and ip, for a network of its own",
)

LOCAL = ROOT / "deploy/local.py"
PROGRAM = (
    "{name}: trap 'echo {name} stops; sleep 0.1; echo {name} stopped; exit 0' TERM; "
    "echo {name} runs; while :; do sleep 0.05; done\n"
)


def procfile(folder: Path, *lines: str) -> Path:
    path = folder / "Procfile"
    path.write_text("# a comment\n" + "".join(lines))
    return path


def in_terminal(command: list[str], folder: Path, *until: str) -> tuple[int, str]:
    """Run a command in a terminal of its own, and type Ctrl-C once it has written these: exit code and all output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvp(command[0], command)
    output, typed, deadline = b"", False, time.monotonic() + patience(30)
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            output += os.read(terminal, 65536)
        except OSError:  # the end
            break
        if not typed and all(text.encode() in output for text in until):
            os.write(terminal, b"\x03")
            typed = True
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), output.decode()


def test_interrupt_stops_the_last_first_and_looks_like_no_error(tmp_path: Path) -> None:
    path = procfile(tmp_path, *(PROGRAM.format(name=name) for name in ("one", "two", "three")))
    (tmp_path / "Makefile").write_text(f"run:\n\t@{sys.executable} {LOCAL} {path}\n")
    code, output = in_terminal(["make", "run"], tmp_path, "one runs", "two runs", "three runs")
    assert code == 0
    lines = output.partition("stopping ...")[2].split("\r\n")
    stops = [line for line in lines if line.endswith((" stops", " stopped"))]
    assert stops == [f"{name} {what}" for name in ("three", "two", "one") for what in ("stops", "stopped")]
    assert "***" not in output


def test_all_end_with_one(tmp_path: Path) -> None:
    path = procfile(tmp_path, PROGRAM.format(name="one"), "two: sleep 0.3; exit 7\n")
    done = subprocess.run(
        [sys.executable, LOCAL, path], capture_output=True, text=True, timeout=patience(30), check=False
    )
    assert done.returncode == 1
    assert "two has ended, with code 7: stopping all" in done.stdout
    assert done.stdout.endswith("one stopped\n")


CONSOLE = """
import json, time, urllib.request
end = time.monotonic() + {seconds}
shown, found = set(), []
while time.monotonic() < end:
    time.sleep(0.5)
    try:
        names = json.load(urllib.request.urlopen("http://127.0.0.1:4171/api/topics"))["topics"] or ()
        found = [json.load(urllib.request.urlopen("http://127.0.0.1:4171/api/topics/" + name)) for name in names]
    except OSError:
        continue
    shown = {{(each["topic_name"], channel["channel_name"]) for each in found for channel in each["channels"] or ()}}
    if len(shown) == 5 and all(each["message_count"] for each in found):
        break
print(json.dumps([sorted(shown), [each["message_count"] for each in found]]))
"""


@needs_own_network
def test_demo_fills_the_console(tmp_path: Path) -> None:
    make_folders(tmp_path)
    script = (
        f"ip link set lo up; {sys.executable} {LOCAL} {ROOT}/deploy/Procfile {ROOT}/deploy/Procfile.demo >log 2>&1 & "
        f"{sys.executable} -c '{CONSOLE.format(seconds=patience(30))}'; kill $!; wait $!"
    ).replace("deploy/demo.py", f"{ROOT}/deploy/demo.py")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    done = subprocess.run(
        ["unshare", "--net", "--", "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=patience(90),
        check=False,
    )
    log = (tmp_path / "log").read_text()
    assert done.stdout, done.stderr + log[-3000:]
    shown, counts = json.loads(done.stdout)
    assert [tuple(each) for each in shown] == [
        ("clicks", "archive"),
        ("clicks", "counting"),
        ("mails", "smtp"),
        ("orders", "billing"),
        ("orders", "warehouse"),
    ], log[-3000:]
    assert all(counts)
    assert " ERROR: " not in log


@attrs.define(eq=False)
class Nodes:
    """All programs of `deploy/Procfile`, in a network of their own."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Nodes]:
        """They end with the block, however it ends."""
        make_folders(folder)
        log = folder / "log"
        script = f"ip link set lo up; exec {sys.executable} {LOCAL} {ROOT}/deploy/Procfile"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["unshare", "--net", "--", "sh", "-c", script],
                cwd=folder,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        nodes = cls(process, log)
        try:
            wait_until(nodes.has_own_network, 10.0, "a network of its own")
            wait_until(nodes.are_well, 20.0, "all are well", describe=log.read_text)
            yield nodes
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(patience(30))

    def has_own_network(self) -> bool:
        return os.readlink(f"/proc/{self.process.pid}/ns/net") != os.readlink("/proc/self/ns/net")

    def are_well(self) -> bool:
        """Each nsqd has a copy in step, too."""
        return all(self.ask("GET", port, "/ping") == b"OK" for port in (4161, 4261, 4151, 4251, 4351))

    def ask(self, method: str, port: int, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer; empty when none comes."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience(10))
        with entered(self.process.pid):
            try:
                connection.request(method, path, body)
                return connection.getresponse().read()
            except OSError:
                return b""
            finally:
                connection.close()

    def held(self, port: int) -> list[dict[str, Any]]:
        """The copies that an nsqd holds; `port`: HTTP."""
        found: list[dict[str, Any]] = json.loads(self.ask("GET", port, "/replicas"))["held"]
        return found

    def kill(self, words: str) -> None:
        """The program with these words in its command line."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children}
        [pid] = [pid for pid, line in lines.items() if words in line]
        os.kill(int(pid), signal.SIGKILL)


def make_folders(folder: Path) -> None:
    """As `make run` does."""
    for number in (1, 2, 3):
        (folder / f"run/nsqd{number}").mkdir(parents=True, exist_ok=True)


@needs_own_network
def test_messages_of_a_lost_nsqd_are_served_by_the_next_one(tmp_path: Path) -> None:
    with Nodes.started(tmp_path) as nodes:
        [copy] = nodes.held(4251)
        assert nodes.ask("POST", 4151, "/pub?topic=greetings", b"hello") == b"OK"
        nodes.kill("--data-path=run/nsqd1 ")
        assert nodes.process.wait(patience(30)) == 1, "all end with one"
    shutil.rmtree(tmp_path / "run/nsqd1")
    with Nodes.started(tmp_path) as nodes:
        nodes.ask("POST", 4251, f"/replicas/adopt?life={copy['life']}")

        def producers() -> list[int]:
            found = json.loads(nodes.ask("GET", 4161, "/lookup?topic=greetings"))
            return [each["tcp_port"] for each in found.get("producers", [])]

        wait_until(lambda: producers() == [4280], 20.0, "it is registered", describe=nodes.log.read_text)
        with entered(nodes.process.pid), RawClient.connect(4280) as client:
            client.sub("greetings", "people")
            client.rdy(1)
            message = client.message()
            assert message.body == b"hello"
            client.fin(message.id)
        wait_until(lambda: producers() == [], 20.0, "it is gone", describe=nodes.log.read_text)
    assert nodes.process.returncode == 0
    assert " ERROR: " not in nodes.log.read_text()
