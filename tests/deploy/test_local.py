"""`make run` and `make demo`: what a terminal shows, and in which order programs are stopped."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.base import ROOT
from tests.timing import patience

pytestmark = pytest.mark.process

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


@pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")),
    reason="needs root, unshare and ip, for a network of its own",
)
def test_demo_fills_the_console(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"run/nsqd{number}").mkdir(parents=True)
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
