"""Which package may import which, read from the source itself (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PROGRAMS = ("nsqd", "nsqlookupd", "nsqadmin", "nsqtools")
NETWORK = {"trio", "anyio", "asyncio", "socket", "select", "selectors", "ssl", "httptools", "httpx"}
WAITING = {*NETWORK, "threading"}
ALLOWED_IN_THE_CORE = {
    "nsqd/broker": {"nsqd.broker", "nsqd.log", "nsqd.rules", "nsqkit.wire", "nsqkit.logging"},
    "nsqd/log": {"nsqd.log", "nsqkit.wire"},
    "nsqd/rules": {"nsqd.rules", "nsqkit.access.scopes", "nsqkit.options", "nsqkit.wire"},
}


def imports_of(path: Path, root: Path = PROJECT) -> set[str]:
    """Full names of all modules that a file imports, for types and inside functions too."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names.add(".".join([*base, *([node.module] if node.module else [])]))
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


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
        if any(within(name, package) for package in forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden"), [("nsqd/broker", WAITING), ("nsqd/log", NETWORK), ("nsqd/rules", WAITING)]
)
def test_the_core_knows_no_network_and_no_event_loop(folder: str, forbidden: set[str]) -> None:
    assert not breaches(files_in(folder), *forbidden)


@pytest.mark.parametrize("folder", ALLOWED_IN_THE_CORE)
def test_imports_of_the_core_point_downwards(folder: str) -> None:
    """Of this project the core imports these packages only."""
    for path in files_in(folder):
        ours = {name for name in imports_of(path) if any(within(name, p) for p in (*PROGRAMS, "nsqkit"))}
        allowed = ALLOWED_IN_THE_CORE[folder]
        assert not {name for name in ours if not any(within(name, package) for package in allowed)}, path


def test_a_session_has_no_event_loop() -> None:
    """Of the protocol only the connections have sockets, and only their loop knows trio."""
    sessions = ("session", "commands", "framing", "identify", "authorization", "context", "layers")
    files = files_in(*(f"nsqd/protocol_v2/{name}.py" for name in sessions))
    assert not breaches(files, *WAITING - {"ssl"}, "nsqd.rounds", "nsqd.http", "nsqd.daemon")
    with_sockets = files_in("nsqd/protocol_v2/connection.py", "nsqd/protocol_v2/output.py")
    assert not breaches(with_sockets, "trio", "asyncio")


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_imports_another(program: str) -> None:
    assert not breaches(files_in(program), *(other for other in PROGRAMS if other != program))


def test_shared_code_imports_no_program() -> None:
    assert not breaches(files_in("shared/nsqkit"), *PROGRAMS, "tests", "bench")


def test_an_import_inside_a_function_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "nsqd" / "broker" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "def f():\n    import trio.lowlevel\n    from ..log import state\n    from socket import socket\n"
    )
    assert imports_of(path, tmp_path) == {"nsqd.log", "socket", "trio.lowlevel"}
