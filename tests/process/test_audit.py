"""The audit trail of real daemons: renamed by logrotate, on a full disk, required, and read by the console."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.nsqadmin.admin import AdminDaemon
from tests.nsqkit.audit.reading import lines_in, wait_for_lines
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.test_tokens import TokenStore
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process


def make_daemon(folder: Path, *flags: str) -> Daemon:
    (folder / "data").mkdir()
    return Daemon(
        folder / "data", [f"--audit-file={folder / 'audit'}", f"--broadcast-address={HOST}", *flags]
    )


def change(daemon: Daemon, name: str) -> int:
    """The status of the answer to a change with this name."""
    return daemon.request("POST", f"/topic/create?topic={name}")[0]


def topics(lines: list[dict[str, Any]]) -> list[str]:
    return [line["on"]["topic"] for line in lines]


def test_a_file_that_is_renamed_is_left_alone(tmp_path: Path) -> None:
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    with make_daemon(tmp_path) as daemon:
        daemon.start()
        assert change(daemon, "a") == 200
        assert topics(wait_for_lines(path, 1)) == ["a"]
        path.rename(old)
        assert change(daemon, "b") == 200
        assert topics(wait_for_lines(path, 1)) == ["b"]
        # With a signal the old file is let go at once, so that its space is free when it is removed.
        path.rename(old)
        daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        descriptors = Path(f"/proc/{daemon.process.pid}/fd")  # type: ignore[union-attr]

        def is_open() -> bool:
            return any(each.is_symlink() and each.readlink() == old for each in descriptors.iterdir())

        wait_until(lambda: not is_open(), 10, "the old file is closed")
        assert change(daemon, "c") == 200
        assert topics(wait_for_lines(path, 1)) == ["c"]
        assert daemon.terminate() == 0
    assert topics(lines_in(old)) == ["b"]
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["what"], last["node"]) == ("stop", f"{HOST}:{daemon.http_port}")


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="needs logrotate")
def test_logrotate_in_each_of_its_ways(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    rules = tmp_path / "rules"
    tmp_path.chmod(0o755)
    with make_daemon(tmp_path) as daemon:
        daemon.start()
        pid = daemon.process.pid  # type: ignore[union-attr]
        for way in ("create 0640", "nocreate", "copytruncate"):
            hang_up = "" if way == "copytruncate" else f"postrotate\nkill -HUP {pid}\nendscript\n"
            rules.write_text(f"{path} {{\nrotate 3\n{way}\n{hang_up}}}\n")
            rules.chmod(0o644)
            change(daemon, "before")
            wait_until(lambda: topics(lines_in(path))[-1:] == ["before"], 10, "the line is there")
            subprocess.run(
                ["logrotate", "--force", f"--state={tmp_path / 'state'}", str(rules)],
                check=True,
                timeout=patience(20),
            )
            change(daemon, "after")
            assert topics(wait_for_lines(path, 1)) == ["after"], way
            assert topics(lines_in(tmp_path / "audit.1"))[-1] == "before"
        assert daemon.process.poll() is None  # type: ignore[union-attr]


def test_a_full_disk_is_an_alarm_and_stops_nothing(tmp_path: Path, small_disk: Path) -> None:
    path = small_disk / "audit"
    filler = small_disk / "filler"
    with make_daemon(tmp_path, f"--audit-file={path}") as daemon:
        daemon.start()
        change(daemon, "a")
        wait_for_lines(path, 1)
        _fill(filler)
        _fill_page_of(path)
        names = [f"t{number}" for number in range(30)]
        assert [change(daemon, name) for name in names] == [200] * 30
        said = b"OK - audit file cannot be written: No space left on device"
        wait_until(
            lambda: daemon.request("GET", "/ping") == (200, said), 10, "it is said", describe=daemon.log_end
        )
        assert daemon.stats()["health"] == said.decode()
        assert b"\nnsqd_audit_failing 1\n" in daemon.metrics()
        assert daemon.request("POST", "/pub?topic=a", b"x") == (200, b"OK")
        filler.unlink()
        wait_until(lambda: daemon.request("GET", "/ping") == (200, b"OK"), 10, "it is over")
        found = topics([line for line in _whole_lines(path) if "topic" in line.get("on", {})])
        assert found == ["a", *names], "nothing is lost that found room in memory, and all is in order"
        assert sum("AUDIT: " in line for line in daemon.lines) == 2
        assert daemon.terminate() == 0


def test_a_required_file_on_a_full_disk_stops_changes_only(tmp_path: Path, small_disk: Path) -> None:
    path = small_disk / "audit"
    filler = small_disk / "filler"
    with make_daemon(tmp_path, f"--audit-file={path}", "--audit-required") as daemon:
        daemon.start()
        assert change(daemon, "a") == 200
        assert topics(lines_in(path)) == ["a"], "before the answer"
        _fill(filler)
        _fill_page_of(path)
        refused = 503, b'{"message":"AUDIT_UNAVAILABLE"}'
        wait_until(
            lambda: daemon.request("POST", "/topic/create?topic=b") == refused, 10, "changes are refused"
        )
        assert daemon.request("POST", "/topic/create?topic=c") == refused
        assert daemon.request("POST", "/pub?topic=a", b"x") == (200, b"OK")
        assert "c" not in [topic["topic_name"] for topic in daemon.stats()["topics"]]
        filler.unlink()
        wait_until(lambda: change(daemon, "d") == 200, 10, "changes are made again")
        assert topics(_whole_lines(path))[-1] == "d"


def test_a_required_file_that_cannot_be_written_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    with make_daemon(tmp_path, "--audit-required") as daemon:
        daemon.launch()
        assert daemon.wait() == 1
        assert "is required, and cannot be written: Is a directory" in daemon.log_end()


def test_a_kill_leaves_whole_lines_and_the_next_life_continues(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with make_daemon(tmp_path, "--audit-required") as daemon:
        daemon.start()
        for name in "abc":
            assert change(daemon, name) == 200
        daemon.kill()
        assert topics(lines_in(path)) == ["a", "b", "c"]
        with path.open("ab") as file:
            file.write(b'{"time":"2026')
        daemon.start()
        assert change(daemon, "d") == 200
        assert topics(_whole_lines(path)) == ["a", "b", "c", "d"]


def test_lines_go_to_stderr(tmp_path: Path) -> None:
    with make_daemon(tmp_path, "--audit-file=-") as daemon:
        daemon.start()
        assert change(daemon, "a") == 200
        wait_until(
            lambda: any('"what":"POST /topic/create"' in line for line in daemon.lines), 10, "it is there"
        )
        line = next(line for line in daemon.lines if '"what":"POST /topic/create"' in line)
        assert json.loads(line)["level"] == "AUDIT"
        assert daemon.request("GET", "/audit") == (404, b'{"message":"NO_AUDIT_FILE"}')


def test_a_change_of_the_tokens_is_recorded_and_a_signal_too(tmp_path: Path) -> None:
    tokens = TokenStore(tmp_path / "tokens")
    tokens.new("unused", "read")
    with make_daemon(tmp_path, f"--tokens-file={tokens.path}") as daemon:
        daemon.start()
        tokens.new("worker", "publish")
        wait_for_lines(tmp_path / "audit", 1)
        daemon.process.send_signal(signal.SIGUSR1)  # type: ignore[union-attr]
        assert daemon.wait() == 0
    first, second = lines_in(tmp_path / "audit")
    assert (first["what"], first["after"]) == ("tokens", {"added": ["worker"]})
    assert (second["what"], second["who"], second["means"]) == ("drain", "SIGUSR1", "signal")


def test_the_console_shows_what_all_daemons_have_recorded(tmp_path: Path) -> None:
    """One action: who did it is in the trail of the console, and what became of it in those of the daemons."""
    with LookupDaemon(
        flags=[f"--audit-file={tmp_path / 'registry'}", f"--broadcast-address={HOST}"]
    ) as lookupd:
        lookupd.start()
        registry = f"--lookupd-tcp-address={HOST}:{lookupd.tcp_port}"
        with make_daemon(tmp_path, registry) as nsqd:
            nsqd.start()
            nsqd.create_channel("orders", "c")
            flags = [
                f"--lookupd-http-address={HOST}:{lookupd.http_port}",
                f"--audit-file={tmp_path / 'console'}",
            ]
            with AdminDaemon(flags=[*flags, "--poll-interval=200ms"]) as console:
                console.start()

                def found() -> list[dict[str, Any]]:
                    lines: list[dict[str, Any]] = console.api("GET", "/api/audit?topic=orders&what=delete")[
                        "lines"
                    ]
                    return lines

                wait_until(lambda: "orders" in lookupd.topics(), 10, "it is registered")
                assert console.api("DELETE", "/api/topics/orders")["message"] == ""
                wait_until(lambda: len(found()) == 3, 10, "all three are shown", describe=console.log_end)
                assert [(line["daemon"], line["what"]) for line in found()[::-1]] == [
                    ("nsqlookupd", "POST /topic/delete"),
                    ("nsqd", "POST /topic/delete"),
                    ("nsqadmin", "delete_topic"),
                ]
                assert console.terminate() == 0
    assert json.loads((tmp_path / "console").read_text().splitlines()[-1])["what"] == "stop"


def _fill(path: Path) -> None:
    """Leave no byte on the disk."""
    with path.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2


def _fill_page_of(path: Path) -> None:
    """Nor in the last block of this file, which is padded with what is no line."""
    with path.open("ab", buffering=0) as file:
        rest = -path.stat().st_size % 4096
        if rest:
            file.write(b"\n" * rest)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Those that are lines: a full disk and a crash leave parts of some."""
    found = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["what"] not in ("start", "stop") and line["result"] == "ok":
            found.append(line)
    return found
