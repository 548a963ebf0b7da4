"""The walls of the house: who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PROGRAMS = ("nsqd", "nsqlookupd", "nsqadmin", "nsqtools")
WAITING = {"trio", "asyncio", "socket", "select", "selectors", "httpx", "threading"}


def imports_of(path: Path) -> set[str]:
    """Names of all modules that it imports, for types too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def files_in(*places: str) -> Iterator[Path]:
    for place in places:
        path = PROJECT / place
        found = [path] if path.is_file() else sorted(path.rglob("*.py"))
        assert found, f"{place} is not there any more"
        yield from found


def breaches(files: Iterator[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in files
        for name in sorted(imports_of(path))
        if any(name == wall or name.startswith(f"{wall}.") for wall in forbidden)
    ]


def test_the_core_waits_for_nothing() -> None:
    """Topics and channels know no event loop, no socket, and nobody above them."""
    above = [f"nsqd.{name}" for name in ("protocol_v2", "http", "lookup", "metrics", "rounds", "daemon")]
    assert not breaches(files_in("nsqd/broker"), *WAITING, *above)


def test_the_log_knows_files_only() -> None:
    above = [f"nsqd.{name}" for name in ("broker", "protocol_v2", "http", "lookup", "rounds", "daemon")]
    assert not breaches(files_in("nsqd/log"), *WAITING - {"threading"}, *above)


def test_a_session_has_no_event_loop() -> None:
    """Of the protocol only the connections have sockets, and only their loop knows trio."""
    sessions = ("session", "commands", "framing", "identify", "authorization", "context", "layers")
    files = files_in(*(f"nsqd/protocol_v2/{name}.py" for name in sessions))
    assert not breaches(files, *WAITING, "nsqd.rounds", "nsqd.http", "nsqd.daemon")
    with_sockets = files_in("nsqd/protocol_v2/connection.py", "nsqd/protocol_v2/output.py")
    assert not breaches(with_sockets, "trio", "asyncio")


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_do_not_know_one_another(program: str) -> None:
    assert not breaches(files_in(program), *(other for other in PROGRAMS if other != program))


def test_what_is_shared_knows_no_program() -> None:
    assert not breaches(files_in("shared/nsqkit"), *PROGRAMS, "tests", "bench")
